// step_graphs.cpp: decode steps that are recorded and replayed, against the calls themselves.
#include <algorithm>

#include "device/ops.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/kernels.h"
#include "testing.h"
#if defined(DRIVLM_EMULATED)
#include "control.h"
#endif

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;
using drivlm::Batch;
using drivlm::DType;
using drivlm::Kv;
using drivlm::Tensor;

namespace {
// One decode step as the network makes it: a layer of appending and attending, recorded and replayed.
struct StepTest {
  StepTest() : device(make_device(0, DType::bf16)), memory(device->allocate(device->kv_bytes(shape), "test")) {}

  std::vector<float> step(const Batch& batch, Halves& qkv, bool replay) {
    drivlm::Ops& ops = device->ops();
    const Kv kv{memory->data, shape};
    const Tensor t_qkv(qkv_memory.data, DType::bf16, {batch.rows, 4 * 64}),
        t_out(out.data, DType::bf16, {batch.rows, 2 * 64});
    device->upload(t_qkv, qkv.host.data());
    ops.begin_batch(batch);
    if (!(replay && ops.replay_step(kv, 2, batch))) {
      ops.rope_append(t_qkv, {}, {}, 0, Tensor(cos_sin.data, DType::f32, {8, 64}), kv, 0, 2, batch);
      ops.attention_cached(t_out, t_qkv, kv, 0, 2, batch);
      ++made;
      if (replay) ops.end_step();
    }
    device->synchronize();
    out.download();
    return std::vector<float>(out.values.begin(), out.values.begin() + batch.rows * 2 * 64);
  }

  // Its sixth token, over a cache of zeros.
  Batch one_question() {
    cudaMemset(memory->data, 0, memory->bytes);
    Batch batch;
    batch.segments.push_back({0, 1, 5, 0});
    batch.pages = {3};
    batch.rows = 1;
    return batch;
  }

  const drivlm::KvShape shape{1, 1, 64, kPageTokens, 64};
  std::unique_ptr<drivlm::Device> device;
  std::unique_ptr<drivlm::Memory> memory;
  Halves qkv_memory{8 * 4 * 64, 1}, out{8 * 2 * 64, 1};
  Floats cos_sin{8 * 64, 1};
  int made = 0;
};
}  // namespace

TEST(replay_step) {  // a recording gives what the calls give, over growing contexts and other pages
  StepTest direct, recorded;
  direct.cos_sin.host = recorded.cos_sin.host;
  direct.cos_sin.upload();
  for (int rows : {1, 2, 8, 2}) {
    for (int past = 0; past < 200; past += 13) {
      Batch batch;
      for (int i = 0; i < rows; ++i) {
        batch.segments.push_back({i, 1, past, int64_t(batch.pages.size()), (past + i) % 8});
        for (int p = 0; p * kPageTokens <= past; ++p) batch.pages.push_back((i * 7 + p + past % 2) % 64);
      }
      batch.rows = rows;
      if (past == 0) {  // something in every place of the cache
        for (StepTest* t : {&direct, &recorded}) cudaMemset(t->memory->data, 0x3c, t->memory->bytes);
      }
      Halves qkv(rows * 4 * 64, 2);
      CHECK(direct.step(batch, qkv, false) == recorded.step(batch, qkv, true));
    }
  }
  CHECK(recorded.made < direct.made / 2);
}
TEST(replay_step_abandoned) {  // an error between the calls leaves nothing behind
  StepTest t;
  const Batch batch = t.one_question();
  const auto leave = [&] {
    t.device->ops().begin_batch(batch);
    CHECK(!t.device->ops().replay_step({t.memory->data, t.shape}, 2, batch));
    t.device->synchronize();
  };
  Halves qkv(4 * 64, 1);
  leave(), leave();  // plain ones
  const std::vector<float> first = t.step(batch, qkv, true);
  leave();  // a recording
  CHECK(t.step(batch, qkv, true) == first && t.step(batch, qkv, true) == first && t.made == 2);
}
TEST(replay_step_second) {  // the first step of a shape runs plainly, the second is recorded, the others are replayed
  StepTest t;
  const Batch batch = t.one_question();
  Halves qkv(4 * 64, 1);
  std::vector<std::vector<float>> got;
  for (int i = 0; i < 4; ++i) {
#if defined(DRIVLM_EMULATED)
    const unsigned long long before = emu::stats.graphs;
#endif
    got.push_back(t.step(batch, qkv, true));
#if defined(DRIVLM_EMULATED)
    CHECK(emu::stats.graphs - before == (i == 1));
#endif
    CHECK(t.made == std::min(i + 1, 2) && got[i] == got[0]);
  }
}
TEST(replay_step_lists) {  // lists that could not grow leave the ones that were there
  StepTest t;
  const Batch batch = t.one_question();
  Halves qkv(4 * 64, 1);
  std::vector<float> first;
  for (int i = 0; i < 3; ++i) first = t.step(batch, qkv, true);
#if defined(DRIVLM_EMULATED)
  Batch long_one = batch;
  long_one.pages.resize(100000, 3);
  emu::fail_next("cudaMalloc", cudaErrorMemoryAllocation);
  try {
    t.device->ops().begin_batch(long_one);
    fail("a list that does not fit was taken");
  } catch (const drivlm::Error& error) {
    CHECK(error.code == drivlm::Code::out_of_memory);
  }
#endif
  for (int i = 0; i < 3; ++i) CHECK(t.step(batch, qkv, true) == first);
}
TEST(replay_step_reserved) {  // what was reserved for a pass is enough for it
#if defined(DRIVLM_EMULATED)
  StepTest t;
  drivlm::Ops& ops = t.device->ops();
  const size_t small = t.device->own_bytes();
  ops.reserve({.rows = 40, .sequences = 40, .context = 1 << 20, .vocab = 151655});
  CHECK(t.device->own_bytes() > small);
  Batch batch;
  for (int i = 0; i < 8; ++i) {
    batch.segments.push_back({i, 1, 64 * 1000, int64_t(batch.pages.size())});
    batch.pages.resize(batch.pages.size() + (1 << 20) / kPageTokens, i);
  }
  batch.rows = 8;
  cudaMemset(t.memory->data, 0, t.memory->bytes);
  Halves qkv(8 * 4 * 64, 1);
  std::vector<uint32_t> allowed((151655 + 31) / 32, ~0u);
  std::vector<drivlm::SampleParams> params(40);
  for (auto& p : params) p.allowed = allowed.data();
  std::vector<drivlm::Sample> samples(40);
  Buffer<float> logits(40 * 151655);
  logits.upload();
  const unsigned long long before = emu::stats.allocations;
  t.step(batch, qkv, true);
  ops.sample(samples.data(), Tensor(logits.data, DType::f32, {40, 151655}), params.data(), 40);
  CHECK(emu::stats.allocations == before);
#endif
}
