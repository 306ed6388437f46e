// Attention of many query vectors over a range of tokens with both products in 16-bit integers, one thread. For targets on
// which such a product costs less than one of floats, under `activations: 'int8'` (docs/decisions/0044).
//
//   scores[r, t] = (q[r] . k[t]) * q_scale[r] * k_scale[t]          q, k in -4095..4095, a scale a token and head
//   out[r, :]    = sum_t (w[r, t] * v[t, :]) * w_step[r] / sum p    w of p * v_scale[t] in 0..2047, v in -2047..2047
//
// Values    As many bits as exact sums in int32 allow: 128 * 4095^2 and 352 * 2047^2. Of a cache in 8 bits keys and values
//           are its bytes.
// Tiling    A chunk of up to 352 tokens is converted once, to units of two values as bf16 has them, and meets all tiles of
//           up to kQueries queries; their sums so far wait in L2.
// Order     Chunks begin at multiples of their length, and no scale depends on another token or query: a query gets what
//           the tokens that it sees give, bit for bit, whoever stands beside it and however a prompt is cut.
// Checked   test/native/cpu_attention_test.cpp
#pragma once

#include "kernels/cpu/attention_kernels.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

constexpr int64_t kQueries = 86 * kTileRows;
constexpr float kScoreTop = 4095.0f, kSumTop = 2047.0f;
static_assert(kMaxHeadDim * 4095 * 4095 < (int64_t{1} << 31) &&
              cpu::kMostChunkTokens * 2047 * 2047 < (int64_t{1} << 31));

struct IntegerScratch {
  alignas(64) char keys[cpu::kMostChunkTokens * kMaxHeadDim * 2];    // [tokens / 32][dim / 2][32] pairs
  alignas(64) char values[cpu::kMostChunkTokens * kMaxHeadDim * 2];  // [dim / 32][tokens / 2][32] pairs
  alignas(64) float key_scales[cpu::kMostChunkTokens];
  alignas(64) float value_scales[cpu::kMostChunkTokens];
  alignas(64) float scores[kTileRows * kScoreStride];
  alignas(64) float sums[kTileRows * kMaxHeadDim];
  alignas(64) int16_t rounded[kTileRows * kMaxHeadDim];
  alignas(64) float query_scales[kQueries];
  alignas(64) float q[kQueries * kMaxHeadDim / 2 + 16];  // a tile after the other, [dim / 2][rows] pairs
  alignas(64) float totals[kQueries * kPartStride];
};

DRIVLM_INLINE U pair_of(I low, I high) {
  return (reinterpret_cast<U>(low) & 0xffffu) | (reinterpret_cast<U>(high) << 16);
}

// Largest and sum of all lanes, in a fixed order.
DRIVLM_INLINE float fold_max(F v) {
  const __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}
DRIVLM_INLINE float fold_sum(F v) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

// One panel of keys, bf16 as the cache has it: the scale of each of its 32 tokens and what it leaves of them.
DRIVLM_INLINE void round_keys(char* out, float* scales, const char* panel, int64_t dim) {
  for (int64_t i = 0; i < 32; i += kWidth) {
    F top = F{};
    for (int64_t u = 0; u < dim / 2; ++u) {
      const char* w = panel + u * 128 + i * 4;
      top = max(top, max(absolute(even_values(w)), absolute(odd_values(w))));
    }
    const F inverse = top > 0.0f ? kScoreTop / top : F{};
    store(scales + i, top * (1.0f / kScoreTop));
    for (int64_t u = 0; u < dim / 2; ++u) {
      const char* w = panel + u * 128 + i * 4;
      store_bits(out + u * 128 + i * 4,
                 pair_of(to_nearest(even_values(w) * inverse), to_nearest(odd_values(w) * inverse)));
    }
  }
}

// Two tokens of values, whose panels stand `from_panel` and `to_panel` bytes apart.
DRIVLM_INLINE void round_values(char* out, int64_t to_panel, float* scales, const char* unit, int64_t from_panel,
                                int64_t dim) {
  F top0 = F{}, top1 = F{};
  for (int64_t d = 0; d < dim; d += kWidth) {
    const char* w = unit + d / 32 * from_panel + d % 32 * 4;
    top0 = max(top0, absolute(even_values(w)));
    top1 = max(top1, absolute(odd_values(w)));
  }
  const float first = fold_max(top0), second = fold_max(top1);
  const F inverse0 = splat(first > 0 ? kSumTop / first : 0.0f), inverse1 = splat(second > 0 ? kSumTop / second : 0.0f);
  scales[0] = first * (1.0f / kSumTop);
  scales[1] = second * (1.0f / kSumTop);
  for (int64_t d = 0; d < dim; d += kWidth) {
    const char* w = unit + d / 32 * from_panel + d % 32 * 4;
    store_bits(out + d / 32 * to_panel + d % 32 * 4,
               pair_of(to_nearest(even_values(w) * inverse0), to_nearest(odd_values(w) * inverse1)));
  }
}

