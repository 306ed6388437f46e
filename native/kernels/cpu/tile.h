// The register tile under every product of this backend. pack_rows.h packs its x.
//
//   c [rows, 32] = x [rows, k] * panel [32, k]^T
//
// Tiling    kTileRows x 2 registers of sums (14 x 2 of the 32 registers of AVX-512, 12 x 2 of NEON's; 6 x 2 of 16). A
//           panel is 32 columns wide: with 16 lanes one pass does it; narrower targets take columns {p, p + 1, ...} and
//           {16 + p, ...} per pass, so that both halves of a gated panel are in registers together.
// x         Packed per tile as [step along k][rows] 32-bit words (kRowStep 1, kDepthStep rows), or row-major with a
//           fixed stride (the weights of attention). Each word is broadcast once and used twice.
// Numerics  f32 sums in k order. Bf16Dots on FMA units is exact per product; vdpbf16ps flushes subnormals and rounds
//           each pair's sum. u8 * s8 sums are exact in int32.
#pragma once

#include <utility>

#include "kernels/cpu/simd.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

// Words between rows of x in its row-major form: 352 scores of an attention chunk, and a line against cache aliasing.
constexpr int kScoreStride = 352 + 16;

#if defined(__AVX512F__)
constexpr int kTileRows = 14;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#elif defined(__ARM_NEON)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 4;
#endif

// The even and odd bf16 of 16 (8, 4) pairs as f32. Both read memory: keeping the raw pairs in a register would spill
// one of the sums.
DRIVLM_INLINE F even_values(const char* w) { return reinterpret_cast<F>(load_bits(w) << 16); }
#if defined(__AVX512F__)
DRIVLM_INLINE F odd_values(const char* w) { return reinterpret_cast<F>(_mm512_maskz_loadu_epi16(0xaaaaaaaa, w)); }
#else
DRIVLM_INLINE F odd_values(const char* w) { return reinterpret_cast<F>(load_bits(w) & 0xffff0000u); }
#endif

#if defined(__ARM_NEON)
// kRows words of x that stand side by side, four to a register: NEON multiplies by a lane of one, so that no word is copied to all lanes by a load of
// its own (48 products of bytes took 128 instructions). Reads no word beyond them.
template <int kRows>
struct Lanes {
  DRIVLM_INLINE explicit Lanes(const float* x) {
    DRIVLM_UNROLL
    for (int i = 0; i < kRows / 4; ++i) four[i] = load(x + 4 * i);
    constexpr int kLeft = kRows % 4, kFirst = kRows - kLeft;
    if constexpr (kLeft == 1) four[kRows / 4] = splat(x[kFirst]);
    if constexpr (kLeft >= 2) four[kRows / 4] = vcombine_f32(vld1_f32(x + kFirst), vdup_n_f32(0));
    if constexpr (kLeft == 3) four[kRows / 4] = vld1q_lane_f32(x + kFirst + 2, four[kRows / 4], 2);
  }
  F four[(kRows + 3) / 4];
};

// use(r, four, lane) for every row, r and lane as constants.
template <class Use, int... kRow>
DRIVLM_INLINE void each_lane(const F* four, const Use& use, std::integer_sequence<int, kRow...>) {
  (use(kRow, four[kRow / 4], std::integral_constant<int, kRow % 4>{}), ...);
}
#endif

typedef float UnalignedPair __attribute__((vector_size(8), aligned(4), may_alias));

// sum[r] += w * x[r] of kRows words of x, kRowStep apart.
template <int kRows, int kRowStep>
DRIVLM_INLINE void add_products(F (&sum)[kRows][2], F w0, F w1, const float* x) {
#if defined(__ARM_NEON)
  if constexpr (kRowStep == 1) {
    const Lanes<kRows> words(x);
    each_lane(
        words.four,
        [&](int r, F four, auto lane) __attribute__((always_inline)) {
          sum[r][0] = vfmaq_laneq_f32(sum[r][0], w0, four, decltype(lane)::value);
          sum[r][1] = vfmaq_laneq_f32(sum[r][1], w1, four, decltype(lane)::value);
        },
        std::make_integer_sequence<int, kRows>{});
    return;
  }
#endif
  DRIVLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const F v = splat(x[r * kRowStep]);
    sum[r][0] += w0 * v;
    sum[r][1] += w1 * v;
  }
}

