// What passes of the decoder cost beside the layers: rows of logits that already stand in order are not copied.
#include "network/decoder.h"
#include "device/arena.h"
#include "kernels/cpu/cpu_device.h"
#include "tiny_engine.h"

namespace drivlm::test {
namespace {

class CountingOps : public ReferenceOps {
 public:
  using ReferenceOps::ReferenceOps;
  void copy_rows(Tensor to, Tensor from) override {
    ++copies;
    ReferenceOps::copy_rows(to, from);
  }
  int copies = 0;
};

class CountingDevice : public CpuDevice {
 public:
  CountingDevice()
      : CpuDevice(DType::f32, 1, [](Device& device) { return std::make_unique<CountingOps>(device, 1); }) {}
  int& copies() { return static_cast<CountingOps&>(ops()).copies; }
};

TEST(decoder_copies_rows_of_logits_only_where_others_stand_between) {
  const TinySource tiny;
  const LanguageConfig& l = tiny.source.network.language;
  CountingDevice device;
  const Weights weights = load_weights(tiny.source, nullptr, device, {}, std::atomic<bool>{false});
  Arena measure;
  Decoder(l, weights.decoder, device, 16, 16, measure);
  const auto scratch = device.allocate(measure.used(), "The arena");
  Arena arena(scratch->data, scratch->bytes);
  Decoder decoder(l, weights.decoder, device, 16, 16, arena);
  Kv kv{nullptr, {l.layers, l.kv_heads, l.head_dim, 8, 3}};
  const auto memory = device.allocate(device.kv_bytes(kv.shape), "The KV cache");
  kv.data = memory->data;
  const Sequence sequences[] = {{{0}, 0}, {{1}, 0}, {{2}, 0}};
  const int32_t ids[] = {11, 12, 13};
  struct Part {
    int64_t rows;
    Logits logits;
  };
  // Logits of the last row of each sequence, alone and in one pass with the others.
  const auto run = [&](const std::vector<Part>& parts, int copies) {
    std::vector<Chunk> chunks;
    for (size_t i = 0; i < parts.size(); ++i)
      chunks.push_back({&sequences[i], ids, parts[i].rows, {}, kRopePerRow, parts[i].logits});
    device.copies() = 0;
    const Tensor logits = decoder.forward(chunks, kv, nullptr, [] {});
    CHECK_EQ(device.copies(), copies);
    return std::vector<float>(logits.as<float>(), logits.as<float>() + logits.count());
  };
  const std::vector<float> one = run({{1, Logits::last}}, 0), three = run({{3, Logits::all}}, 0);
  const std::vector<float> third(three.end() - l.vocab, three.end());
  CHECK(run({{3, Logits::last}}, 0) == third);
  const auto joined = [](std::vector<float> a, const std::vector<float>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  CHECK(run({{1, Logits::last}, {1, Logits::last}}, 0) == joined(one, one));  // a decode step
  CHECK(run({{3, Logits::none}, {3, Logits::last}}, 0) == third);
  CHECK(run({{1, Logits::last}, {3, Logits::all}}, 0) == joined(one, three));
  CHECK(run({{1, Logits::last}, {3, Logits::last}, {1, Logits::last}}, 2) == joined(joined(one, third), one));
}

}  // namespace
}  // namespace drivlm::test
