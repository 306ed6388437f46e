// The rate of mma.sync: what kernels built on it could reach if nothing had to be fetched.
//
// Tiling    Eight warps a block. A warp keeps 4 A and 4 B fragments and 16 sums of its own in registers, and multiplies them round
//           after round: sixteen independent chains, more than the pipeline is deep.
// Numerics  Values are small and stay finite; their sum goes out so that the loop is not dropped.
#include "rates.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace drivlm::gpu {

namespace {

__global__ void __launch_bounds__(kRateThreads) products_kernel(float* sink, int turns) {
  SHARED_ARRAY(float, s_part, [kRateThreads / 32]);
  const int lane = threadIdx.x % 32;
  uint32_t r_a[4][4], r_b[4][2];
  float r_sum[4][4][4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Pairs of bf16 near 2^-8: the exponents stand, the mantissas differ by lane.
#pragma unroll
    for (int j = 0; j < 4; ++j) r_a[i][j] = 0x3b803b80u + uint32_t(lane * 4 + i + j);
    r_b[i][0] = 0x3b803b80u + uint32_t(lane + i), r_b[i][1] = r_b[i][0] + 1;
  }
  for (int turn = 0; turn < turns; ++turn) mma_bf16_tile(r_sum, r_a, r_b);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += r_sum[i][j][0] + r_sum[i][j][1] + r_sum[i][j][2] + r_sum[i][j][3];
  }
  sum = cuda::block_sum<kRateThreads / 32>(sum, s_part);
  if (threadIdx.x == 0) sink[blockIdx.x] = sum;
}

}  // namespace

void run_products(float* sink, int blocks, int turns, cudaStream_t stream) {
  cuda::launch(products_kernel, dim3(unsigned(blocks)), kRateThreads, 0, stream, sink, turns);
}

}  // namespace drivlm::gpu
