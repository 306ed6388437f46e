// The network alone, without engine, addon or Node: each dump named on the command line is loaded and run in f32 on the plain CPU ops, and
// every stage, loss and gradient that the dump has is compared. Links network, train and the CPU backend, nothing else.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <exception>

#include "check.h"
#include "device/arena.h"
#include "dump.h"
#include "kernels/cpu/cpu_device.h"
#include "network/decoder.h"
#include "network/vision.h"
#include "training.h"

namespace drivlm::test {

namespace {

constexpr int64_t kPageTokens = 64, kMaxRows = 100;  // fewer than a prompt with pictures has: it is prefilled in chunks
constexpr int64_t kLogitRows = 8;
constexpr int kThreads = 2;

Tally tally;

void report(const std::string& what, double error, double bound) {
  const bool ok = error <= bound;
  tally.count(ok);
  if (!ok) std::printf("FAIL %-40s error %g, bound %g\n", what.c_str(), error, bound);
}

// Bounds of the goldens in f32: logits by their largest difference; other values by rtol 1e-4 and atol 2e-5, the absolute part grown with
// the tensor's own size.
void compare(const std::string& what, const float* found, const float* expected, int64_t count, bool logits) {
  double largest = 0, relative = 0, square = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double difference = std::fabs(static_cast<double>(found[i]) - expected[i]);
    if (!(difference >= 0)) return report(what, INFINITY, 0);
    largest = std::max(largest, difference);
    relative = std::max(relative, difference / (2e-5 + 1e-4 * std::fabs(expected[i])));
    square += static_cast<double>(expected[i]) * expected[i];
  }
  if (logits) return report(what, largest, 1e-3);
  report(what, relative / std::max(1.0, std::sqrt(square / static_cast<double>(count))), 1);
}

class Runner {
 public:
  explicit Runner(const Dump& dump)
      : dump_(dump),
        network_(dump.source.network),
        device_(DType::f32, kThreads),
        weights_(load_weights(dump.source, nullptr, device_, {}, std::atomic<bool>{false})) {}

  void run(const std::string& label) {
    for (const auto& [name, array] : dump_.arrays) {
      if (name.ends_with(".ids")) run_case(label, name.substr(0, name.size() - 4));
    }
  }

 private:
  void run_case(const std::string& label, const std::string& name) {
    const Array& ids = *dump_.find(name + ".ids");
    const Array* tiles = dump_.find(name + ".tiles");
    const int64_t tokens = ids.count(), count = tiles ? tiles->shape[0] : 0, dim = network_.language.dim;
    const std::string prefix = name + ".expect.";
    std::vector<std::string> wanted;
    for (auto it = dump_.arrays.lower_bound(prefix); it != dump_.arrays.end() && it->first.starts_with(prefix); ++it) {
      wanted.push_back(it->first.substr(prefix.size()));
    }
    Probes probes;
    Probe probe(device_, wanted, probes);

    std::vector<char> image_tokens(std::max<int64_t>(1, count * network_.vision.tile_tokens() * dim) * 4);
    const Tensor images(image_tokens.data(), DType::f32, {count * network_.vision.tile_tokens(), dim});
    if (tiles) encode(images, *tiles, probe);
    decode(ids.as<int32_t>(), tokens, images, probe);

    const auto cut = label.rfind('/');
    for (const std::string& stage : wanted) {
      const Array& expected = *dump_.find(prefix + stage);
      const std::string what = label.substr(cut == std::string::npos ? 0 : cut + 1) + " " + name + " " + stage;
      const ProbeTensor& found = probes[stage];
      std::vector<float> rows;
      if (const Array* positions = dump_.find(name + ".positions." + stage)) {
        const int64_t width = found.shape.empty() ? 0 : found.shape.back();
        for (int64_t i = 0; i < positions->count() && width > 0; ++i) {
          const auto row = found.data.begin() + positions->as<int32_t>()[i] * width;
          rows.insert(rows.end(), row, row + width);
        }
      } else {
        rows = found.data;
      }
      if (static_cast<int64_t>(rows.size()) != expected.count()) {
        report(what + " (" + std::to_string(rows.size()) + " values for " + std::to_string(expected.count()) + ")",
               INFINITY, 0);
      } else {
        compare(what, rows.data(), expected.as<float>(), expected.count(), stage == "logits");
      }
    }
  }

