// One thread's share of a product of x in 16 bits with weights as they are: in 8 bits any rows of x, in 4 bits a few. Of few rows reading the weights bounds it,
// as long as little is done to each of them. Of many, weights in 8 bits cost no more than in bf16 where that has an instruction of its own, and less where it has none.
//
// x     A row is rounded to 16 bits, x = scale * q with |q| <= 32639, and q = 256 * high + low with both halves in -127..127. Products of a half
//       with a byte or a nibble of the weights are summed in integers, so nothing is lost after that rounding, and a row's result does not
//       depend on how its sums are cut.
// s8    Where four bytes are multiplied at once (dot4), the halves of a row are two rows of x in bytes. Elsewhere q meets the weights widened to
//       16 bits, two at a time.
// s4    Nibbles are taken out as bytes. A group's sum 256 * high + low is below 2^24, which f32 holds.
#pragma once

#include "kernels/cpu/gemm_kernels.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

constexpr float kLargestQ = 127 * 256 + 127;

// Of the scratch of a share (gemm_scratch): rows in 16 bits before they are packed, a tile of them at most, and a scale for each.
DRIVLM_INLINE int16_t* rows_in_scratch(char* scratch, int64_t rows, int64_t k) {
  return reinterpret_cast<int16_t*>(scratch + packed_x_bytes(rows, k));
}
DRIVLM_INLINE float* scales_in_scratch(char* scratch, int64_t rows, int64_t k) {
  return reinterpret_cast<float*>(scratch + packed_x_bytes(rows, k) + expanded_bytes(k) +
                                  aligned_bytes(kTileRows * rounded_row(k)));
}

// One row of x in 16 bits: put(i, q) with kWidth of them, the last with zeros past k. Returns the scale.
template <class Put>
DRIVLM_INLINE float round_row(const GemmJob& job, const char* row, const Put& put) {
  F largest = F{};
  for (int64_t i = 0; i < job.k; i += kWidth) largest = max(largest, absolute(load_x(job, row, i)));
  const float top = max_of(largest);
  const F inverse = splat(top > 0 ? kLargestQ / top : 0.0f);
  for (int64_t i = 0; i < job.k; i += kWidth) put(i, to_nearest(load_x(job, row, i) * inverse));
  return top / kLargestQ;
}

// The same to `out`, which has room for rounded_row(k); past k it is 0.
float round_to_16(int16_t* out, const GemmJob& job, const char* row) {
  for (int64_t i = job.k / kWidth * kWidth; i < rounded_row(job.k); ++i) out[i] = 0;
  return round_row(job, row, [&](int64_t i, I q) { store_shorts(out + i, q); });
}

typedef int16_t Eight __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

// One row's q, eight values after another as four words of halves, each `height` words after the one before. `order` says which byte of
// {low half, high half} times eight comes where.
DRIVLM_INLINE void pack_halves(uint32_t* out, int64_t height, const int16_t* q, int64_t k, Bytes order) {
  for (int64_t i = 0; i < k; i += 8, out += 4 * height) {
    Eight v;
    memcpy(&v, q + i, sizeof v);
    const Bytes halves = reinterpret_cast<Bytes>((v & 255) | ((v + 128) & ~255));
    const U4 words = reinterpret_cast<U4>(__builtin_shuffle(halves, order));
    for (int j = 0; j < 4; ++j) out[j * height] = words[j];
  }
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_DOTPROD)
constexpr int kHalvesRows = kTileRows / 2;

