// Rows of activations in 8 bits, as linear_int8.cu reads them: by a kernel of their own there, and on their way out of norm.cu.
//
//   q = round(x / scale + zero), 0 to 255;  scale = (most - least) / 255, zero = round(-least / scale);  least and most include 0
#pragma once

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

__device__ __forceinline__ void widen_ends(float (&ends)[2], const float (&values)[8]) {
#pragma unroll
  for (int e = 0; e < 8; ++e) ends[0] = fmaxf(ends[0], values[e]), ends[1] = fmaxf(ends[1], -values[e]);
}

struct Rounding {
  float inverse, zero;

  // Eight neighbours in the order of S8Rows: of four bytes the second and the third are exchanged.
  __device__ __forceinline__ uint2 eight(const float (&values)[8]) const {
    return make_uint2(four(values), four(values + 4));
  }
  __device__ __forceinline__ uint32_t four(const float* values) const {
    const auto byte = [&](float value) {
      return uint32_t(rintf(fminf(fmaxf(fmaf(value, inverse, zero), 0.f), 255.f)));
    };
    return byte(values[0]) | byte(values[2]) << 8 | byte(values[1]) << 16 | byte(values[3]) << 24;
  }
};

// Of a row that kWarps warps share: ends holds the most of x and of -x that this lane has seen, 0 included. s_most is nobody else's. The lane that
// `keeps` writes the row's scale.
template <int kWarps>
__device__ __forceinline__ Rounding rounding_of_row(float (&ends)[2], float (*s_most)[kWarps], InputScale* to,
                                                    bool keeps) {
#pragma unroll
  for (int end = 0; end < 2; ++end) {
#pragma unroll
    for (int flip = 16; flip > 0; flip /= 2) ends[end] = fmaxf(ends[end], __shfl_xor_sync(kAllLanes, ends[end], flip));
    if (kWarps > 1 && threadIdx.x % 32 == 0) s_most[end][threadIdx.x / 32] = ends[end];
  }
  if constexpr (kWarps > 1) {
    __syncthreads();
#pragma unroll
    for (int end = 0; end < 2; ++end) {
#pragma unroll
      for (int i = 0; i < kWarps; ++i) ends[end] = fmaxf(ends[end], s_most[end][i]);
    }
  }
  const float scale = (ends[0] + ends[1]) / 255.f, inverse = scale > 0 ? 1.f / scale : 0.f;
  const float zero = rintf(ends[1] * inverse);
  if (keeps) *to = {scale, int32_t(zero)};
  return {inverse, zero};
}

}  // namespace drivlm::cuda