// What one 128-byte unit of a panel does to the sums. kWords: 32-bit words of x it meets.
struct Bf16Fma {
  static constexpr int kWords = 2;
  static constexpr bool kPairs = false;  // x words are f32, one a step
  template <int kRows, int kRowStep, int kDepthStep>
  DRIVLM_INLINE static void step(F (&sum)[kRows][2], const char* w, const float* x) {
#if defined(__ARM_NEON)
    if constexpr (kRowStep > 1) {
      // Both words of a row come with one load, a lane each. The asm keeps the compiler from loading them apart, and those of many rows at once, for which it
      // lacks registers.
      static_assert(kDepthStep == 1);
      const F even0 = even_values(w), even1 = even_values(w + 64), odd0 = odd_values(w), odd1 = odd_values(w + 64);
      DRIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        float32x2_t two = *reinterpret_cast<const UnalignedPair*>(x + r * kRowStep);
        asm volatile("" : "+w"(two)::"memory");
        sum[r][0] = vfmaq_lane_f32(vfmaq_lane_f32(sum[r][0], even0, two, 0), odd0, two, 1);
        sum[r][1] = vfmaq_lane_f32(vfmaq_lane_f32(sum[r][1], even1, two, 0), odd1, two, 1);
      }
      return;
    }
#endif
    add_products<kRows, kRowStep>(sum, even_values(w), even_values(w + 64), x);
    add_products<kRows, kRowStep>(sum, odd_values(w), odd_values(w + 64), x + kDepthStep);
  }
};

// kApart: bytes from the first vector of columns to the second.
template <int kApart>
struct F32FmaApart {
  static constexpr int kWords = 1;
  static constexpr bool kPairs = false;
  template <int kRows, int kRowStep, int kDepthStep>
  DRIVLM_INLINE static void step(F (&sum)[kRows][2], const char* w, const float* x) {
    add_products<kRows, kRowStep>(sum, reinterpret_cast<F>(load_bits(w)), reinterpret_cast<F>(load_bits(w + kApart)),
                                  x);
  }
};
using F32Fma = F32FmaApart<64>;

// Columns side by side: a pass reads whole lines and only its own, half as many from L2 where two passes make a panel.
using F32Near = F32FmaApart<kWidth * 4>;

#if defined(__AVX512BF16__)
struct Bf16Dot {
  static constexpr int kWords = 1;
  static constexpr bool kPairs = true;  // x words are two bf16
  template <int kRows, int kRowStep, int kDepthStep>
  DRIVLM_INLINE static void step(F (&sum)[kRows][2], const char* w, const float* x) {
    const auto w0 = reinterpret_cast<__m512bh>(load_bits(w)), w1 = reinterpret_cast<__m512bh>(load_bits(w + 64));
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const auto v = reinterpret_cast<__m512bh>(splat(x[r * kRowStep]));
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], w0, v);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], w1, v);
    }
  }
};
#endif

#if defined(__AMX_BF16__)
// Attention; products of matrices are AMX's (gemm_amx.h). CPUs that have it run vdpbf16ps at half the rate of FMA.
using Bf16Dots = Bf16Fma;
#elif defined(__AVX512BF16__)
using Bf16Dots = Bf16Dot;
#elif defined(DRIVLM_EMULATED_PAIRS)
// For tests: pairs of bf16 on any CPU, so that what is packed for vdpbf16ps is checked everywhere.
struct EmulatedBf16Dot {
  static constexpr int kWords = 1;
  static constexpr bool kPairs = true;
  template <int kRows, int kRowStep, int kDepthStep>
  DRIVLM_INLINE static void step(F (&sum)[kRows][2], const char* w, const float* x) {
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const U v = reinterpret_cast<U>(splat(x[r * kRowStep]));
      const F low = reinterpret_cast<F>(v << 16), high = reinterpret_cast<F>(v & 0xffff0000u);
      sum[r][0] += even_values(w) * low + odd_values(w) * high;
      sum[r][1] += even_values(w + 64) * low + odd_values(w + 64) * high;
    }
  }
};
using Bf16Dots = EmulatedBf16Dot;
#else
using Bf16Dots = Bf16Fma;
#endif