void stream_s8(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch) {
  constexpr int kBias = kSignedBytes ? 0 : 128;  // of x in bytes
  const int64_t rows = row1 - row0, tiles = (rows + kHalvesRows - 1) / kHalvesRows;
  const int64_t units = cpu::unit_count(WeightKind::s8, job.k), row_bytes = rounded_row(job.k);
  uint32_t* x = reinterpret_cast<uint32_t*>(scratch);
  uint8_t* halves = reinterpret_cast<uint8_t*>(rows_in_scratch(scratch, rows, job.k));
  float* scales = scales_in_scratch(scratch, rows, job.k);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
    for (int64_t r = 0; r < height; ++r) {
      uint8_t *high = halves + r * row_bytes, *low = high + height * row_bytes;
      scales[first + r] = round_row(job, row_of_x(job, row0 + first + r), [&](int64_t i, I q) {
        store_bytes(high + i, ((q + 128) >> 8) + kBias);
        store_bytes(low + i, q + kBias);
      });
    }
    pack_rows<RawWords>(x + 2 * first * units, reinterpret_cast<const char*>(halves), row_bytes, 2 * height, units * 4,
                        2 * height);
  }
  alignas(64) float parts[kTileRows * 32];
  over_panels(
      job, row0, rows, tiles, panels, units, [](const char* w) { return w; },
      [&](int64_t first, int64_t height, const char* w, int64_t panel, const char* next, int64_t step, float* sums) {
        const float* from = reinterpret_cast<const float*>(x + 2 * first * units);
        tile_for<U8S8>(2 * height)(parts, 32, w, from, units, next, step, false);
        for (int64_t j = 0; j < 32; j += kWidth) {
          const I bias = reinterpret_cast<I>(load_bits(job.w_sum + panel * 32 + j)) * kBias;
          for (int64_t r = 0; r < height; ++r) {
            const I high = reinterpret_cast<I>(load(parts + r * 32 + j)) - bias;
            const I low = reinterpret_cast<I>(load(parts + (height + r) * 32 + j)) - bias;
            store(sums + r * 32 + j, __builtin_convertvector(high, F) * 256.0f + __builtin_convertvector(low, F));
          }
        }
        return Rescale{false, scales + first, nullptr, job.w_scale + panel * 32, nullptr};
      });
}
#else
// Sums are exact in 32 bits for kExactUnits.
void stream_s8(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch) {
  const int64_t rows = row1 - row0, tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t units = cpu::unit_count(WeightKind::s8, job.k), words = units * S16S8::kWords;
  const int64_t row_values = rounded_row(job.k);
  uint32_t* x = reinterpret_cast<uint32_t*>(scratch);
  int16_t* rows16 = rows_in_scratch(scratch, rows, job.k);
  float* scales = scales_in_scratch(scratch, rows, job.k);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
    for (int64_t r = 0; r < height; ++r) {
      int16_t* row = rows16 + r * row_values;
      scales[first + r] = round_to_16(row, job, row_of_x(job, row0 + first + r));
      for (int64_t i = 0; i < row_values; i += 8) {
        Eight v;
        memcpy(&v, row + i, sizeof v);
        v = __builtin_shuffle(v, Eight{0, 2, 1, 3, 4, 6, 5, 7});
        memcpy(row + i, &v, sizeof v);
      }
    }
    pack_rows<RawWords>(x + first * words, reinterpret_cast<const char*>(rows16), row_values * 2, height, units * 8,
                        height);
  }
  alignas(64) float part[kTileRows * 32];
  over_panels(
      job, row0, rows, tiles, panels, units, [](const char* w) { return w; },
      [&](int64_t first, int64_t height, const char* w, int64_t panel, const char* next, int64_t step, float* sums) {
        const float* from = reinterpret_cast<const float*>(x) + first * words;
        for (int64_t u = 0; u < units; u += S16S8::kExactUnits) {
          tile_for<S16S8>(height)(part, 32, w + u * 128, from + u * S16S8::kWords * height,
                                  min_of(S16S8::kExactUnits, units - u), next + u * step, step, false);
          for (int64_t i = 0; i < height * 32; i += kWidth) {
            const F exact = __builtin_convertvector(reinterpret_cast<I>(load(part + i)), F);
            store(sums + i, u == 0 ? exact : load(sums + i) + exact);
          }
        }
        return Rescale{false, scales + first, nullptr, job.w_scale + panel * 32, nullptr};
      });
}
#endif

// Heights of the tiles that keep sums of a group in registers.
#if defined(__AVX512F__)
constexpr int kGroupRows = 4;
#else
constexpr int kGroupRows = 2;
#endif

// Adds four products of nibbles with halves of x for each column, and gives 256 * high + low of a group's.
#if defined(__AVX2__) && !defined(__AVXVNNI__) && !defined(__AVX512VNNI__)
// As two sums in 16 bits: eight times 2 * 15 * 127 is 30,480.
DRIVLM_INLINE U add_nibbles(U sum, U q, U x) {
  const __m256i products = _mm256_maddubs_epi16(reinterpret_cast<__m256i>(q), reinterpret_cast<__m256i>(x));
  return reinterpret_cast<U>(_mm256_add_epi16(reinterpret_cast<__m256i>(sum), products));
}
DRIVLM_INLINE I group_sum(U high, U low) {
  return reinterpret_cast<I>(_mm256_madd_epi16(reinterpret_cast<__m256i>(high), _mm256_set1_epi16(256))) +
         reinterpret_cast<I>(_mm256_madd_epi16(reinterpret_cast<__m256i>(low), _mm256_set1_epi16(1)));
}
#else
DRIVLM_INLINE U add_nibbles(U sum, U q, U x) { return reinterpret_cast<U>(dot4(reinterpret_cast<F>(sum), q, x)); }
DRIVLM_INLINE I group_sum(U high, U low) { return (reinterpret_cast<I>(high) << 8) + reinterpret_cast<I>(low); }
#endif

