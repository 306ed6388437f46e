// Weights in 8 and 4 bits and the x that meets them: rows of x in 16 and 8 bits, panels expanded for many rows.
#pragma once

#include "kernels/cpu/gemm_finish.h"
#include "kernels/cpu/pack_rows.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

// What many rows of x are multiplied with, whatever the weights are kept as: where bf16 is multiplied as f32 the panel
// is widened once rather than by every tile (the work of one unit in 15), elsewhere it is bf16 itself.
constexpr WeightKind kExpanded = kBf16Pairs ? WeightKind::bf16 : WeightKind::f32;

// What many rows of x in 8 bits and panels of bytes are multiplied as. Where no instruction multiplies four bytes at once both are widened to 16 bits
// beforehand, the panel once for all tiles: then vpmaddwd and an addition make 16 products, against 9 operations for 32 where every tile widens.
#if defined(__AVX2__) && !defined(__AVXVNNI__) && !defined(__AVX512VNNI__)
constexpr bool kWidensBytes = true;
using ByteDots = S16Pairs;
using ByteWords = WidenedBytes;
#else
constexpr bool kWidensBytes = false;
using ByteDots = U8S8;
using ByteWords = RawWords;
#endif

// Parts of a share's scratch, 64-byte aligned.
DRIVLM_INLINE size_t aligned_bytes(int64_t bytes) { return static_cast<size_t>((bytes + 63) / 64 * 64); }

// Tiles of AMX are whole even where rows are not.
DRIVLM_INLINE size_t packed_x_bytes(int64_t rows, int64_t k) {
  return aligned_bytes((kMatrixTiles ? max_of(rows, 16) : rows) * (k + 64) * 4 + 64);
}
DRIVLM_INLINE size_t expanded_bytes(int64_t k) { return aligned_bytes(cpu::panel_bytes(kExpanded, k + 32)); }
DRIVLM_INLINE int64_t rounded_row(int64_t k) { return (k + 63) / 64 * 64; }

// What a byte stands for: x = scale * q + shift, of which 0 is one value.
struct ByteRange {
  ByteRange(float least, float most) : scale((most - least) / 255.0f), inverse(scale > 0 ? 1.0f / scale : 0.0f) {
    zero = static_cast<float>(to_nearest(splat(-least * inverse))[0]);
  }
  float shift() const { return -(kSignedBytes ? zero - 128 : zero) * scale; }
  float scale, inverse, zero;
};

#if defined(__AVX512F__)
DRIVLM_INLINE __m512i load_halves(const uint16_t* p, int64_t n) {
  return n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(n > 0 ? (1u << n) - 1 : 0, p);
}

// The least and the largest of a row of bf16 and 0. Bits of bf16 are in order as signed integers where they are positive, and the other way round, as
// unsigned ones above all of those, where they are negative.
DRIVLM_INLINE ByteRange range_of(const uint16_t* row, int64_t k) {
  __m512i high = _mm512_setzero_si512(), low = high;
  for (int64_t i = 0; i < k; i += 32) {
    const __m512i v = load_halves(row + i, k - i);
    high = _mm512_max_epi16(high, v);
    low = _mm512_max_epu16(low, v);
  }
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const int top = _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_slli_epi32(high, 16), _mm512_and_si512(high, upper)));
  const unsigned bottom =
      _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_slli_epi32(low, 16), _mm512_and_si512(low, upper)));
  float least, most;
  memcpy(&most, &top, 4);
  memcpy(&least, &bottom, 4);
  return {bottom < 0x80000000u ? 0.0f : least, most};
}

// 32 values of bf16, q = v * inverse + zero, as 16-bit integers: adding 1.5 * 2^23 besides leaves the nearest integer in the low bits.
DRIVLM_INLINE __m512i rounded_halves(const uint16_t* row, int64_t n, F inverse, F zero) {
  const U v = reinterpret_cast<U>(load_halves(row, n));
  const __m512i even = reinterpret_cast<__m512i>(_mm512_fmadd_ps(reinterpret_cast<F>(v << 16), inverse, zero));
  const __m512i odd = reinterpret_cast<__m512i>(_mm512_fmadd_ps(reinterpret_cast<F>(v & 0xffff0000u), inverse, zero));
  return _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16));
}

