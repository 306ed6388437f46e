// spread_head of packed/formats.h in vectors, bit for bit. Checked   test/native/cpu_attention_test.cpp, cpu_attention_int8_append.
#pragma once

#include "kernels/cpu/simd.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

// Lanes kStep apart: their sum in the lower, their difference in the upper.
template <int kStep>
DRIVLM_INLINE F meet_lanes(F v) {
  F sign;
  for (int i = 0; i < kWidth; ++i) sign[i] = i & kStep ? -1.0f : 1.0f;
#if defined(__AVX512F__)
  F other;
  if constexpr (kStep == 1) other = _mm512_permute_ps(v, 0xb1);
  if constexpr (kStep == 2) other = _mm512_permute_ps(v, 0x4e);
  if constexpr (kStep == 4) other = _mm512_shuffle_f32x4(v, v, 0xb1);
  if constexpr (kStep == 8) other = _mm512_shuffle_f32x4(v, v, 0x4e);
#elif defined(__AVX2__)
  F other;
  if constexpr (kStep == 1) other = _mm256_permute_ps(v, 0xb1);
  if constexpr (kStep == 2) other = _mm256_permute_ps(v, 0x4e);
  if constexpr (kStep == 4) other = _mm256_permute2f128_ps(v, v, 1);
#else
  const F other = __builtin_shuffle(v, kStep == 1 ? I{1, 0, 3, 2} : I{2, 3, 0, 1});
#endif
  return v * sign + other;
}

// What is left of it when halves have met: v [kDim].
template <int kDim>
__attribute__((noinline)) void spread_halves(float* v) {
  constexpr int kVectors = kDim / kWidth, kHalf = kDim / 2, kPart = kHalf & -kHalf;
  F x[kVectors];
  DRIVLM_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    x[i] = meet_lanes<2>(meet_lanes<1>(load(v + i * kWidth)));
    if constexpr (kWidth > 4) x[i] = meet_lanes<4>(x[i]);
    if constexpr (kWidth > 8 && kPart > 8) x[i] = meet_lanes<8>(x[i]);
  }
  DRIVLM_UNROLL
  for (int step = 1; step < kPart / kWidth; step *= 2) {
    DRIVLM_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      if (i & step) continue;
      const F a = x[i], b = x[i + step];
      x[i] = a + b;
      x[i + step] = a - b;
    }
  }
  const F root = splat(1.0f / __builtin_sqrtf(static_cast<float>(2 * kPart)));
  DRIVLM_UNROLL
  for (int i = 0; i < kVectors; ++i) store(v + i * kWidth, x[i] * root);
}

// dim is 16, 32 … 128.
template <int kDim = 128>
DRIVLM_INLINE void spread_halves(float* v, int64_t dim) {
  if (dim == kDim) return spread_halves<kDim>(v);
  if constexpr (kDim > 16) spread_halves<kDim - 16>(v, dim);
}

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