  void encode(Tensor images, const Array& tiles, Probe& probe) {
    Scratch scratch(device_, [&](Arena& arena) { return encoder(arena); });
    Arena arena = scratch.arena();
    VisionEncoder vision = encoder(arena);
    const int64_t each = network_.vision.tile_tokens(), size = network_.vision.tile_size;
    const Tensor all(const_cast<char*>(tiles.bytes.data()), DType::u8, {tiles.shape[0], size, size, 3});
    for (int64_t first = 0; first < tiles.shape[0]; first += vision.max_tiles()) {
      const int64_t count = std::min(vision.max_tiles(), tiles.shape[0] - first);
      vision.encode(images.rows(first * each, count * each), all.rows(first, count), &probe, [] {});
    }
  }

  void decode(const int32_t* ids, int64_t tokens, Tensor images, Probe& probe) {
    Scratch scratch(device_, [&](Arena& arena) { return decoder(tokens, arena); });
    Arena arena = scratch.arena();
    Decoder decoder = this->decoder(tokens, arena);
    const LanguageConfig& l = network_.language;
    Kv kv{nullptr, {l.layers, l.kv_heads, l.head_dim, kPageTokens, (tokens + kPageTokens - 1) / kPageTokens}};
    const auto memory = device_.allocate(device_.kv_bytes(kv.shape), "The KV cache");
    kv.data = memory->data;
    Sequence sequence;
    for (int64_t page = kv.shape.pages; page-- > 0;) sequence.pages.push_back(static_cast<int32_t>(page));
    int64_t slot = 0;
    while (sequence.length < tokens) {
      const int64_t rows = std::min(kMaxRows, tokens - sequence.length);
      Chunk chunk{&sequence, ids + sequence.length, rows, {}, decoder.rope().regime(tokens), Logits::none};
      const int64_t slots = std::count(chunk.ids, chunk.ids + rows, -1);
      if (slots > 0) chunk.image_tokens = images.rows(slot, slots);
      decoder.forward({chunk}, kv, &probe, [] {});
      slot += slots;
      sequence.length += rows;
    }
    for (const char* which : {"llm.k0", "llm.v0"}) {
      if (!probe.wants(which)) continue;
      std::vector<float> keys(l.kv_heads * tokens * l.head_dim), values(keys.size());
      device_.ops().read_kv(keys.data(), values.data(), kv, 0, sequence.pages.data(), tokens);
      probe.put(which, {l.kv_heads, tokens, l.head_dim}, which[4] == 'k' ? keys : values);
    }
  }

  VisionEncoder encoder(Arena& arena) {
    return {network_, weights_.vision, weights_.projector, device_.ops(), DType::f32, 2, arena};
  }
  Decoder decoder(int64_t context, Arena& arena) {
    return {network_.language, weights_.decoder, device_, context, kMaxRows, kLogitRows, arena};
  }

  // Memory for what `make` takes from an arena.
  class Scratch {
   public:
    template <class Make>
    Scratch(Device& device, const Make& make) {
      Arena measure;
      make(measure);
      memory_ = device.allocate(measure.used(), "The arena");
    }
    Arena arena() const { return Arena(memory_->data, memory_->bytes); }

   private:
    std::unique_ptr<Memory> memory_;
  };

  const Dump& dump_;
  const NetworkDescription& network_;
  CpuDevice device_;
  const Weights weights_;
};

}  // namespace

}  // namespace drivlm::test

int main(int argc, char** argv) {
  using namespace drivlm::test;
  for (int i = 1; i < argc; ++i) {
    try {
      const Dump dump = read_dump(argv[i]);
      dump.source.network.validate();
      const std::string path = argv[i];
      Runner(dump).run(path);
      run_training(dump, path.substr(path.rfind('/') + 1), report);
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s\n", argv[i], error.what());
      tally.count(false);
    }
  }
  return tally.exit_code("network");
}
