// Sampling where the logits already are.

#include "device/sampling.h"
#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/reference.h"

namespace drivlm {

ReferenceOps::ReferenceOps(Device& device, int threads) : Ops(device), threads_(threads) {}

void ReferenceOps::sample(Sample* samples, Tensor logits, const SampleParams* params) {
  const int64_t vocab = logits.shape[1];
  const auto row_of = [&](int64_t row) { return logits.as<float>() + row * vocab; };
  // Sampling sorts and allocates, a greedy choice does not: only those rows go to the pool.
  for (int64_t row = 0; row < logits.shape[0]; ++row) {
    if (params[row].temperature > 0) samples[row].id = choose_row(row_of(row), vocab, params[row]);
  }
  parallel(logits.shape[0], 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      Sample& sample = samples[row];
      if (!(params[row].temperature > 0)) sample.id = choose_row(row_of(row), vocab, params[row]);
      if (sample.id < 0 || !params[row].want_logprob) continue;
      sample.logprob =
          static_cast<float>(row_of(row)[sample.id] - log_sum_exp(row_of(row), sampled_ids(vocab, params[row])));
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
