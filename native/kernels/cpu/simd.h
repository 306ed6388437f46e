// Vectors of the target that the including file is compiled for. Included only by the files of one target (kernels_*.cpp),
// inside whose namespace everything here lives: no inline function is shared between files compiled for different CPUs.
//
// F, I, U   kWidth floats, int32, uint32 in one register; the compiler's vector extensions do the arithmetic
// H         kWidth bf16
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
// g++ 12 takes the undefined pass-through operands of its own intrinsics for a mistake (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef DRIVLM_CPU_TARGET
#error "DRIVLM_CPU_TARGET names the target's namespace"
#endif

#define DRIVLM_INLINE inline __attribute__((always_inline))
#define DRIVLM_UNROLL _Pragma("GCC unroll 32")

// An operand of an empty asm: the compiler has the vector in a register there.
#if defined(__ARM_NEON)
#define DRIVLM_IN_REGISTER(v) "+w"(v)
#else
#define DRIVLM_IN_REGISTER(v) "+v"(v)
#endif

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float F __attribute__((vector_size(kWidth * 4)));
typedef int32_t I __attribute__((vector_size(kWidth * 4)));
typedef uint32_t U __attribute__((vector_size(kWidth * 4)));
typedef uint16_t H __attribute__((vector_size(kWidth * 2)));
typedef int16_t Shorts __attribute__((vector_size(kWidth * 4)));

typedef float UnalignedF __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint32_t UnalignedU __attribute__((vector_size(kWidth * 4), aligned(1), may_alias));
typedef uint16_t UnalignedH __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

DRIVLM_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
DRIVLM_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
DRIVLM_INLINE float max_of(float a, float b) { return a > b ? a : b; }

DRIVLM_INLINE F load(const float* p) { return *reinterpret_cast<const UnalignedF*>(p); }
DRIVLM_INLINE void store(float* p, F v) { *reinterpret_cast<UnalignedF*>(p) = v; }
DRIVLM_INLINE U load_bits(const void* p) { return *reinterpret_cast<const UnalignedU*>(p); }
DRIVLM_INLINE void store_bits(void* p, U v) { *reinterpret_cast<UnalignedU*>(p) = v; }
DRIVLM_INLINE H load_half(const void* p) { return *reinterpret_cast<const UnalignedH*>(p); }
DRIVLM_INLINE void store_half(void* p, H v) { *reinterpret_cast<UnalignedH*>(p) = v; }

#if defined(__AVX512F__)
DRIVLM_INLINE F splat(float v) { return _mm512_set1_ps(v); }
DRIVLM_INLINE U splat_bits(uint32_t v) { return reinterpret_cast<U>(_mm512_set1_epi32(static_cast<int>(v))); }
DRIVLM_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
DRIVLM_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
DRIVLM_INLINE F approximate_reciprocal(F v) { return _mm512_rcp14_ps(v); }
DRIVLM_INLINE F absolute(F v) { return _mm512_abs_ps(v); }
DRIVLM_INLINE F to_f32(H v) {
  return reinterpret_cast<F>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(v)), 16));
}
#elif defined(__AVX2__)
DRIVLM_INLINE F splat(float v) { return _mm256_set1_ps(v); }
DRIVLM_INLINE U splat_bits(uint32_t v) { return reinterpret_cast<U>(_mm256_set1_epi32(static_cast<int>(v))); }
DRIVLM_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
DRIVLM_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
DRIVLM_INLINE F approximate_reciprocal(F v) { return _mm256_rcp_ps(v); }
DRIVLM_INLINE F absolute(F v) { return reinterpret_cast<F>(reinterpret_cast<U>(v) & 0x7fffffffu); }
DRIVLM_INLINE F to_f32(H v) {
  return reinterpret_cast<F>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(v)), 16));
}
#else
DRIVLM_INLINE F splat(float v) { return F{v, v, v, v}; }
DRIVLM_INLINE U splat_bits(uint32_t v) { return U{v, v, v, v}; }
DRIVLM_INLINE F max(F a, F b) { return a > b ? a : b; }
DRIVLM_INLINE F min(F a, F b) { return a < b ? a : b; }
DRIVLM_INLINE F approximate_reciprocal(F v) { return 1.0f / v; }
DRIVLM_INLINE F absolute(F v) { return reinterpret_cast<F>(reinterpret_cast<U>(v) & 0x7fffffffu); }
DRIVLM_INLINE F to_f32(H v) { return reinterpret_cast<F>(__builtin_convertvector(v, U) << 16); }
#endif