// Whether products of matrices in bf16 and in bytes are AMX's, and whether they take bf16 two at a time.
#if defined(__AMX_BF16__)
constexpr bool kMatrixTiles = true;
#else
constexpr bool kMatrixTiles = false;
#endif
constexpr bool kBf16Pairs = kMatrixTiles || Bf16Dots::kPairs;

// NEON's dot product has two operands of one sign: there x is kept as q - 128 in s8, and its zero point is 128 less.
#if defined(__ARM_FEATURE_DOTPROD)
constexpr bool kSignedBytes = true;
#else
constexpr bool kSignedBytes = false;
#endif

// Four u8 of x times four s8 of w into int32 sums kept in the same registers.
DRIVLM_INLINE F dot4(F sum, U x, U w) {
#if defined(__ARM_FEATURE_DOTPROD)
  return reinterpret_cast<F>(
      vdotq_s32(reinterpret_cast<int32x4_t>(sum), reinterpret_cast<int8x16_t>(x), reinterpret_cast<int8x16_t>(w)));
#elif defined(__AVX512VNNI__)
  return reinterpret_cast<F>(
      _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w)));
#elif defined(__AVXVNNI__)
  return reinterpret_cast<F>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(x),
                                                     reinterpret_cast<__m256i>(w)));
#elif defined(__AVX2__)
  // vpmaddubsw saturates: even and odd bytes as 16-bit values instead, which cannot.
  const __m256i low = _mm256_set1_epi16(0xff);
  const __m256i xs = reinterpret_cast<__m256i>(x), ws = reinterpret_cast<__m256i>(w);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(xs, low), _mm256_srai_epi16(_mm256_slli_epi16(ws, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(xs, 8), _mm256_srai_epi16(ws, 8));
  return reinterpret_cast<F>(_mm256_add_epi32(reinterpret_cast<__m256i>(sum), _mm256_add_epi32(even, odd)));
#else
  const I xi = reinterpret_cast<I>(x), wi = reinterpret_cast<I>(w);
  I total = reinterpret_cast<I>(sum);
  total += (xi & 0xff) * ((wi << 24) >> 24);
  total += ((xi >> 8) & 0xff) * ((wi << 16) >> 24);
  total += ((xi >> 16) & 0xff) * ((wi << 8) >> 24);
  total += ((xi >> 24) & 0xff) * (wi >> 24);
  return reinterpret_cast<F>(total);
#endif
}

#if defined(__ARM_FEATURE_DOTPROD)
// The same with the kLane-th word of x.
template <int kLane>
DRIVLM_INLINE F dot4_lane(F sum, F x, U w) {
  return reinterpret_cast<F>(vdotq_laneq_s32(reinterpret_cast<int32x4_t>(sum), reinterpret_cast<int8x16_t>(w),
                                             reinterpret_cast<int8x16_t>(x), kLane));
}
#endif

struct U8S8 {
  static constexpr int kWords = 1;
  static constexpr bool kPairs = false;
  template <int kRows, int kRowStep, int kDepthStep>
  DRIVLM_INLINE static void step(F (&sum)[kRows][2], const char* w, const float* x) {
    const U w0 = load_bits(w), w1 = load_bits(w + 64);
#if defined(__ARM_FEATURE_DOTPROD)
    if constexpr (kRowStep == 1) {
      const Lanes<kRows> words(x);
      each_lane(
          words.four,
          [&](int r, F four, auto lane) __attribute__((always_inline)) {
            sum[r][0] = dot4_lane<decltype(lane)::value>(sum[r][0], four, w0);
            sum[r][1] = dot4_lane<decltype(lane)::value>(sum[r][1], four, w1);
          },
          std::make_integer_sequence<int, kRows>{});
      return;
    }
#endif
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const U v = reinterpret_cast<U>(splat(x[r * kRowStep]));
      sum[r][0] = dot4(sum[r][0], v, w0);
      sum[r][1] = dot4(sum[r][1], v, w1);
    }
  }
};