DRIVLM_INLINE void round_halves_to_8(uint8_t* out, const uint16_t* row, int64_t k, const ByteRange& range) {
  const F by = splat(range.inverse), from = splat(range.zero + 12582912.0f);
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);  // packing takes eight of either in turn
  for (int64_t i = 0; i < k; i += 64) {
    const __m512i first = rounded_halves(row + i, k - i, by, from),
                  second = rounded_halves(row + i + 32, k - i - 32, by, from);
    _mm512_storeu_si512(out + i, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(first, second)));
  }
}
#endif

// One row of x in 8 bits. out has room for rounded_row(k).
ByteRange round_to_8(uint8_t* out, const GemmJob& job, const char* row) {
#if defined(__AVX512F__)
  if (!job.x_f32) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(row);
    const ByteRange range = range_of(halves, job.k);
    round_halves_to_8(out, halves, job.k, range);
    return range;
  }
#endif
  F low = F{}, high = F{};
  for (int64_t i = 0; i < job.k; i += kWidth) {
    const F v = load_x(job, row, i);
    low = min(low, v);
    high = max(high, v);
  }
  const ByteRange range(-max_of(-low), max_of(high));
  for (int64_t i = 0; i < job.k; i += kWidth) {
    const F q = load_x(job, row, i) * range.inverse + range.zero;
    const I bytes = to_nearest(min(max(q, F{}), splat(255.0f)));
    store_bytes(out + i, kSignedBytes ? bytes - 128 : bytes);
  }
  return range;
}

// Values of k = 2i (low) and 2i + 1 (high) of kWidth rows from `lane` on, to an expanded panel. kExact: bf16 holds them as they are.
template <bool kExact = false>
DRIVLM_INLINE void expand_pair(char* panel, int64_t i, int64_t lane, F low, F high) {
  if constexpr (!kBf16Pairs) {
    store_bits(panel + 2 * i * 128 + lane * 4, reinterpret_cast<U>(low));
    store_bits(panel + (2 * i + 1) * 128 + lane * 4, reinterpret_cast<U>(high));
  } else if constexpr (kExact) {
    store_bits(panel + i * 128 + lane * 4, (reinterpret_cast<U>(low) >> 16) | reinterpret_cast<U>(high));
  } else {
    store_bits(panel + i * 128 + lane * 4, paired(low, high));
  }
}

// Of each word the value of the nibble `shift` bits from the lowest on, -8..7.
DRIVLM_INLINE F nibble_values(U words, int shift) {
#if defined(__AVX512F__)
  const F values = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
  return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(words >> shift), values);  // it looks at the lowest four bits
#else
  return __builtin_convertvector(reinterpret_cast<I>((words >> shift) & 0xfu) - 8, F);
#endif
}

// How weights are stored, each format a type. `expand` makes a panel that many rows of x meet; what it leaves out is a factor a row of the
// panel, `row_scale`.
struct Bf16 {
  static void expand(char* out, const char* w, int64_t k) {
    const int64_t units = cpu::unit_count(WeightKind::bf16, k);
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t lane = 0; lane < 32; lane += kWidth) {
        expand_pair(out, u, lane, even_values(w + u * 128 + lane * 4), odd_values(w + u * 128 + lane * 4));
      }
    }
  }
  static const float* row_scale(const GemmJob&, int64_t) { return nullptr; }
};

// The scale of a row is left to the sums.
struct S8Rows {
  static void expand(char* out, const char* w, int64_t k) {
    const int64_t units = cpu::unit_count(WeightKind::s8, k);
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t lane = 0; lane < 32; lane += kWidth) {
        const I q = reinterpret_cast<I>(load_bits(w + u * 128 + lane * 4));
        const auto value = [&](int byte) { return __builtin_convertvector((q << (24 - 8 * byte)) >> 24, F); };
        expand_pair<true>(out, 2 * u, lane, value(0), value(1));
        expand_pair<true>(out, 2 * u + 1, lane, value(2), value(3));
      }
    }
  }
  static const float* row_scale(const GemmJob& job, int64_t panel) { return job.w_scale + panel * 32; }
};