// Round to nearest even. NaNs keep their sign and stay NaNs unless every bit of the payload is set.
DRIVLM_INLINE U rounded_bits(F v) {
  const U bits = reinterpret_cast<U>(v);
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

#if defined(__AVX512BF16__)
DRIVLM_INLINE H to_bf16(F v) { return reinterpret_cast<H>(_mm512_cvtneps_pbh(v)); }
#elif defined(__AVX512F__)
DRIVLM_INLINE H to_bf16(F v) {
  return reinterpret_cast<H>(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(rounded_bits(v) >> 16)));
}
#elif defined(__AVX2__)
DRIVLM_INLINE H to_bf16(F v) {
  const __m256i bits = reinterpret_cast<__m256i>(rounded_bits(v) >> 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x08);
  return reinterpret_cast<H>(_mm256_castsi256_si128(packed));
}
#else
DRIVLM_INLINE H to_bf16(F v) { return __builtin_convertvector(rounded_bits(v) >> 16, H); }
#endif

DRIVLM_INLINE float scalar_f32(uint16_t v) {
  const uint32_t bits = static_cast<uint32_t>(v) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

DRIVLM_INLINE uint16_t scalar_bf16(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

DRIVLM_INLINE F reciprocal(F v) {
  const F r = approximate_reciprocal(v);
  return r * (2.0f - v * r);  // one Newton step: 2^-22 or better
}

// Loads and stores of the first n of kWidth values; the rest is zero, or left alone. They touch no byte beyond.
DRIVLM_INLINE F load_first(const float* p, int64_t n) {
  if (n >= kWidth) return load(p);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  float values[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) values[i] = p[i];
  return load(values);
#endif
}
DRIVLM_INLINE F load_first(const uint16_t* p, int64_t n) {
  if (n >= kWidth) return to_f32(load_half(p));
  uint16_t values[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) values[i] = p[i];
  return to_f32(load_half(values));
}
DRIVLM_INLINE void store_first(float* p, F v, int64_t n) {
  if (n >= kWidth) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
#else
  float values[kWidth];
  store(values, v);
  for (int64_t i = 0; i < n; ++i) p[i] = values[i];
#endif
}
DRIVLM_INLINE void store_first(uint16_t* p, F v, int64_t n) {
  if (n >= kWidth) return store_half(p, to_bf16(v));
  uint16_t values[kWidth];
  store_half(values, to_bf16(v));
  for (int64_t i = 0; i < n; ++i) p[i] = values[i];
}

// a * b / 2^15 of 16-bit values, to the nearest integer. Neither may be -2^15.
DRIVLM_INLINE Shorts product_high(Shorts a, Shorts b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Shorts>(_mm512_mulhrs_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Shorts>(_mm256_mulhrs_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__ARM_NEON)
  return vqrdmulhq_s16(a, b);
#else
  Shorts out;
  for (int i = 0; i < 2 * kWidth; ++i) out[i] = static_cast<int16_t>((a[i] * b[i] + (1 << 14)) >> 15);
  return out;
#endif
}

// Of each word's four bytes the first, third, second and fourth.
DRIVLM_INLINE U middle_swapped(U words) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_set4_epi32(0x0f0d0e0c, 0x0b090a08, 0x07050604, 0x03010200);
  return reinterpret_cast<U>(_mm512_shuffle_epi8(reinterpret_cast<__m512i>(words), order));
#elif defined(__AVX2__)
  const __m256i order = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0f0d0e0c, 0x0b090a08, 0x07050604, 0x03010200));
  return reinterpret_cast<U>(_mm256_shuffle_epi8(reinterpret_cast<__m256i>(words), order));
#else
  return (words & 0xff0000ffu) | ((words & 0xff00u) << 8) | ((words >> 8) & 0xff00u);
#endif
}