// Two signed 16-bit values of x times two of w into int32 sums kept in the same registers.
DRIVLM_INLINE F dot2(F sum, U x, U w) {
#if defined(__AVX512VNNI__)
  return reinterpret_cast<F>(
      _mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w)));
#elif defined(__AVXVNNI__)
  return reinterpret_cast<F>(_mm256_dpwssd_avx_epi32(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(x),
                                                     reinterpret_cast<__m256i>(w)));
#elif defined(__AVX2__)
  return reinterpret_cast<F>(_mm256_add_epi32(
      reinterpret_cast<__m256i>(sum), _mm256_madd_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w))));
#elif defined(__ARM_NEON)
  const int16x8_t xs = reinterpret_cast<int16x8_t>(x), ws = reinterpret_cast<int16x8_t>(w);
  const int32x4_t pairs = vpaddq_s32(vmull_s16(vget_low_s16(xs), vget_low_s16(ws)), vmull_high_s16(xs, ws));
  return reinterpret_cast<F>(vaddq_s32(reinterpret_cast<int32x4_t>(sum), pairs));
#else
  const I xi = reinterpret_cast<I>(x), wi = reinterpret_cast<I>(w);
  return reinterpret_cast<F>(reinterpret_cast<I>(sum) + ((xi << 16) >> 16) * ((wi << 16) >> 16) +
                             (xi >> 16) * (wi >> 16));
#endif
}

// s8 weights against x in 16 bits: of each four values of k, word 0 holds the first and third of x, word 1 the others.
// 127 * 32767 a product: the caller takes the sums out every kExactUnits.
struct S16S8 {
  static constexpr int kWords = 2;
  static constexpr bool kPairs = false;
  static constexpr int64_t kExactUnits = 128;
  DRIVLM_INLINE static U even(U w) { return reinterpret_cast<U>((reinterpret_cast<Shorts>(w) << 8) >> 8); }
  DRIVLM_INLINE static U odd(U w) { return reinterpret_cast<U>(reinterpret_cast<Shorts>(w) >> 8); }
  template <int kRows, int kRowStep, int kDepthStep>
  DRIVLM_INLINE static void step(F (&sum)[kRows][2], const char* w, const float* x) {
    const U w0 = load_bits(w), w1 = load_bits(w + 64);
    const U even0 = even(w0), even1 = even(w1), odd0 = odd(w0), odd1 = odd(w1);
#if defined(__ARM_NEON)
    // A byte of each of the eight columns to a register; a value of x is a lane of another.
    const auto shorts = [](U v) { return reinterpret_cast<int16x8_t>(v); };
    const int16x8_t of_byte[4] = {vuzp1q_s16(shorts(even0), shorts(even1)), vuzp2q_s16(shorts(even0), shorts(even1)),
                                  vuzp1q_s16(shorts(odd0), shorts(odd1)), vuzp2q_s16(shorts(odd0), shorts(odd1))};
    const auto add = [&](int r, const int16x8_t* bytes, F words, auto lane) __attribute__((always_inline)) {
      constexpr int kFirst = 2 * decltype(lane)::value;
      const int16x8_t x16 = reinterpret_cast<int16x8_t>(words);
      int32x4_t low = reinterpret_cast<int32x4_t>(sum[r][0]), high = reinterpret_cast<int32x4_t>(sum[r][1]);
      low = vmlal_laneq_s16(low, vget_low_s16(bytes[0]), x16, kFirst);
      high = vmlal_high_laneq_s16(high, bytes[0], x16, kFirst);
      low = vmlal_laneq_s16(low, vget_low_s16(bytes[1]), x16, kFirst + 1);
      high = vmlal_high_laneq_s16(high, bytes[1], x16, kFirst + 1);
      sum[r][0] = reinterpret_cast<F>(low);
      sum[r][1] = reinterpret_cast<F>(high);
    };
    for (int i = 0; i < 2; ++i, x += kDepthStep) {
      const auto add_row = [&](int r, F four, auto lane)
                               __attribute__((always_inline)) { add(r, of_byte + 2 * i, four, lane); };
      if constexpr (kRowStep == 1) {
        each_lane(Lanes<kRows>(x).four, add_row, std::make_integer_sequence<int, kRows>{});
      } else {
        DRIVLM_UNROLL
        for (int r = 0; r < kRows; ++r) add_row(r, splat(x[r * kRowStep]), std::integral_constant<int, 0>{});
      }
    }
#else
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const U v0 = reinterpret_cast<U>(splat(x[r * kRowStep])),
              v1 = reinterpret_cast<U>(splat(x[r * kRowStep + kDepthStep]));
      sum[r][0] = dot2(dot2(sum[r][0], v0, even0), v1, odd0);
      sum[r][1] = dot2(dot2(sum[r][1], v0, even1), v1, odd1);
    }
#endif
  }
};