struct S4Groups {
  static void expand(char* out, const char* w, int64_t k) {
    for (int64_t g = 0; g < (k + cpu::kGroupDepth - 1) / cpu::kGroupDepth; ++g, w += cpu::kGroupBytes) {
      const uint16_t* scales = reinterpret_cast<const uint16_t*>(w + 4 * 128);
      for (int64_t lane = 0; lane < 32; lane += kWidth) {
        const F scale = to_f32(load_half(scales + lane));
        for (int64_t u = 0; u < 4; ++u) {
          const U word = load_bits(w + u * 128 + lane * 4);
          for (int j = 0; j < 4; ++j) {
            expand_pair(out, g * 16 + u * 4 + j, lane, nibble_values(word, 4 * j) * scale,
                        nibble_values(word, 4 * j + 16) * scale);
          }
        }
      }
    }
  }
  static const float* row_scale(const GemmJob&, int64_t) { return nullptr; }
};

// Four values along k of kWidth rows from `lane` on, each in -127..127, two 16-bit values a word, to the `unit`-th of a panel as rows of x in bytes meet it:
// four bytes a row, or two units of two 16-bit values.
DRIVLM_INLINE void expand_four(char* panel, int64_t unit, int64_t lane, U first, U second) {
  if constexpr (kWidensBytes) {
    store_bits(panel + 2 * unit * 128 + lane * 4, first);
    store_bits(panel + (2 * unit + 1) * 128 + lane * 4, second);
  } else {
    store_bits(panel + unit * 128 + lane * 4, middle_swapped((first & 0x00ff00ffu) | ((second & 0x00ff00ffu) << 8)));
  }
}

// 8-bit weights widened for x in bytes.
struct S8AsShorts {
  static void expand(char* out, const char* w, int64_t k) {
    const int64_t units = cpu::unit_count(WeightKind::s8, k);
    for (int64_t u = 0; u < units; ++u) {
      for (int64_t lane = 0; lane < 32; lane += kWidth) {
        const U q = load_bits(w + u * 128 + lane * 4), even = S16S8::even(q), odd = S16S8::odd(q);
        store_bits(out + 2 * u * 128 + lane * 4, (even & 0xffffu) | (odd << 16));
        store_bits(out + (2 * u + 1) * 128 + lane * 4, (even >> 16) | (odd & 0xffff0000u));
      }
    }
  }
};

// 4-bit weights for x in bytes: bytes with one scale a row of the panel, whose coarsest group they resolve in 16 parts of its step or finer. What a step of a group is in
// bytes has 11 bits behind the point, and each byte is the nearest to its product.
struct S4AsBytes {
  alignas(64) float scale[32];
  alignas(64) int32_t sum[32];  // of a row's bytes

  void expand(char* out, const char* w, int64_t k) {
    const int64_t groups = (k + cpu::kGroupDepth - 1) / cpu::kGroupDepth;
    for (int64_t lane = 0; lane < 32; lane += kWidth) {
      const auto scale_of = [&](int64_t g) {
        return to_f32(load_half(reinterpret_cast<const uint16_t*>(w + g * cpu::kGroupBytes + 4 * 128) + lane));
      };
      F top = F{};
      for (int64_t g = 0; g < groups; ++g) top = max(top, absolute(scale_of(g)));
      store(scale + lane, top * (8.0f / 127));
      const F inverse = top > 0.0f ? (127.0f / 8) * 2048.0f / top : F{};
      F total = F{};
      for (int64_t g = 0; g < groups; ++g) {
        const U step = reinterpret_cast<U>(to_nearest(scale_of(g) * inverse));
        const Shorts steps = reinterpret_cast<Shorts>((step & 0xffffu) | (step << 16));
        for (int64_t u = 0; u < 4; ++u) {
          const U word = load_bits(w + g * cpu::kGroupBytes + u * 128 + lane * 4);
          // Of nibbles j and j + 4, each times 16.
          const auto rounded = [&](int j) {
            const U nibbles = (j == 0 ? word << 4 : word >> (4 * j - 4)) & 0x00f000f0u;
            return product_high(reinterpret_cast<Shorts>(nibbles) - 128, steps);
          };
          for (int half = 0; half < 2; ++half) {
            const Shorts first = rounded(2 * half), second = rounded(2 * half + 1);
            total = dot2(total, splat_bits(0x00010001u), reinterpret_cast<U>(first + second));
            expand_four(out, (g * 4 + u) * 2 + half, lane, reinterpret_cast<U>(first), reinterpret_cast<U>(second));
          }
        }
      }
      store(reinterpret_cast<float*>(sum) + lane, total);
    }
  }
};

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
