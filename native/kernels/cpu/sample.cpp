// Sampling where the logits already are.

#include "core/sampler.h"
#include "kernels/cpu/plain.h"

namespace drivlm {

CpuOps::CpuOps(Device& device, int threads) : Ops(device), threads_(threads) {}

void CpuOps::sample(Sample* samples, Tensor logits, const SampleParams* params) {
  const int64_t vocab = logits.shape[1];
  for (int64_t row = 0; row < logits.shape[0]; ++row) {
    samples[row] = sample_row(logits.as<float>() + row * vocab, vocab, params[row]);
  }
}

}  // namespace drivlm