// Two 16-bit values a word.
struct S16Pairs {
  static constexpr int kWords = 1;
  static constexpr bool kPairs = false;
  template <int kRows, int kRowStep, int kDepthStep>
  DRIVLM_INLINE static void step(F (&sum)[kRows][2], const char* w, const float* x) {
    const U w0 = load_bits(w), w1 = load_bits(w + 64);
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const U v = reinterpret_cast<U>(splat(x[r * kRowStep]));
      sum[r][0] = dot2(sum[r][0], v, w0);
      sum[r][1] = dot2(sum[r][1], v, w1);
    }
  }
};

// How many passes over a panel a tile of that height makes at once: as many as have room in half of the registers, so that memory is read all
// the time and not only in the first pass.
constexpr int passes_at_once(int rows) {
  int passes = 16 / kWidth;
  while (passes > 1 && passes * rows * 2 > 12) passes /= 2;
  return passes;
}

template <int kRows>
DRIVLM_INLINE void clear_sums(F (&sum)[kRows][2]) {
  DRIVLM_UNROLL
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = F{};
}

template <int kRows>
DRIVLM_INLINE void load_sums(F (&sum)[kRows][2], const float* c, int64_t c_stride) {
  DRIVLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = load(c + r * c_stride);
    sum[r][1] = load(c + r * c_stride + 16);
  }
}

template <int kRows>
DRIVLM_INLINE void store_sums(float* c, int64_t c_stride, const F (&sum)[kRows][2]) {
  DRIVLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    store(c + r * c_stride, sum[r][0]);
    store(c + r * c_stride + 16, sum[r][1]);
  }
}

// What is multiplied soon, to L2: with lines that are on their way to L1 a core can have less under way (bf16 and int8 in memory, 16 % more a second).
DRIVLM_INLINE void fetch_ahead(const char* p) { __builtin_prefetch(p, 0, 2); }

// `units` of a panel from w on, kPasses of its parts of 2 x kWidth columns at once. What comes after is fetched early, 128 bytes a unit from
// `next` on, `next_step` bytes further each time; it may lie past the end of memory, a prefetch does not fault.
template <class Dot, int kRowStep, int kDepthStep, int kPassBytes = kWidth * 4, int kRows, int kPasses>
DRIVLM_INLINE void add_units(F (&sum)[kPasses][kRows][2], const char* w, const float* x, int64_t units,
                             const char* next, int64_t next_step) {
#pragma GCC unroll 2
  for (int64_t u = 0; u < units; ++u) {
    fetch_ahead(next);
    fetch_ahead(next + 64);
    next += next_step;
    DRIVLM_UNROLL
    for (int p = 0; p < kPasses; ++p) Dot::template step<kRows, kRowStep, kDepthStep>(sum[p], w + p * kPassBytes, x);
    w += 128;
    x += Dot::kWords * kDepthStep;
  }
}

