// Rows to words: x as the register tile broadcasts it, and panels of training's factors.
//
//   out[word][row] from rows of bytes, 32 bits a word: as they are (f32, pairs of bf16, quads of bytes), widened or narrowed
//
// docs/decisions/0048 says why AVX-512 turns sixteen rows at once.
#pragma once

#include "kernels/cpu/simd.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

typedef uint32_t U4 __attribute__((vector_size(16)));
typedef uint32_t UnalignedU4 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint16_t H4 __attribute__((vector_size(8)));
typedef uint16_t UnalignedH4 __attribute__((vector_size(8), aligned(1), may_alias));

// Words as they are: f32, or pairs of bf16, or quads of bytes.
struct RawWords {
  static constexpr int64_t kBytes = 4;
  DRIVLM_INLINE static U4 four(const char* p) { return *reinterpret_cast<const UnalignedU4*>(p); }
  // The word at p, of which only `bytes` bytes exist.
  DRIVLM_INLINE static uint32_t one(const char* p, int64_t bytes) {
    uint32_t word = 0;
    memcpy(&word, p, static_cast<size_t>(min_of(bytes, 4)));
    return word;
  }
#if defined(__AVX512F__)
  DRIVLM_INLINE static U sixteen(const char* p) { return load_bits(p); }
  // The first of them, as far as there are `bytes` bytes, the rest 0.
  DRIVLM_INLINE static U sixteen(const char* p, int64_t bytes) {
    return reinterpret_cast<U>(_mm512_maskz_loadu_epi8(~0ull >> (64 - bytes), p));
  }
#endif
};

