// What a warp does together, and the small device arithmetic that kernels share.
#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)

extern __shared__ __align__(128) unsigned char drivlm_dynamic_shared[];

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  return reinterpret_cast<T*>(drivlm_dynamic_shared);
}
// SHARED_ARRAY(float, s_part, [4][32]) is __shared__ float s_part[4][32], aligned for vectors.
#define SHARED_ARRAY(T, name, dims) __shared__ __align__(16) T name dims

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Weights are read once: past L1, with a prefetch of the rest of the 128 bytes.
__device__ __forceinline__ uint4 load_streaming16(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// a * b + c of bf16 pairs, rounded once. Subnormal values count.
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// (a & mask) ^ flip in one instruction. Written out, nvcc makes two of it.
template <uint32_t kMask, uint32_t kFlip>
__device__ __forceinline__ uint32_t and_xor(uint32_t a) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;\n" : "=r"(d) : "r"(a), "n"(kMask), "n"(kFlip));
  return d;
}

#else
#include "simt.h"
#endif

namespace drivlm::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) value += __shfl_xor_sync(kAllLanes, value, flip);
  return value;
}

// Sum over kWarps warps of a block. s_part holds kWarps floats; the caller's next use of it needs a barrier in between.
template <int kWarps>
__device__ __forceinline__ float block_sum(float value, float* s_part) {
  value = warp_sum(value);
  if constexpr (kWarps == 1) return value;
  if (threadIdx.x % 32 == 0) s_part[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) value += s_part[i];
  return value;
}

// ---- bf16 pairs in 32-bit words ----

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, 4);
  return bits;
}
__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ float round_bf16(float value) { return __bfloat162float(__float2bfloat16(value)); }

// The low bytes of a word's halves, which are signed, as a bf16 pair of a 64th of them. A byte with its sign flipped is value + 128, and as the
// lowest eight bits of a bf16 it stands for so many times 2^-133: up to 127 subnormal, from there on 2^-126 and its mantissa. Times 2^127 that
// is a 64th, and the 128 go with the same rounding, which has nothing to round.
constexpr float kWidenedBytes = 64;  // what sums of such pairs are to be multiplied with
__device__ __forceinline__ uint32_t widen_bytes(uint32_t halves) {
  return fma_bf16x2(and_xor<0x00ff00ffu, 0x00800080u>(halves), 0x7f007f00u, 0xc000c000u);
}

// Eight bf16 in a 16-byte vector.
__device__ __forceinline__ void unpack8(float (&values)[8], uint4 v) {
  values[0] = bf16_low(v.x), values[1] = bf16_high(v.x), values[2] = bf16_low(v.y), values[3] = bf16_high(v.y);
  values[4] = bf16_low(v.z), values[5] = bf16_high(v.z), values[6] = bf16_low(v.w), values[7] = bf16_high(v.w);
}
__device__ __forceinline__ uint4 pack8(const float (&v)[8]) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}
__device__ __forceinline__ uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
__device__ __forceinline__ void store16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }

// ---- activations ----

// x (1 + erf(x / sqrt 2)) / 2. The library's erff, which is accurate to 2 units in the last place of f32.
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.f + erff(x * 0.707106781f)); }
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }

}  // namespace drivlm::cuda