// What is done to the sums of a tile as they are stored in f32, in this order: a bias of the columns is added, then what stands there.
struct Storing {
  const float* bias = nullptr;  // [32] or null
  bool add = false;
};

template <int kRows>
DRIVLM_INLINE void store_near(float* c, int64_t c_stride, F (&sum)[kRows][2], int column, const Storing& how) {
  F bias[2] = {};
  for (int i = 0; how.bias && i < 2; ++i) bias[i] = load(how.bias + column + i * kWidth);
  DRIVLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    DRIVLM_UNROLL
    for (int i = 0; i < 2; ++i) {
      float* to = c + r * c_stride + column + i * kWidth;
      const F value = sum[r][i] + bias[i];
      store(to, how.add ? load(to) + value : value);
    }
  }
}

// As `tile` below of the same sums, bit for bit, straight to where the values go. A pass's columns stand side by side. The rows of c, far apart and
// often in memory, are fetched one after another between parts of the units: all at once they take every place in which misses of L1 wait, and w and
// x wait behind them.
template <class Dot, int kRows>
void final_tile(float* __restrict__ c, int64_t c_stride, const char* __restrict__ w, const float* __restrict__ x,
                int64_t units, const char* next, int64_t next_step, const Storing& how) {
  constexpr int kPasses = passes_at_once(kRows);
  for (int first = 0; first < 16; first += kPasses * kWidth) {
    F sum[kPasses][kRows][2];
    DRIVLM_UNROLL
    for (int p = 0; p < kPasses; ++p) clear_sums(sum[p]);
    const int fetched = first == 0 ? kRows : 0;
    const int64_t each = units / (kRows + 2);  // the last row arrives before it is wanted
    int64_t done = 0;
    for (int r = 0; r <= fetched; ++r) {
      const int64_t count = r < fetched ? each : units - done;
      if (r < fetched) {
        __builtin_prefetch(c + r * c_stride, 1);
        __builtin_prefetch(c + r * c_stride + 16, 1);
      }
      add_units<Dot, 1, kRows, 2 * kWidth * 4>(sum, w + done * 128 + 2 * first * 4, x + done * Dot::kWords * kRows,
                                               count, next + done * next_step, next_step);
      done += count;
    }
    DRIVLM_UNROLL
    for (int p = 0; p < kPasses; ++p) store_near(c, c_stride, sum[p], 2 * (first + p * kWidth), how);
  }
}

// c: rows of c_stride floats (int32 bits for the integer dots). more: c has the sums of the units before, which go on.
template <class Dot, int kRows>
void tile(float* __restrict__ c, int64_t c_stride, const char* __restrict__ w, const float* __restrict__ x,
          int64_t units, const char* next, int64_t next_step, bool more) {
  constexpr int kPasses = passes_at_once(kRows);
  for (int first = 0; first < 16; first += kPasses * kWidth) {
    F sum[kPasses][kRows][2];
    DRIVLM_UNROLL
    for (int p = 0; p < kPasses; ++p) {
      if (more) {
        load_sums(sum[p], c + first + p * kWidth, c_stride);
      } else {
        clear_sums(sum[p]);
      }
    }
    add_units<Dot, 1, kRows>(sum, w + first * 4, x, units, next, next_step);
    DRIVLM_UNROLL
    for (int p = 0; p < kPasses; ++p) store_sums(c + first + p * kWidth, c_stride, sum[p]);
  }
}

// The same for `panels` panels one after another, whose columns are one after another in the rows of c, kScoreStride
// apart. What stands `ahead` bytes further is fetched early.
template <class Dot, int kRows>
void score_tile(float* __restrict__ c, const char* __restrict__ w, int64_t panels, const float* __restrict__ x,
                int64_t units, int64_t ahead) {
  for (int64_t p = 0; p < panels; ++p, w += units * 128, c += 32) {
    for (int first = 0; first < 16; first += kWidth) {
      F sum[1][kRows][2];
      clear_sums(sum[0]);
      add_units<Dot, 1, kRows>(sum, w + first * 4, x, units, w + ahead, 128);
      store_sums(c + first, kScoreStride, sum[0]);
    }
  }
}

