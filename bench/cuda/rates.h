// Launchers of rates.cu.
#pragma once

#include <cuda_runtime_api.h>

namespace drivlm::gpu {

// Products of bf16, or of bytes, from registers alone: `blocks` blocks of kRateThreads threads, `turns` times kRateProducts products a
// warp. `sink` takes a float a block, so that nothing is optimised away.
constexpr int kRateThreads = 256, kRateProducts = 16;
void run_products(float* sink, bool bytes, int blocks, int turns, cudaStream_t stream);

// Operations of that: products of bytes are twice as deep.
constexpr double product_flops(bool bytes, int blocks, int turns) {
  return 2.0 * 16 * 8 * (bytes ? 32 : 16) * kRateProducts * turns * (kRateThreads / 32) * blocks;
}

}  // namespace drivlm::gpu
