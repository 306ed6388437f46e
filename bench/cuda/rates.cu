// The rates of mma.sync, of bf16 and of bytes: what kernels built on it could reach if nothing had to be fetched.
//
// Tiling    Eight warps a block. A warp keeps 4 A and 4 B fragments and 16 sums of its own in registers, and multiplies them round
//           after round: sixteen independent chains, more than the pipeline is deep.
// Numerics  Values of bf16 are small and stay finite, sums of bytes wrap around; their sum goes out so that the loop is not dropped.
#include "rates.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace drivlm::gpu {

namespace {

// A warp's registers: `first` is two values of bf16 or four bytes, and lanes differ in the lowest bits.
template <class Sum, uint32_t kFirst, class Multiply>
__device__ __forceinline__ float products(int turns, Multiply multiply) {
  const int lane = threadIdx.x % 32;
  uint32_t r_a[4][4], r_b[4][2];
  Sum r_sum[4][4][4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) r_a[i][j] = kFirst + uint32_t(lane * 4 + i + j);
    r_b[i][0] = kFirst + uint32_t(lane + i), r_b[i][1] = r_b[i][0] + 1;
  }
  for (int turn = 0; turn < turns; ++turn) multiply(r_sum, r_a, r_b);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum += float(r_sum[i][j][e]);
    }
  }
  return sum;
}

template <bool kBytes>
__global__ void __launch_bounds__(kRateThreads) products_kernel(float* sink, int turns) {
  SHARED_ARRAY(float, s_part, [kRateThreads / 32]);
  float sum;
  if constexpr (kBytes) {
    sum = products<int32_t, 0x03020301u>(turns, [](auto& d, const auto& a, const auto& b) { mma_u8s8_tile(d, a, b); });
  } else {  // near 2^-8: the exponents stand, the mantissas differ
    sum = products<float, 0x3b803b80u>(turns, [](auto& d, const auto& a, const auto& b) { mma_bf16_tile(d, a, b); });
  }
  sum = cuda::block_sum<kRateThreads / 32>(sum, s_part);
  if (threadIdx.x == 0) sink[blockIdx.x] = sum;
}

}  // namespace

void run_products(float* sink, bool bytes, int blocks, int turns, cudaStream_t stream) {
  cuda::launch(bytes ? products_kernel<true> : products_kernel<false>, dim3(unsigned(blocks)), kRateThreads, 0, stream,
               sink, turns);
}

}  // namespace drivlm::gpu
