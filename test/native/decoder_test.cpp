// What passes of the decoder cost: the last layer runs for the rows that logits are asked of, rows that already stand in order are not copied, and
// rotary angles are not sent.
#include "network/decoder.h"

#include <map>

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
  void attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) override {
    attended[layer] = batch.rows;
    ReferenceOps::attention_cached(out, qkv, kv, layer, heads, batch);
  }
  int copies = 0;
  std::map<int64_t, int64_t> attended;  // rows by layer
};

class CountingDevice : public CpuDevice {
 public:
  CountingDevice()
      : CpuDevice(DType::f32, 1, [](Device& device) { return std::make_unique<CountingOps>(device, 1); }) {}
  CountingOps& counts() { return static_cast<CountingOps&>(ops()); }
  void upload(Tensor to, const void* from) override {
    ++uploads;
    CpuDevice::upload(to, from);
  }
  int uploads = 0;
};

TEST(decoder_ends_with_the_rows_that_logits_are_asked_of) {
  const TinySource tiny;
  const LanguageConfig& l = tiny.source.network.language;
  CountingDevice device;
  const Weights weights = load_weights(tiny.source, nullptr, device, {}, std::atomic<bool>{false});
  Arena measure;
  Decoder(l, weights.decoder, device, 16, 16, 16, measure);
  const auto scratch = device.allocate(measure.used(), "The arena");
  Arena arena(scratch->data, scratch->bytes);
  Decoder decoder(l, weights.decoder, device, 16, 16, 16, arena);
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
    int64_t rows = 0, wanted = 0;
    for (const Part& part : parts) {
      rows += part.rows;
      wanted += part.logits == Logits::none ? 0 : part.logits == Logits::last ? 1 : part.rows;
    }
    for (size_t i = 0; i < parts.size(); ++i)
      chunks.push_back({&sequences[i], ids, parts[i].rows, {}, kRopePerRow, parts[i].logits});
    device.counts().copies = device.uploads = 0;
    device.counts().attended.clear();
    const Tensor logits = decoder.forward(chunks, kv, nullptr, [] {});
    CHECK_EQ(device.counts().copies, copies);
    for (int64_t layer = 0; layer < l.layers; ++layer)
      CHECK_EQ(device.counts().attended[layer], layer + 1 == l.layers ? wanted : rows);
    if (wanted == 0) return std::vector<float>();
    CHECK_EQ(device.uploads, 0);
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
  CHECK(run({{3, Logits::none}, {3, Logits::none}}, 0).empty());
  // Two rows of x and of queries move to the front; of three that overlap their place one stands between.
  CHECK(run({{1, Logits::last}, {3, Logits::last}, {1, Logits::last}}, 4) == joined(joined(one, third), one));
  CHECK(run({{1, Logits::last}, {1, Logits::none}, {3, Logits::all}}, 6) == joined(one, three));
}

// Rows of the table for positions of a pass, under one regime or each its own.
TEST(rope_rows_of_other_regimes_follow_the_table) {
  constexpr int64_t kDim = 6, kOriginal = 20, kContext = 40, kRows = 8;
  RopeConfig config;
  config.theta = 100;
  config.original_max = kOriginal;
  for (const auto kind : {RopeConfig::Kind::dynamic, RopeConfig::Kind::longrope}) {
    config.kind = kind;
    config.factor = 2;
    config.short_factors = {1, 1.5, 2};
    config.long_factors = {2, 3, 4};
    config.attention_scale = kind == RopeConfig::Kind::longrope ? 1.25 : 1;
    CountingDevice device;
    std::vector<float> memory(kDim * (kOriginal + kRows) + 64);
    Arena arena(memory.data(), memory.size() * sizeof(float));
    Rope rope(config, kDim, kContext, kRows, device, arena);
    CHECK_EQ(rope.table().shape[0], kOriginal + kRows);
    const auto rows = [&](int64_t past, int64_t count, int64_t regime) {
      rope.begin_pass();
      rope.first_row(0, 1, rope.regime(kContext));  // others stand before them
      const int64_t first = rope.first_row(past, count, regime);
      rope.end_pass();
      const Tensor found = rope.table().rows(first, count);
      return std::vector<float>(found.as<float>(), found.as<float>() + found.count());
    };
    std::vector<float> apart;
    for (int64_t past = kOriginal - 2; past < kOriginal + 4; ++past) {
      const std::vector<float> one = rows(past, 1, rope.regime(past + 1));
      apart.insert(apart.end(), one.begin(), one.end());
    }
    CHECK(rows(kOriginal - 2, 6, kRopePerRow) == apart);
    CHECK(rows(kOriginal - 2, 6, rope.regime(kOriginal + 4)) != apart);
    const std::vector<float> known = rows(5, 3, 0);
    CHECK(known == rows(5, 3, kRopePerRow));
    CHECK(known != rows(5, 3, rope.regime(kContext)));
    device.uploads = 0;
    rope.begin_pass();
    CHECK_EQ(rope.first_row(5, 3, 0), int64_t{5});
    rope.end_pass();
    CHECK_EQ(device.uploads, 0);
    CHECK_ERROR(Code::internal, rope.first_row(kOriginal, 1, 0));
    CHECK_ERROR(Code::internal, rope.first_row(kOriginal, kRows + 1, kRopePerRow));
  }
}

}  // namespace
}  // namespace drivlm::test