// v where the lane is below n, `other` elsewhere.
DRIVLM_INLINE F first_lanes(F v, int64_t n, float other) {
#if defined(__AVX512F__)
  return _mm512_mask_mov_ps(splat(other), n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1), v);
#else
  I lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  const I kept = lane < static_cast<int32_t>(min_of(max_of(n, 0), kWidth));
  return kept ? v : splat(other);
#endif
}

// To the nearest integer, ties to even; |v| < 2^22.
DRIVLM_INLINE I to_nearest(F v) { return reinterpret_cast<I>(v + 12582912.0f) - 0x4b400000; }

// kWidth integers, each in range, as bytes or 16-bit values.
DRIVLM_INLINE void store_bytes(uint8_t* p, I v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
#elif defined(__AVX2__)
  const __m256i low = reinterpret_cast<__m256i>(v & 0xff);
  const __m128i shorts = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(shorts, shorts));
#else
  typedef uint8_t B __attribute__((vector_size(kWidth)));
  const B bytes = __builtin_convertvector(v, B);
  memcpy(p, &bytes, kWidth);
#endif
}
DRIVLM_INLINE void store_shorts(int16_t* p, I v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(v)));
#elif defined(__AVX2__)
  const __m256i low = reinterpret_cast<__m256i>(v & 0xffff);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
#else
  typedef int16_t S __attribute__((vector_size(kWidth * 2)));
  const S shorts = __builtin_convertvector(v, S);
  memcpy(p, &shorts, kWidth * 2);
#endif
}