// Of keys some panels, of values a part of a panel: k of their sums is kept in pieces (pages of the KV cache).
struct Piece {
  const char* w;
  int64_t units;  // panels or units
};

// One panel in pieces, x in rows kScoreStride words apart. While a piece is read the next is fetched, after the last one
// what stands at `next`.
template <class Dot, int kRows>
void piece_tile(float* __restrict__ c, int64_t c_stride, const Piece* pieces, int64_t count, int64_t offset,
                const float* __restrict__ x, const char* next) {
  for (int first = 0; first < 16; first += kWidth) {
    F sum[1][kRows][2];
    clear_sums(sum[0]);
    const float* from = x;
    for (int64_t i = 0; i < count; ++i) {
      const char* w = pieces[i].w + offset;
      add_units<Dot, kScoreStride, 1>(sum, w + first * 4, from, pieces[i].units,
                                      i + 1 < count ? pieces[i + 1].w + offset : next, 128);
      from += pieces[i].units * Dot::kWords;
    }
    store_sums(c + first, c_stride, sum[0]);
  }
}

using Tile = void (*)(float*, int64_t, const char*, const float*, int64_t, const char*, int64_t, bool);
using FinalTile = void (*)(float*, int64_t, const char*, const float*, int64_t, const char*, int64_t, const Storing&);
using ScoreTile = void (*)(float*, const char*, int64_t, const float*, int64_t, int64_t);
using PieceTile = void (*)(float*, int64_t, const Piece*, int64_t, int64_t, const float*, const char*);

#if defined(__AVX512F__)
#define DRIVLM_EACH_HEIGHT(form)                                                                                  \
  form<Dot, 1>, form<Dot, 2>, form<Dot, 3>, form<Dot, 4>, form<Dot, 5>, form<Dot, 6>, form<Dot, 7>, form<Dot, 8>, \
      form<Dot, 9>, form<Dot, 10>, form<Dot, 11>, form<Dot, 12>, form<Dot, 13>, form<Dot, 14>
#elif defined(__ARM_NEON)
#define DRIVLM_EACH_HEIGHT(form)                                                                                  \
  form<Dot, 1>, form<Dot, 2>, form<Dot, 3>, form<Dot, 4>, form<Dot, 5>, form<Dot, 6>, form<Dot, 7>, form<Dot, 8>, \
      form<Dot, 9>, form<Dot, 10>, form<Dot, 11>, form<Dot, 12>
#elif defined(__AVX2__)
#define DRIVLM_EACH_HEIGHT(form) form<Dot, 1>, form<Dot, 2>, form<Dot, 3>, form<Dot, 4>, form<Dot, 5>, form<Dot, 6>
#else
#define DRIVLM_EACH_HEIGHT(form) form<Dot, 1>, form<Dot, 2>, form<Dot, 3>, form<Dot, 4>
#endif

// The tile for `rows` rows of x.
template <class Dot>
DRIVLM_INLINE Tile tile_for(int64_t rows) {
  static constexpr Tile kHeights[] = {DRIVLM_EACH_HEIGHT(tile)};
  return kHeights[rows - 1];
}
template <class Dot>
DRIVLM_INLINE FinalTile final_tile_for(int64_t rows) {
  static constexpr FinalTile kHeights[] = {DRIVLM_EACH_HEIGHT(final_tile)};
  return kHeights[rows - 1];
}
template <class Dot>
DRIVLM_INLINE ScoreTile score_tile_for(int64_t rows) {
  static constexpr ScoreTile kHeights[] = {DRIVLM_EACH_HEIGHT(score_tile)};
  return kHeights[rows - 1];
}
template <class Dot>
DRIVLM_INLINE PieceTile piece_tile_for(int64_t rows) {
  static constexpr PieceTile kHeights[] = {DRIVLM_EACH_HEIGHT(piece_tile)};
  return kHeights[rows - 1];
}

#undef DRIVLM_EACH_HEIGHT

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
