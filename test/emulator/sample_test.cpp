// sample.cu against device/sampling.
#include <cmath>
#include <limits>

#include "device/sampling.h"
#include "kernels/cuda/cuda_device.h"
#include "testing.h"

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;
using drivlm::DType;
using drivlm::Sample;
using drivlm::SampleParams;
using drivlm::Tensor;

namespace {

struct Rows {
  Rows(int64_t rows, int64_t vocab) : logits(size_t(rows * vocab)), rows(rows), vocab(vocab), params(rows) {
    for (int64_t r = 0; r < rows; ++r) params[r].row = r;
  }

  // The device's choices; checks them against the host's unless a choice is a close call.
  std::vector<Sample> run(bool compare = true) {
    logits.upload();
    auto device = make_device(0, DType::bf16);
    std::vector<Sample> out(params.size());
    device->ops().sample(out.data(), Tensor(logits.data, DType::f32, {rows, vocab}), params.data(),
                         int64_t(params.size()));
    for (size_t r = 0; r < params.size() && compare; ++r) {
      const Sample want = drivlm::sample_row(&logits.host[params[r].row * vocab], vocab, params[r]);
      if (out[r].id != want.id) fail(drivlm::text("choice %zu: id %d, the host chose %d", r, out[r].id, want.id));
      if (params[r].want_logprob)
        CHECK(std::fabs(out[r].logprob - want.logprob) < 1e-4f * (1 + std::fabs(want.logprob)));
    }
    return out;
  }
  void fill(float size) {
    for (float& v : logits.host) v = uniform(-size, size);
  }

  Buffer<float> logits;
  int64_t rows, vocab;
  std::vector<SampleParams> params;
};

}  // namespace

TEST(sample_greedy) {
  for (int64_t vocab : {1, 31, 609, 5000}) {
    Rows t(3, vocab);
    t.fill(5);
    for (auto& p : t.params) p.want_logprob = true;
    t.run();
  }
  Rows ties(2, 700);  // the lowest id among the largest
  for (float& v : ties.logits.host) v = -1;
  for (int id : {650, 300, 77}) ties.logits.host[id] = 4;
  ties.logits.host[700 + 5] = 0.f, ties.logits.host[700 + 3] = -0.f;
  CHECK(ties.run()[0].id == 77);
}
TEST(sample_limits) {
  Rows t(5, 1000);
  t.fill(1);
  for (int r = 0; r < 5; ++r)
    t.logits.host[r * 1000 + 990] = 9, t.logits.host[r * 1000 + 40] = 8, t.logits.host[r * 1000 + 7] = 7;
  const int32_t banned[] = {40, 123456, -1};
  std::vector<uint32_t> allowed(32, 0);
  allowed[7 / 32] |= 1u << 7;
  allowed[500 / 32] |= 1u << (500 % 32);
  t.params[1].vocab_limit = 990;
  t.params[2].vocab_limit = 990, t.params[2].banned = banned, t.params[2].banned_count = 1;
  t.params[3].allowed = allowed.data();
  t.params[4].forced = 12, t.params[4].want_logprob = true;
  const auto out = t.run();
  CHECK(out[0].id == 990 && out[1].id == 40 && out[2].id == 7 && out[3].id == 7 && out[4].id == 12);
}
TEST(sample_many_of_a_row) {  // more choices than a round trip takes, in no order of rows
  Rows t(3, 200);
  t.fill(3);
  t.params.resize(600);
  for (size_t i = 0; i < t.params.size(); ++i) {
    t.params[i].row = i % 7 % 3, t.params[i].want_logprob = true;
    t.params[i].forced = i % 5 ? int32_t(i * 13 % 200) : -1;
  }
  t.run();
}
TEST(sample_hostile) {  // NaN and infinity
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  Rows t(3, 100);
  t.fill(1);
  for (int i = 0; i < 100; i += 2) t.logits.host[i] = nan;
  t.logits.host[100 + 31] = -infinity, t.logits.host[100 + 33] = infinity;
  t.params[0].want_logprob = true;
  t.params[2].temperature = 1, t.params[2].uniform = 0.5;
  for (int i = 200; i < 300; ++i) t.logits.host[i] = i == 250 ? infinity : nan;
  const auto out = t.run(false);
  CHECK(out[0].id % 2 == 1 && std::isfinite(out[0].logprob) && out[1].id == 33 && out[2].id == 50);
  Rows none(1, 50);
  for (float& v : none.logits.host) v = nan;
  none.params[0].want_logprob = true;
  CHECK(none.run(false)[0].id == -1);
}
TEST(sample_nucleus) {
  for (int64_t vocab : {2, 97, 3000}) {
    for (float top_p : {1.f, 0.9f, 0.5f, 0.01f}) {
      Rows t(6, vocab);  // every pair of temperature and limit
      t.fill(4);
      for (int r = 0; r < 6; ++r) {
        t.params[r].temperature = r % 2 ? 0.6f : 1.5f, t.params[r].top_p = top_p, t.params[r].want_logprob = true;
        t.params[r].uniform = r == 0 ? 0 : r == 1 ? 1 - 0x1p-53 : uniform(0, 1);
        t.params[r].vocab_limit = r % 3 ? vocab : vocab - 1;
      }
      t.run();
    }
  }
}
TEST(sample_nucleus_ties) {  // equal weights are taken by rising id
  Rows t(9, 1000);
  for (float& v : t.logits.host) v = 2;
  for (int r = 0; r < 9; ++r) {
    t.params[r].temperature = 1, t.params[r].top_p = r < 5 ? 0.5f : 1.f, t.params[r].uniform = (r + 0.5) / 9;
    t.logits.host[r * 1000 + 999] = 3;
  }
  t.run();
}