// `count` tokens that stand together in a block from token `inside` on, a multiple of 32, to tokens `at`.. of the chunk.
void convert_run(IntegerScratch& s, int64_t value_panel, const KvLayout& layout, const char* block, int64_t inside,
                 int64_t count, int64_t at) {
  const int64_t dim = layout.head_dim, key_panel = dim / 2 * 128;
  const char* keys = block + inside / 32 * layout.key_panel_bytes();
  const char* values = block + layout.key_bytes() + inside / layout.depth() * 128;
  char* to_keys = s.keys + at / 32 * key_panel;
  char* to_values = s.values + at / 2 * 128;
  if (!layout.int8) {
    for (int64_t t = 0; t < count; t += 32, keys += layout.key_panel_bytes(), to_keys += key_panel) {
      round_keys(to_keys, s.key_scales + at + t, keys, dim);
    }
    for (int64_t t = 0; t < count; t += 2, values += 128, to_values += 128) {
      round_values(to_values, value_panel, s.value_scales + at + t, values, layout.value_panel_bytes(), dim);
    }
    return;
  }
  const float* scales = reinterpret_cast<const float*>(block + layout.scales_offset());
  memcpy(s.key_scales + at, scales + inside, static_cast<size_t>(count) * 4);
  memcpy(s.value_scales + at, scales + layout.page_tokens + inside, static_cast<size_t>(count) * 4);
  const auto widen_unit = [](char* to, const char* from) {
    for (int64_t i = 0; i < 128; i += kWidth * 4) {
      const U four = load_bits(from + i);
      store_bits(to + i, S16S8::even(four));
      store_bits(to + 128 + i, S16S8::odd(four));
    }
  };
  for (int64_t u = 0; u < (count + 31) / 32 * (dim / 4); ++u) widen_unit(to_keys + u * 256, keys + u * 128);
  for (int64_t p = 0; p < cpu::panel_count(dim); ++p) {
    for (int64_t u = 0; u < (count + 3) / 4; ++u) {
      widen_unit(to_values + p * value_panel + u * 256, values + p * layout.value_panel_bytes() + u * 128);
    }
  }
}

// Tokens [chunk, chunk + tokens), and scales of 0 up to a whole panel.
void convert_chunk(IntegerScratch& s, const AttendJob& job, int64_t chunk, int64_t tokens) {
  const int64_t page_tokens = job.layout.page_tokens;
  for (int64_t t = 0; t < tokens;) {
    const int64_t token = chunk + t, page = token / page_tokens, inside = token % page_tokens;
    const int64_t run = min_of(tokens - t, page_tokens - inside);
    convert_run(s, job.chunk_tokens / 2 * 128, job.layout,
                job.blocks + (job.pages ? job.pages[page] : page) * job.page_bytes, inside, run, t);
    t += run;
  }
  for (int64_t t = tokens; t % 32 != 0; ++t) s.key_scales[t] = s.value_scales[t] = 0;
}

// One query, bf16, in 16 bits. Returns the scale.
DRIVLM_INLINE float round_query(int16_t* q, const uint16_t* values, int64_t dim) {
  F largest = F{};
  for (int64_t d = 0; d < dim; d += kWidth) largest = max(largest, absolute(to_f32(load_half(values + d))));
  const float top = fold_max(largest);
  const F inverse = splat(top > 0 ? kScoreTop / top : 0.0f);
  for (int64_t d = 0; d < dim; d += kWidth) store_shorts(q + d, to_nearest(to_f32(load_half(values + d)) * inverse));
  return top * (1.0f / kScoreTop);
}

struct Softened {
  float top, sum, step;  // largest score; sum of the weights relative to it; what a weight of 1 stands for
};

// A row of sums of q . k to weights times the scales of their values, in place in 16 bits; 0 from `valid` to `width`, a multiple of 32.
DRIVLM_INLINE Softened soften_integers(float* row, int64_t valid, int64_t width, const float* key_scales,
                                       const float* value_scales, float scale) {
  const F scales = splat(scale);
  F tops = splat(kLowest);
  int64_t j = 0;
  const auto scored = [&](int64_t at) {
    const F v = __builtin_convertvector(reinterpret_cast<I>(load(row + at)), F) * (load(key_scales + at) * scales);
    store(row + at, v);
    return v;
  };
  for (; j + kWidth <= valid; j += kWidth) tops = max(tops, scored(j));
  for (; j < width; j += kWidth) tops = max(tops, first_lanes(scored(j), valid - j, kLowest));
  const float top = fold_max(tops);
  F total = F{}, largest = F{};
  const auto weigh = [&](int64_t at, F p) {
    total += p;
    const F w = p * load(value_scales + at);
    store(row + at, w);
    largest = max(largest, w);
  };
  for (j = 0; j + kWidth <= valid; j += kWidth) weigh(j, exp2(load(row + j) - top));
  for (; j < width; j += kWidth) weigh(j, first_lanes(exp2(load(row + j) - top), valid - j, 0.0f));
  const float most = fold_max(largest);
  const F inverse = splat(most > 0 ? kSumTop / most : 0.0f);
  int16_t* w = reinterpret_cast<int16_t*>(row);
  for (j = 0; j < width; j += 2 * kWidth) {
    const I low = to_nearest(load(row + j) * inverse), high = to_nearest(load(row + j + kWidth) * inverse);
    const __m256i both = _mm256_packs_epi32(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(high));
    store_bits(w + j, reinterpret_cast<U>(_mm256_permute4x64_epi64(both, 0xd8)));
  }
  return {top, fold_sum(total), most * (1.0f / kSumTop)};
}