// x: halves as [group][unit][low, then high nibbles of its bytes][high half, then low half][rows], a word of four bytes each; and for each group
// and row the sum that q - 8 leaves to add. `next_step` bytes from `next` on are fetched a group.
template <int kRows>
void group_tile(float* __restrict__ c, const char* __restrict__ w, const float* __restrict__ x,
                const int32_t* __restrict__ offsets, int64_t groups, const char* next, int64_t next_step) {
  alignas(64) float total[kRows * 32] = {};
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < next_step; i += 64) fetch_ahead(next + i);
    next += next_step;
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(w + 4 * 128);
#pragma GCC unroll 1
    for (int lane = 0; lane < 16; lane += kWidth) {
      U high[kRows][2] = {}, low[kRows][2] = {};
#pragma GCC unroll 1  // unrolled, it spills
      for (int u = 0; u < 4; ++u) {
        const U w0 = load_bits(w + u * 128 + lane * 4), w1 = load_bits(w + u * 128 + lane * 4 + 64);
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          const U q0 = (w0 >> (4 * j)) & 0x0f0f0f0fu, q1 = (w1 >> (4 * j)) & 0x0f0f0f0fu;
          const float* words = x + (u * 2 + j) * 2 * kRows;
          DRIVLM_UNROLL
          for (int r = 0; r < kRows; ++r) {
            const U x_high = reinterpret_cast<U>(splat(words[r])), x_low = reinterpret_cast<U>(splat(words[kRows + r]));
            high[r][0] = add_nibbles(high[r][0], q0, x_high);
            high[r][1] = add_nibbles(high[r][1], q1, x_high);
            low[r][0] = add_nibbles(low[r][0], q0, x_low);
            low[r][1] = add_nibbles(low[r][1], q1, x_low);
          }
        }
      }
      const F s0 = to_f32(load_half(scales + lane)), s1 = to_f32(load_half(scales + lane + 16));
      DRIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int32_t offset = offsets[g * kRows + r];
        float* to = total + r * 32 + lane;
        const F first = __builtin_convertvector(group_sum(high[r][0], low[r][0]) + offset, F);
        const F second = __builtin_convertvector(group_sum(high[r][1], low[r][1]) + offset, F);
        store(to, load(to) + first * s0);
        store(to + 16, load(to + 16) + second * s1);
      }
    }
    w += cpu::kGroupBytes;
    x += 16 * kRows;
  }
  memcpy(c, total, sizeof total);
}

void stream_s4(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch) {
  constexpr int64_t kDepth = cpu::kGroupDepth;
  using GroupTile = void (*)(float*, const char*, const float*, const int32_t*, int64_t, const char*, int64_t);
  static constexpr GroupTile kHeights[] = {
      group_tile<1>,
      group_tile<2>,
#if defined(__AVX512F__)
      group_tile<3>,
      group_tile<4>,
#endif
  };
  // Of a unit's eight values of k: those of its bytes' low nibbles are 0, 4, 1 and 5, those of the high ones 2, 6, 3 and 7.
  constexpr Bytes kNibbles = {1, 9, 3, 11, 0, 8, 2, 10, 5, 13, 7, 15, 4, 12, 6, 14};
  const int64_t rows = row1 - row0, tiles = (rows + kGroupRows - 1) / kGroupRows,
                groups = (job.k + kDepth - 1) / kDepth, words = groups * kDepth / 2;
  uint32_t* x = reinterpret_cast<uint32_t*>(scratch);
  int32_t* offsets = reinterpret_cast<int32_t*>(x + rows * words);
  int16_t* row16 = rows_in_scratch(scratch, rows, job.k);
  float* scales = scales_in_scratch(scratch, rows, job.k);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
    for (int64_t r = 0; r < height; ++r) {
      scales[first + r] = round_to_16(row16, job, row_of_x(job, row0 + first + r));
      pack_halves(x + first * words + r, height, row16, groups * kDepth, kNibbles);
      for (int64_t g = 0; g < groups; ++g) {
        int32_t sum = 0;
        for (int64_t i = 0; i < kDepth; ++i) sum += row16[g * kDepth + i];
        offsets[first * groups + g * height + r] = -8 * sum;
      }
    }
  }
  over_panels(
      job, row0, rows, tiles, panels, groups, [](const char* w) { return w; },
      [&](int64_t first, int64_t height, const char* w, int64_t, const char* next, int64_t step, float* sums) {
        kHeights[height - 1](sums, w, reinterpret_cast<const float*>(x + first * words), offsets + first * groups,
                             groups, next, step);
        return Rescale{false, scales + first, nullptr, nullptr, nullptr};
      });
}

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
