// Sampling where the logits already are.

#include "device/sampling.h"
#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/reference.h"

namespace drivlm {

ReferenceOps::ReferenceOps(Device& device, int threads) : Ops(device), threads_(threads) {}

void ReferenceOps::sample(Sample* samples, Tensor logits, const SampleParams* params, int64_t count) {
  const int64_t vocab = logits.shape[1];
  const auto row_of = [&](const SampleParams& one) { return logits.as<float>() + one.row * vocab; };
  // Sampling sorts and allocates, a greedy choice does not: only those go to the pool.
  for (int64_t i = 0; i < count; ++i) {
    if (params[i].temperature > 0) samples[i].id = choose_row(row_of(params[i]), vocab, params[i]);
  }
  parallel(count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const float* row = row_of(params[i]);
      Sample& sample = samples[i];
      if (!(params[i].temperature > 0)) sample.id = choose_row(row, vocab, params[i]);
      if (sample.id < 0 || !params[i].want_logprob) continue;
      sample.logprob = static_cast<float>(row[sample.id] - log_sum_exp(row, sampled_ids(vocab, params[i])));
    }
  });
}

double ReferenceOps::log_sum_exp(const float* logits, int64_t count) const {
  return drivlm::log_sum_exp(logits, count);
}

double PackedCpuOps::log_sum_exp(const float* logits, int64_t count) const {
  return kernels_.log_sum_exp(logits, count);
}

}  // namespace drivlm