DRIVLM_INLINE float sum_of(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  float total = 0;
  for (int i = 0; i < kWidth; ++i) total += v[i];
  return total;
#endif
}
DRIVLM_INLINE float max_of(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(v);
#else
  float largest = v[0];
  for (int i = 1; i < kWidth; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
#endif
}

// 2^x, relative error below 2e-7; 0 below 2^-126. x <= 128.
DRIVLM_INLINE F exp2(F x) {
  const F kept = max(x, splat(-127.0f));  // 2^-127 assembles to +0
  const F shifted = kept + 12582912.0f;   // 1.5 * 2^23: the nearest integer lands in the low bits
  const F f = kept - (shifted - 12582912.0f);
  F p = 0.00132765f * f + 0.00967554f;
  p = p * f + 0.05550713f;
  p = p * f + 0.2402212f;
  p = p * f + 0.69314697f;
  p = p * f + 1.00000007f;
  return reinterpret_cast<F>(reinterpret_cast<U>(p) + (reinterpret_cast<U>(shifted) << 23));
}

DRIVLM_INLINE F exp(F x) { return exp2(min(x, splat(88.0f)) * 1.44269504f); }

DRIVLM_INLINE F silu(F x) { return x * reciprocal(1.0f + exp(-x)); }

// Phi(x), the share of a normal distribution below x. Phi(-s) = exp(-s^2 / 2) * t * q(t) with t = 1 / (1 + 0.3 s); q is a minimax fit for s <= 13.2, relative
// error 1.2e-7, so that the small values of the negative side are as exact as the large ones.
DRIVLM_INLINE F normal_share(F x) {
  const F s = min(absolute(x), splat(13.2f));
  const F t = reciprocal(1.0f + 0.3f * s);
  F q = 0.03608906f * t - 0.15893457f;
  q = q * t + 0.20934772f;
  q = q * t - 0.05645122f;
  q = q * t + 0.13003317f;
  q = q * t + 0.09946491f;
  q = q * t + 0.12082634f;
  q = q * t + 0.11962454f;
  const F tail = q * t * exp2(s * s * -0.72134752f);
  return x < 0.0f ? tail : 1.0f - tail;
}

DRIVLM_INLINE F gelu(F x) { return x * normal_share(x); }

// The same for results that are rounded to bf16, whose own error is 2e-3 (relative errors below).

// 2^(x - m) for whole m, which changes nothing but the exponent.
DRIVLM_INLINE F exp2_coarse(F x, F m = F{}) {  // 8e-5
#if defined(__AVX512F__)
  const F whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F f = x - whole;
  F p = 0.05517167f * f + 0.24261113f;
  p = p * f + 0.69326099f;
  p = p * f + 0.99992807f;
  return _mm512_scalef_ps(p, whole - m);
#else
  return exp2(x - m);
#endif
}

DRIVLM_INLINE F reciprocal_coarse(F v) {  // 7e-5
#if defined(__AVX512F__)
  return _mm512_rcp14_ps(v);
#else
  return reciprocal(v);
#endif
}

DRIVLM_INLINE F silu_coarse(F x) {  // 2e-4
  return x * reciprocal_coarse(1.0f + exp2_coarse(min(x * -1.44269504f, splat(127.0f))));
}

DRIVLM_INLINE F gelu_coarse(F x) {  // 5e-4
  const F s = min(absolute(x), splat(13.2f));
  const F t = reciprocal_coarse(1.0f + 0.3f * s);
  F q = 0.20884496f * t + 0.0355874f;
  q = q * t + 0.13747835f;
  q = q * t + 0.11820436f;
  const F tail = q * t * exp2_coarse(s * s * -0.72134752f);
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

#if defined(__AVX512F__)
// x Phi(x) = max(x, 0) - h(|x|), h(s) = s Phi(-s) as a parabola in each of 32 pieces up to 4.5, through its values at three points; beyond it is taken
// for what it is there. For results that are rounded to 8 bits: wrong by 2e-5, of no size relative to x.
class GeluInPieces {
 public:
  GeluInPieces() {
    const auto h = [](double s) { return 0.5 * s * std::erfc(s * 0.70710678118654752); };
    alignas(64) float c0[32], c1[32], c2[32];
    for (int i = 0; i < 32; ++i) {
      // Chebyshev's points, and Newton's form of what goes through them.
      const double middle = i / kPieces, reach = 0.86602540378443865 * 0.5 / kPieces;
      const double a = middle - reach, b = middle + reach, ha = h(a), hm = h(middle), hb = h(b);
      const double slope = (hm - ha) / reach, bend = (hb - 2 * hm + ha) / (2 * reach * reach);
      c2[i] = static_cast<float>(bend);
      c1[i] = static_cast<float>(slope - bend * (a + middle));
      c0[i] = static_cast<float>(ha - slope * a + bend * a * middle);
    }
    for (int i = 0; i < 2; ++i) {
      c0_[i] = load(c0 + i * 16);
      c1_[i] = load(c1 + i * 16);
      c2_[i] = load(c2 + i * 16);
    }
  }
  DRIVLM_INLINE F operator()(F x) const {
    const F s = min(absolute(x), splat(4.499f));
    // The nearest piece's number in the low bits, of which a permutation takes five.
    const __m512i piece = reinterpret_cast<__m512i>(s * static_cast<float>(kPieces) + 12582912.0f);
    const auto of = [&](const F(&c)[2]) -> F { return _mm512_permutex2var_ps(c[0], piece, c[1]); };
    return max(x, F{}) - ((of(c2_) * s + of(c1_)) * s + of(c0_));
  }

 private:
  static constexpr double kPieces = 7;  // a unit, each around its middle
  F c0_[2], c1_[2], c2_[2];
};
#endif

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