// One tile against the chunk of `tokens` tokens that s has; its part is added to the totals of its queries.
void attend_chunk(const AttendJob& job, const AttendRow* rows, int64_t count, const float* q, const float* query_scales,
                  float* totals, int64_t chunk, int64_t tokens, IntegerScratch& s) {
  const int64_t dim = job.layout.head_dim, key_panel = dim / 2 * 128, value_panel = job.chunk_tokens / 2 * 128;
  const int64_t width = (tokens + 31) / 32 * 32, dim_panels = cpu::panel_count(dim), stride = dim_panels * 32;
  score_tile_for<S16Pairs>(count)(s.scores, s.keys, width / 32, q, dim / 2, key_panel);
  Softened of[kTileRows];
  for (int64_t r = 0; r < count; ++r) {
    float* row = s.scores + r * kScoreStride;
    const int64_t valid = min_of(rows[r].visible - chunk, tokens);
    if (valid > 0) {
      of[r] =
          soften_integers(row, valid, width, s.key_scales, s.value_scales, query_scales[r] * job.scale * 1.44269504f);
    } else {
      memset(row, 0, static_cast<size_t>(width) * 2);
    }
  }
  const Piece piece{s.values, (tokens + 1) / 2};
  for (int64_t p = 0; p < dim_panels; ++p) {
    piece_tile_for<S16Pairs>(count)(s.sums + p * 32, stride, &piece, 1, p * value_panel, s.scores,
                                    s.values + (p + 1) * value_panel);
  }
  alignas(64) float by[kRowLanes] = {}, part_by[kRowLanes] = {};
  for (int64_t r = 0; r < count; ++r) {
    if (rows[r].visible <= chunk) continue;
    const float old = totals[r * kPartStride], m = max_of(old, of[r].top);
    by[r] = old - m;
    part_by[r] = of[r].top - m;
  }
  for (int64_t r = 0; r < count; r += kWidth) {
    store(by + r, exp2(load(by + r)));
    store(part_by + r, exp2(load(part_by + r)));
  }
  for (int64_t r = 0; r < count; ++r) {
    if (rows[r].visible <= chunk) continue;
    float* total = totals + r * kPartStride;
    total[0] = max_of(total[0], of[r].top);
    total[1] = total[1] * by[r] + of[r].sum * part_by[r];
    const F old = splat(by[r]), scale = splat(part_by[r] * of[r].step);
    for (int64_t d = 0; d < dim; d += kWidth) {
      const F part = __builtin_convertvector(reinterpret_cast<I>(load(s.sums + r * stride + d)), F);
      store(sums_of(total) + d, load(sums_of(total) + d) * old + part * scale);
    }
  }
}

// As attend, of rows without parts, from token 0 on.
void attend_in_integers(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t tokens, void* scratch) {
  IntegerScratch& s = *static_cast<IntegerScratch*>(scratch);
  const int64_t dim = job.layout.head_dim;
  while (count > 0) {
    const int64_t queries = min_of(count, kQueries), tiles = (queries + kTileRows - 1) / kTileRows;
    const auto first_of = [&](int64_t tile) { return queries * tile / tiles; };
    int64_t last[kQueries / kTileRows], seen = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = first_of(t), height = first_of(t + 1) - first;
      last[t] = 0;
      for (int64_t r = 0; r < height; ++r) {
        s.query_scales[first + r] = round_query(s.rounded + r * dim, rows[first + r].q, dim);
        clear_total(s.totals + (first + r) * kPartStride, dim);
        last[t] = max_of(last[t], min_of(rows[first + r].visible, tokens));
      }
      seen = max_of(seen, last[t]);
      pack_rows<RawWords>(reinterpret_cast<uint32_t*>(s.q) + first * dim / 2, reinterpret_cast<const char*>(s.rounded),
                          dim * 2, height, dim * 2, height);
    }
    for (int64_t chunk = 0; chunk < seen; chunk += job.chunk_tokens) {
      convert_chunk(s, job, chunk, min_of(job.chunk_tokens, seen - chunk));
      for (int64_t t = 0; t < tiles; ++t) {
        if (last[t] <= chunk) continue;
        const int64_t first = first_of(t);
        attend_chunk(job, rows + first, first_of(t + 1) - first, s.q + first * dim / 2, s.query_scales + first,
                     s.totals + first * kPartStride, chunk, min_of(job.chunk_tokens, last[t] - chunk), s);
      }
    }
    for (int64_t r = 0; r < queries; ++r) finish_total(rows[r].out, s.totals + r * kPartStride, dim);
    rows += queries;
    count -= queries;
  }
}

size_t integers_scratch() { return sizeof(IntegerScratch); }

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