// bf16 widened to f32.
struct WidenedWords {
  static constexpr int64_t kBytes = 2;
  DRIVLM_INLINE static U4 four(const char* p) {
    return __builtin_convertvector(*reinterpret_cast<const UnalignedH4*>(p), U4) << 16;
  }
  DRIVLM_INLINE static uint32_t one(const char* p, int64_t) {
    uint16_t half;
    memcpy(&half, p, 2);
    return static_cast<uint32_t>(half) << 16;
  }
#if defined(__AVX512F__)
  DRIVLM_INLINE static U sixteen(const char* p) {
    return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  DRIVLM_INLINE static U sixteen(const char* p, int64_t bytes) {
    return widened(_mm256_maskz_loadu_epi8(~0u >> (32 - bytes), p));
  }
  DRIVLM_INLINE static U widened(__m256i halves) { return reinterpret_cast<U>(_mm512_cvtepu16_epi32(halves)) << 16; }
#endif
};

#if defined(__AVX2__)
// Pairs of u8 widened to 16 bits. Rows have an even number of bytes.
struct WidenedBytes {
  static constexpr int64_t kBytes = 2;
  DRIVLM_INLINE static U4 four(const char* p) {
    return reinterpret_cast<U4>(_mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  DRIVLM_INLINE static uint32_t one(const char* p, int64_t) {
    return static_cast<uint8_t>(p[0]) | static_cast<uint32_t>(static_cast<uint8_t>(p[1])) << 16;
  }
};
#endif

// f32 narrowed to pairs of bf16.
struct NarrowedWords {
  static constexpr int64_t kBytes = 8;
  DRIVLM_INLINE static uint32_t one(const char* p, int64_t bytes) {
    float pair[2] = {0, 0};
    memcpy(pair, p, static_cast<size_t>(min_of(bytes, 8)));
    return scalar_bf16(pair[0]) | static_cast<uint32_t>(scalar_bf16(pair[1])) << 16;
  }
  DRIVLM_INLINE static U4 four(const char* p) {
    const U4 a = rounded(p), b = rounded(p + 16);
    return (__builtin_shuffle(a, b, U4{0, 2, 4, 6}) >> 16) | (__builtin_shuffle(a, b, U4{1, 3, 5, 7}) & 0xffff0000u);
  }
  DRIVLM_INLINE static U4 rounded(const char* p) {
    const U4 bits = *reinterpret_cast<const UnalignedU4*>(p);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  }
#if defined(__AVX512F__)
  DRIVLM_INLINE static U sixteen(const char* p) {
    const float* from = reinterpret_cast<const float*>(p);
    return narrowed(load(from), load(from + 16));
  }
  DRIVLM_INLINE static U sixteen(const char* p, int64_t bytes) {
    const float* from = reinterpret_cast<const float*>(p);
    const int64_t left = bytes / 4;
    return narrowed(load_first(from, left), left > 16 ? load_first(from + 16, left - 16) : F{});
  }
  DRIVLM_INLINE static U narrowed(F first, F second) {
#if defined(__AVX512BF16__)
    return reinterpret_cast<U>(_mm512_cvtne2ps_pbh(second, first));
#else
    return reinterpret_cast<U>(_mm512_inserti64x4(_mm512_castsi256_si512(reinterpret_cast<__m256i>(to_bf16(first))),
                                                  reinterpret_cast<__m256i>(to_bf16(second)), 1));
#endif
  }
#endif
};

#if defined(__AVX512F__)
// Word w of row r to word r of row w.
DRIVLM_INLINE void transpose(U (&v)[16]) {
  __m512i a[16], b[16];
  DRIVLM_UNROLL
  for (int i = 0; i < 16; i += 2) {
    const __m512i even = reinterpret_cast<__m512i>(v[i]), odd = reinterpret_cast<__m512i>(v[i + 1]);
    a[i] = _mm512_unpacklo_epi32(even, odd);
    a[i + 1] = _mm512_unpackhi_epi32(even, odd);
  }
  DRIVLM_UNROLL
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  // Part p of b[4 * i + w] is word 4 * p + w of rows 4 * i to 4 * i + 3.
  DRIVLM_UNROLL
  for (int w = 0; w < 4; ++w) {
    const __m512i even0 = _mm512_shuffle_i32x4(b[w], b[4 + w], 0x88), odd0 = _mm512_shuffle_i32x4(b[w], b[4 + w], 0xdd);
    const __m512i even1 = _mm512_shuffle_i32x4(b[8 + w], b[12 + w], 0x88),
                  odd1 = _mm512_shuffle_i32x4(b[8 + w], b[12 + w], 0xdd);
    v[w] = reinterpret_cast<U>(_mm512_shuffle_i32x4(even0, even1, 0x88));
    v[4 + w] = reinterpret_cast<U>(_mm512_shuffle_i32x4(odd0, odd1, 0x88));
    v[8 + w] = reinterpret_cast<U>(_mm512_shuffle_i32x4(even0, even1, 0xdd));
    v[12 + w] = reinterpret_cast<U>(_mm512_shuffle_i32x4(odd0, odd1, 0xdd));
  }
}

// As pack_rows, sixteen rows and words at a time. Writes nothing but the rows' own columns.
template <class Words>
void pack_sixteen(uint32_t* out, const char* in, int64_t stride, int64_t rows, int64_t bytes, int64_t width) {
  const int64_t words = (bytes + Words::kBytes - 1) / Words::kBytes, whole = bytes / Words::kBytes;
  for (int64_t first = 0; first < rows; first += 16, in += 16 * stride) {
    const int64_t height = min_of(rows - first, 16);
    const __mmask16 own = static_cast<__mmask16>((1u << height) - 1);
    const auto row = [&](int r) { return in + min_of(r, height - 1) * stride; };
    U v[16];
    uint32_t* o = out + first;
    int64_t i = 0;
    for (; i + 16 <= whole; i += 16, o += 16 * width) {
      DRIVLM_UNROLL
      for (int r = 0; r < 16; ++r) v[r] = Words::sixteen(row(r) + i * Words::kBytes);
      transpose(v);
      DRIVLM_UNROLL
      for (int w = 0; w < 16; ++w) _mm512_mask_storeu_epi32(o + w * width, own, reinterpret_cast<__m512i>(v[w]));
    }
    if (i == words) continue;
    DRIVLM_UNROLL
    for (int r = 0; r < 16; ++r) v[r] = Words::sixteen(row(r) + i * Words::kBytes, bytes - i * Words::kBytes);
    transpose(v);
    DRIVLM_UNROLL
    for (int w = 0; w < 16; ++w) {
      if (i + w < words) _mm512_mask_storeu_epi32(o + w * width, own, reinterpret_cast<__m512i>(v[w]));
    }
  }
}
#endif

// out [words][width] from `rows` <= width rows at `in`, `stride` bytes apart, `bytes` bytes each (a last part word is
// filled with zeros). Columns from `rows` on are undefined. With AVX-512 sixteen rows at a time; else, and of up to four, four at a time, the last four first: a group of fewer
// than four writes past its own columns, into words that are undefined or written later, or into the 12 bytes past the
// end that `out` must have.
template <class Words>
void pack_rows(uint32_t* out, const char* in, int64_t stride, int64_t rows, int64_t bytes, int64_t width) {
#if defined(__AVX512F__)
  if (rows > 4) return pack_sixteen<Words>(out, in, stride, rows, bytes, width);
#endif
  const int64_t words = (bytes + Words::kBytes - 1) / Words::kBytes, whole = bytes / Words::kBytes;
  for (int64_t first = (rows - 1) / 4 * 4; first >= 0; first -= 4) {
    const char* p[4];
    for (int64_t i = 0; i < 4; ++i) p[i] = in + min_of(first + i, rows - 1) * stride;
    uint32_t* o = out + first;
    int64_t i = 0;
    for (; i + 4 <= whole; i += 4) {
      const U4 a = Words::four(p[0] + i * Words::kBytes), b = Words::four(p[1] + i * Words::kBytes);
      const U4 c = Words::four(p[2] + i * Words::kBytes), d = Words::four(p[3] + i * Words::kBytes);
      const U4 ab0 = __builtin_shuffle(a, b, U4{0, 4, 1, 5}), ab1 = __builtin_shuffle(a, b, U4{2, 6, 3, 7});
      const U4 cd0 = __builtin_shuffle(c, d, U4{0, 4, 1, 5}), cd1 = __builtin_shuffle(c, d, U4{2, 6, 3, 7});
      *reinterpret_cast<UnalignedU4*>(o) = __builtin_shuffle(ab0, cd0, U4{0, 1, 4, 5});
      *reinterpret_cast<UnalignedU4*>(o + width) = __builtin_shuffle(ab0, cd0, U4{2, 3, 6, 7});
      *reinterpret_cast<UnalignedU4*>(o + 2 * width) = __builtin_shuffle(ab1, cd1, U4{0, 1, 4, 5});
      *reinterpret_cast<UnalignedU4*>(o + 3 * width) = __builtin_shuffle(ab1, cd1, U4{2, 3, 6, 7});
      o += 4 * width;
    }
    for (; i < words; ++i) {
      for (int64_t r = 0; r < 4 && first + r < rows; ++r) {
        o[r] = Words::one(p[r] + i * Words::kBytes, bytes - i * Words::kBytes);
      }
      o += width;
    }
  }
}

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
