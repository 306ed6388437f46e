// Launchers of rates.cu.
#pragma once

#include <cuda_runtime_api.h>

namespace drivlm::gpu {

// Products of bf16 from registers alone: `blocks` blocks of kRateThreads threads, `turns` times kRateProducts products a warp.
// `sink` takes a float a block, so that nothing is optimised away.
constexpr int kRateThreads = 256, kRateProducts = 16;
void run_products(float* sink, int blocks, int turns, cudaStream_t stream);

// Floating-point operations of that.
constexpr double product_flops(int blocks, int turns) {
  return 2.0 * 16 * 8 * 16 * kRateProducts * turns * (kRateThreads / 32) * blocks;
}

}  // namespace drivlm::gpu
