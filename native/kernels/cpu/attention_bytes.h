// Attention of many query vectors over a range of tokens with both products in bytes, one thread. For targets with an instruction that multiplies four
// bytes at once (VNNI, NEON's dot product), under `activations: 'int8'` (docs/decisions/0049, 0055).
//
//   scores[r, t] = (Hq[r] . Hk[t]) * q_scale[r] * k_scale[t]          bytes of Hq and Hk, a scale a token and head
//   out[r, :]    = sum_t (w[r, t] * v[t, :]) * w_step[r] / sum p      w of p * v_scale[t] in 0..255, v in -127..127
//
// One side of a product of bytes has no sign on x86: there 128 is added to keys, and the offset of a query takes it away. On NEON both sides have one: 128 is
// taken from w, and a block's sums of v bring it back.
//
// H         A Hadamard transform of every query and key, which leaves their products as they are and spreads what stands out in a few dimensions over
//           all of them: one scale does for the vector. A cache in 8 bits has its keys spread already, and queries that meet it come so too (packed/formats.h):
//           there H is left out, which done twice would bring back what stood out, and keys are taken as they are.
// Tiling    Scores are made with tokens as rows and 32 queries as columns, so that the softmax runs down the columns and its weights come out as the
//           words that the second product broadcasts. A block is 64 tokens: its weights have a step of their own, so that a large one hides no small
//           ones further away, and its sums are added to the totals in f32.
// Order     Blocks begin at multiples of 64, and no scale or step depends on a token that the query does not see: a query gets what the tokens that it
//           sees give, bit for bit, whoever stands beside it and however a prompt is cut.
// Checked   test/native/cpu_attention_test.cpp
#pragma once

#include "kernels/cpu/attention_kernels.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

constexpr int64_t kBlockTokens = 64;
constexpr int64_t kQueryLanes = 32;   // of a panel of queries
constexpr int64_t kKeptTokens = 512;  // in bytes at a time
constexpr int64_t kKeptPanels = 33;   // of queries that meet them: a tile's 1,025 positions

// Rows of a tile of scores, and of one of sums: tiles of a block's 64 and of a panel's 32 are of nearly equal height.
constexpr int kByteRows = kWidth == 16 ? 13 : kTileRows;
constexpr int kWeightRows = kTileRows < 11 ? kTileRows : 11;

constexpr uint32_t kHigh = 0x80808080u;                     // of four bytes
constexpr uint32_t kKeyFlip = kSignedBytes ? 0 : kHigh;     // adds 128 to each
constexpr uint32_t kWeightFlip = kSignedBytes ? kHigh : 0;  // takes 128 from each

struct ByteBlock {
  alignas(64) uint32_t keys[kMaxHeadDim / 4 * kBlockTokens];           // [dim / 4][64], kKeyFlip in each word
  alignas(64) char values[kMaxHeadDim / 32 * kBlockTokens / 4 * 128];  // [dim / 32][64 / 4][32] words of four tokens
  alignas(64) float key_scales[kBlockTokens];
  alignas(64) float value_scales[kBlockTokens];
  alignas(64) float most[kBlockTokens];   // the largest of value_scales up to each token
  alignas(64) float raised[kMaxHeadDim];  // int32 bits: what kWeightFlip takes from the sums of a dimension
};

struct QueryPanel {
  alignas(64) char q[kMaxHeadDim / 4 * kQueryLanes * 4];  // [dim / 4][32] words
  alignas(64) float factor[kQueryLanes];                  // of its scores, in base 2
  alignas(64) float offset[kQueryLanes];                  // int32 bits: what the 128 of the keys add, taken away
  alignas(64) int32_t visible[kQueryLanes];
  alignas(64) float top[kQueryLanes];
  alignas(64) float weight[kQueryLanes];
  alignas(64) float total[kQueryLanes * kMaxHeadDim];  // [32][dim]
  int64_t fewest, most;                                // of `visible`
};

struct ByteScratch {
  ByteBlock blocks[kKeptTokens / kBlockTokens];
  QueryPanel panels[kKeptPanels];
  alignas(64) float wide[kMaxHeadDim * kWidth];          // [dim][kWidth tokens or queries]
  alignas(64) float scores[kBlockTokens * kQueryLanes];  // [64][32]
  alignas(64) uint32_t weights[kBlockTokens / 4 * kQueryLanes];
  alignas(64) float by[kQueryLanes];
  alignas(64) float part_by[kQueryLanes];
  alignas(64) uint16_t together[kWidth * kMaxHeadDim];
  alignas(64) uint32_t pairs[kWidth * kMaxHeadDim / 2 + 4];
};

// The transform of each column of v [dim][kWidth] in parts as long as the largest power of two in dim, which it returns: products grow by it.
int64_t hadamard(float* v, int64_t dim) {
  const int64_t length = dim & -dim;
  int64_t step = 1;
  for (; step * 4 <= length; step *= 4) {
    for (int64_t i = 0; i < dim; i += step * 4) {
      for (int64_t j = i; j < i + step; ++j) {
        float* at = v + j * kWidth;
        const F a = load(at), b = load(at + step * kWidth), c = load(at + 2 * step * kWidth),
                d = load(at + 3 * step * kWidth);
        const F ab = a + b, cd = c + d, a_b = a - b, c_d = c - d;
        store(at, ab + cd);
        store(at + step * kWidth, a_b + c_d);
        store(at + 2 * step * kWidth, ab - cd);
        store(at + 3 * step * kWidth, a_b - c_d);
      }
    }
  }
  for (int64_t i = 0; step < length && i < dim; i += step * 2) {
    for (int64_t j = i; j < i + step; ++j) {
      const F a = load(v + j * kWidth), b = load(v + (j + step) * kWidth);
      store(v + j * kWidth, a + b);
      store(v + (j + step) * kWidth, a - b);
    }
  }
  return length;
}

DRIVLM_INLINE U word_of(I a, I b, I c, I d) {
  return (reinterpret_cast<U>(a) & 0xffu) | ((reinterpret_cast<U>(b) & 0xffu) << 8) |
         ((reinterpret_cast<U>(c) & 0xffu) << 16) | (reinterpret_cast<U>(d) << 24);
}

DRIVLM_INLINE F from_integers(F bits) { return __builtin_convertvector(reinterpret_cast<I>(bits), F); }
DRIVLM_INLINE I nearest(F v) {
#if defined(__AVX512F__)
  return reinterpret_cast<I>(_mm512_cvtps_epi32(v));
#elif defined(__AVX2__)
  return reinterpret_cast<I>(_mm256_cvtps_epi32(v));
#else
  return reinterpret_cast<I>(vcvtnq_s32_f32(v));
#endif
}

// The first n of kWidth words, the others 0. Reads no byte beyond.
DRIVLM_INLINE U first_words(const void* p, int64_t n) {
  if (n >= kWidth) return load_bits(p);
  uint32_t words[kWidth] = {};
  memcpy(words, p, static_cast<size_t>(max_of(n, 0)) * 4);
  return load_bits(words);
}

// Columns of v [dim][kWidth], transformed unless they come `spread`, in bytes: a word of four each, `stride` words after the one before. Returns the scale of
// each, and in `sum` its bytes' sum.
F round_columns(uint32_t* out, int64_t stride, uint32_t flip, float* v, int64_t dim, bool spread, I& sum) {
  const int64_t length = spread ? 1 : hadamard(v, dim);
  F top = F{};
  for (int64_t d = 0; d < dim; ++d) top = max(top, absolute(load(v + d * kWidth)));
  const F inverse = top > 0.0f ? 127.0f / top : F{};
  F total = F{};
  for (int64_t d = 0; d < dim; d += 4, out += stride) {
    const auto byte = [&](int64_t i) { return nearest(load(v + (d + i) * kWidth) * inverse); };
    const U word = word_of(byte(0), byte(1), byte(2), byte(3));
    total = dot4(total, splat_bits(0x01010101u), word);
    store_bits(out, word ^ splat_bits(flip));
  }
  sum = reinterpret_cast<I>(total);
  return top * (1.0f / 127) * splat(__builtin_sqrtf(1.0f / static_cast<float>(length)));
}

// The first kWidth of `count` rows of bf16 as columns of v [dim][kWidth]; columns that have no row are 0.
void widen_rows_to_columns(ByteScratch& s, const uint16_t* rows, int64_t stride, int64_t count, int64_t dim) {
  if (count > 0)
    pack_rows<RawWords>(s.pairs, reinterpret_cast<const char*>(rows), stride * 2, min_of(count, kWidth), dim * 2,
                        kWidth);
  for (int64_t u = 0; u < dim / 2; ++u) {
    const U pair = first_words(s.pairs + u * kWidth, count);
    store(s.wide + 2 * u * kWidth, reinterpret_cast<F>(pair << 16));
    store(s.wide + (2 * u + 1) * kWidth, reinterpret_cast<F>(pair & 0xffff0000u));
  }
}

// kWidth keys from token `inside` of a block of a cache in bf16 on, of which `count` are there, as columns of v [dim][kWidth].
DRIVLM_INLINE void widen_keys(float* v, const KvLayout& layout, const char* block, int64_t inside, int64_t count) {
  const char* w = block + inside / 32 * layout.key_panel_bytes() + inside % 32 * 4;
  for (int64_t d = 0; d < layout.head_dim; w += cpu::kUnitBytes) {
    const U word = first_words(w, count);
    store(v + d++ * kWidth, reinterpret_cast<F>(word << 16));
    store(v + d++ * kWidth, reinterpret_cast<F>(word & 0xffff0000u));
  }
}

// The same of a cache in 8 bits, where four values stand in the order 0, 2, 1 and 3: as they are but for kKeyFlip, words of four, kBlockTokens apart. Returns
// their scales.
DRIVLM_INLINE F take_keys(uint32_t* out, const KvLayout& layout, const char* block, int64_t inside, int64_t count) {
  const char* w = block + inside / 32 * layout.key_panel_bytes() + inside % 32 * 4;
  for (int64_t d = 0; d < layout.head_dim; d += 4, w += cpu::kUnitBytes, out += kBlockTokens) {
    store_bits(out, middle_swapped(first_words(w, count)) ^ splat_bits(kKeyFlip));
  }
  return reinterpret_cast<F>(first_words(block + layout.scales_offset() + inside * 4, count));
}

constexpr int64_t kValuePanel = kBlockTokens / 4 * 128;  // bytes of 32 dimensions of a block

// Four values, value(i, d) of which are 16 dimensions of the i-th, as words of their bytes and a scale each.
template <class Value>
DRIVLM_INLINE void round_values(char* out, float* scales, int64_t dim, const Value& value) {
  F inverse[4];
  for (int64_t i = 0; i < 4; ++i) {
    F top = F{};
    for (int64_t d = 0; d < dim; d += kWidth) top = max(top, absolute(value(i, d)));
    const float largest = max_of(top);
    scales[i] = largest * (1.0f / 127);
    inverse[i] = splat(largest > 0 ? 127.0f / largest : 0.0f);
  }
  for (int64_t d = 0; d < dim; d += kWidth) {
    const auto byte = [&](int64_t i) { return nearest(value(i, d) * inverse[i]); };
    store_bits(out + d / 32 * kValuePanel + d % 32 * 4, word_of(byte(0), byte(1), byte(2), byte(3)));
  }
}

// Four values of a block of the cache from token `inside` on, of which `count` are there.
DRIVLM_INLINE void take_values(char* out, float* scales, const KvLayout& layout, const char* block, int64_t inside,
                               int64_t count) {
  const int64_t panel = layout.value_panel_bytes();
  const char* w = block + layout.key_bytes() + inside / layout.depth() * cpu::kUnitBytes;
  if (!layout.int8) {
    return round_values(out, scales, layout.head_dim, [&](int64_t i, int64_t d) {
      const char* at = w + i / 2 * cpu::kUnitBytes + d / 32 * panel + d % 32 * 4;
      return i >= count ? F{} : i % 2 == 0 ? even_values(at) : odd_values(at);
    });
  }
  const U kept = splat_bits(0xffffffffu >> (32 - 8 * count));
  const float* from = reinterpret_cast<const float*>(block + layout.scales_offset()) + layout.page_tokens + inside;
  for (int64_t i = 0; i < 4; ++i) scales[i] = i < count ? from[i] : 0.0f;
  for (int64_t d = 0; d < layout.head_dim; d += kWidth) {
    const U word = load_bits(w + d / 32 * panel + d % 32 * 4);
    store_bits(out + d / 32 * kValuePanel + d % 32 * 4, middle_swapped(word) & kept);
  }
}

// Tokens [token, token + count) of `tokens`, at most kBlockTokens.
void convert_block(ByteBlock& to, ByteScratch& s, const AttendJob& job, int64_t token, int64_t count, int64_t tokens) {
  const int64_t dim = job.layout.head_dim, page_tokens = job.layout.page_tokens;
  const auto block_of = [&](int64_t t) {
    const int64_t page = (token + t) / page_tokens;
    return job.blocks + (job.pages ? job.pages[page] : page) * job.page_bytes;
  };
  // Rows are far apart: what comes next is fetched, values before the keys are done with.
  for (int64_t t = 0; !job.blocks && t < count; ++t) fetch_row(job.values + (token + t) * job.stride, dim);
  for (int64_t t = 0; t < count; t += kWidth) {
    if (job.layout.int8) {
      store(to.key_scales + t, take_keys(to.keys + t, job.layout, block_of(t), (token + t) % page_tokens, count - t));
      continue;
    }
    if (job.blocks) {
      widen_keys(s.wide, job.layout, block_of(t), (token + t) % page_tokens, count - t);
    } else {
      widen_rows_to_columns(s, job.keys + (token + t) * job.stride, job.stride, count - t, dim);
    }
    I sum;
    store(to.key_scales + t, round_columns(to.keys + t, kBlockTokens, kKeyFlip, s.wide, dim, false, sum));
  }
  for (int64_t t = 0; t < count; t += 4) {
    char* out = to.values + t / 4 * 128;
    const int64_t there = min_of(4, count - t);
    for (int64_t i = 0; !job.blocks && i < 4 && token + kBlockTokens + t + i < tokens; ++i)
      fetch_row(job.keys + (token + kBlockTokens + t + i) * job.stride, dim);
    if (job.blocks) {
      take_values(out, to.value_scales + t, job.layout, block_of(t), (token + t) % page_tokens, there);
    } else {
      const uint16_t* rows = job.values + (token + t) * job.stride;
      round_values(out, to.value_scales + t, dim, [&](int64_t i, int64_t d) {
        return i < there ? to_f32(load_half(rows + i * job.stride + d)) : F{};
      });
    }
  }
  for (int64_t d = 0; kSignedBytes && d < dim; d += kWidth) {
    F sum = F{};
    for (int64_t t = 0; t < count; t += 4)
      sum = dot4(sum, splat_bits(0x01010101u), load_bits(to.values + d / 32 * kValuePanel + t / 4 * 128 + d % 32 * 4));
    store_bits(to.raised + d, reinterpret_cast<U>(sum) << 7);
  }
  float most = 0;
  for (int64_t t = 0; t < count; ++t) to.most[t] = most = max_of(most, to.value_scales[t]);
}

// `count` rows to a panel of queries; `more` follow from there on, these among them.
void round_queries(QueryPanel& to, ByteScratch& s, const AttendJob& job, const AttendRow* rows, int64_t count,
                   int64_t more, int64_t tokens) {
  const int64_t dim = job.layout.head_dim;
  to.fewest = tokens;
  to.most = 0;
  for (int64_t lane = 0; lane < kQueryLanes; ++lane) {
    const int64_t visible = lane < count ? min_of(rows[lane].visible, tokens) : 0;
    to.visible[lane] = static_cast<int32_t>(visible);
    if (lane < count) to.fewest = min_of(to.fewest, visible);
    to.most = max_of(to.most, visible);
  }
  for (int64_t lane = 0; lane < kQueryLanes; lane += kWidth) {
    const int64_t there = max_of(min_of(count - lane, kWidth), 0);
    for (int64_t i = lane + kWidth; i < min_of(lane + 2 * kWidth, more); ++i) fetch_row(rows[i].q, dim);
    for (int64_t i = 0; i < there; ++i) memcpy(s.together + i * dim, rows[lane + i].q, static_cast<size_t>(dim) * 2);
    widen_rows_to_columns(s, s.together, dim, there, dim);
    I sum;
    const F scale =
        round_columns(reinterpret_cast<uint32_t*>(to.q) + lane, kQueryLanes, 0, s.wide, dim, job.layout.int8, sum);
    // Not 0, so that what is hidden stays far below a query of zeros.
    store(to.factor + lane, max(scale * (job.scale * 1.44269504f), splat(1e-30f)));
    store(to.offset + lane, kSignedBytes ? F{} : reinterpret_cast<F>(sum * -128));
    store(to.top + lane, splat(kLowest));
    store(to.weight + lane, F{});
  }
  for (int64_t i = 0; i < kQueryLanes * dim; i += kWidth) store(to.total + i, F{});
}

// Of 32 queries, the largest score of each so far.
using Tops = F[kQueryLanes / kWidth];

// `units` of w times kRows words of x, `kStep` further for each. The sums are held in their registers at the end: g++ 12 would keep the integers that
// are added up apart from the floats made of them afterwards, and spill both.
template <int kStep, int kRows>
DRIVLM_INLINE void add_words(F (&sum)[kRows][2], const char* w, const uint32_t* x, int64_t units) {
  for (int64_t u = 0; u < units; ++u, w += 128, x += kStep)
    U8S8::step<kRows, 1, 0>(sum, w, reinterpret_cast<const float*>(x));
  DRIVLM_UNROLL
  for (int r = 0; r < kRows; ++r) asm("" : DRIVLM_IN_REGISTER(sum[r][0]), DRIVLM_IN_REGISTER(sum[r][1]));
}

// Scores of kRows tokens in f32, still to be multiplied by what the queries have for a factor, and their largest.
template <int kRows>
__attribute__((noinline)) void score_rows(float* scores, const QueryPanel& of, const uint32_t* keys, int64_t units,
                                          const float* key_scales, Tops& top) {
  for (int lane = 0; lane < 16; lane += kWidth) {
    F sum[kRows][2];
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] = load(of.offset + lane);
      sum[r][1] = load(of.offset + lane + 16);
    }
    add_words<kBlockTokens>(sum, of.q + lane * 4, keys, units);
    F top0 = top[lane / kWidth], top1 = top[(lane + 16) / kWidth];
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F first = from_integers(sum[r][0]) * key_scales[r], second = from_integers(sum[r][1]) * key_scales[r];
      store(scores + r * kQueryLanes + lane, first);
      store(scores + r * kQueryLanes + lane + 16, second);
      top0 = max(top0, first);
      top1 = max(top1, second);
    }
    top[lane / kWidth] = top0;
    top[(lane + 16) / kWidth] = top1;
  }
}

// total [kRows, 32 or 16] = total * by + part_by * (weights * values).
template <int kRows>
__attribute__((noinline)) void add_values(float* total, int64_t dim, bool whole, const char* values,
                                          const float* raised, const uint32_t* weights, int64_t units, const float* by,
                                          const float* part_by) {
  for (int lane = 0; lane < 16; lane += kWidth) {
    F sum[kRows][2];
    clear_sums(sum);
    if constexpr (kSignedBytes) {
      DRIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        sum[r][0] = load(raised + lane);
        sum[r][1] = load(raised + lane + 16);
      }
    }
    add_words<kQueryLanes>(sum, values + lane * 4, weights, units);
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float* to = total + r * dim + lane;
      store(to, load(to) * by[r] + from_integers(sum[r][0]) * part_by[r]);
      if (whole) store(to + 16, load(to + 16) * by[r] + from_integers(sum[r][1]) * part_by[r]);
    }
  }
}

template <int kRows>
DRIVLM_INLINE void score_rows_of(int64_t rows, float* scores, const QueryPanel& of, const uint32_t* keys, int64_t units,
                                 const float* key_scales, Tops& top) {
  if (rows == kRows) return score_rows<kRows>(scores, of, keys, units, key_scales, top);
  if constexpr (kRows > 1) score_rows_of<kRows - 1>(rows, scores, of, keys, units, key_scales, top);
}
template <int kRows>
DRIVLM_INLINE void add_values_of(int64_t rows, float* total, int64_t dim, bool whole, const char* values,
                                 const float* raised, const uint32_t* weights, int64_t units, const float* by,
                                 const float* part_by) {
  if (rows == kRows) return add_values<kRows>(total, dim, whole, values, raised, weights, units, by, part_by);
  if constexpr (kRows > 1)
    add_values_of<kRows - 1>(rows, total, dim, whole, values, raised, weights, units, by, part_by);
}

// Scores of a block to weights in bytes, of kWidth queries from `lane` on. kHides: a query may see only some of the tokens, seen[lane] of them.
template <bool kHides>
DRIVLM_INLINE void soften_block(QueryPanel& to, int64_t lane, const ByteBlock& block, ByteScratch& s, F top, I seen,
                                int64_t count) {
  const float* scores = s.scores + lane;
  const auto sees = [&](int64_t t) { return seen > static_cast<int32_t>(t); };
  F value_top = splat(block.most[count - 1]);
  if constexpr (kHides) {
    top = splat(kLowest);
    for (int64_t t = 0; t < count; ++t) top = max(top, sees(t) ? load(scores + t * kQueryLanes) : splat(kLowest));
    for (int64_t j = 0; j < kWidth; ++j) value_top[j] = block.most[max_of(min_of(seen[j], count) - 1, 0)];
  }
  const F factor = load(to.factor + lane), step = value_top > 0.0f ? 255.0f / value_top : F{};
  const F largest = top > kLowest ? top * factor : splat(kLowest), base = top > kLowest ? largest : F{};
  // What a weight of 1 is in bytes, of each token: 255 for the largest value that is seen.
  alignas(64) float steps[kBlockTokens];
  for (int64_t t = 0; !kHides && t < count; t += kWidth) store(steps + t, load(block.value_scales + t) * step);
  F sum = F{};
  for (int64_t t = 0; t < count; t += 4) {
    I byte[4];
    DRIVLM_UNROLL
    for (int64_t j = 0; j < 4; ++j) {
      F p = exp2_coarse(load(scores + (t + j) * kQueryLanes) * factor - base);
      if constexpr (kHides) p = sees(t + j) ? p : F{};
      sum += p;
      byte[j] = nearest(p * (kHides ? step * block.value_scales[t + j] : splat(steps[t + j])));
    }
    const U word = word_of(byte[0], byte[1], byte[2], byte[3]);
    store_bits(s.weights + t / 4 * kQueryLanes + lane, word ^ splat_bits(kWeightFlip));
  }
  const F old = load(to.top + lane), now = max(old, largest);
  const F by = exp2(old - now), part_by = exp2(largest - now);
  store(to.top + lane, now);
  store(to.weight + lane, load(to.weight + lane) * by + sum * part_by);
  store(s.by + lane, by);
  store(s.part_by + lane, part_by * (value_top * (1.0f / 255)));
}

// `count` tokens from `token` on, in bytes in `block`, to the totals of a panel of `queries` queries.
void attend_block(QueryPanel& to, int64_t queries, const ByteBlock& block, ByteScratch& s, int64_t dim, int64_t token,
                  int64_t count) {
  Tops top;
  for (F& each : top) each = splat(kLowest);
  const int64_t tiles = (count + kByteRows - 1) / kByteRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = count * t / tiles;
    score_rows_of<kByteRows>(count * (t + 1) / tiles - first, s.scores + first * kQueryLanes, to, block.keys + first,
                             dim / 4, block.key_scales + first, top);
  }
  for (int64_t lane = 0; lane < kQueryLanes; lane += kWidth) {
    const F largest = top[lane / kWidth];
    if (to.fewest < token + count || count % 4 != 0) {
      const I seen = reinterpret_cast<I>(load_bits(to.visible + lane)) - static_cast<int32_t>(token);
      const I there = seen < static_cast<int32_t>(count) ? seen : I{} + static_cast<int32_t>(count);
      soften_block<true>(to, lane, block, s, largest, there, count);
    } else {
      soften_block<false>(to, lane, block, s, largest, I{}, count);
    }
  }
  const int64_t parts = (queries + kWeightRows - 1) / kWeightRows;
  for (int64_t d = 0; d < dim; d += 32) {
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t first = queries * p / parts;
      add_values_of<kWeightRows>(queries * (p + 1) / parts - first, to.total + first * dim + d, dim, dim - d >= 32,
                                 block.values + d / 32 * kValuePanel, block.raised + d, s.weights + first,
                                 (count + 3) / 4, s.by + first, s.part_by + first);
    }
  }
}

// As attend, of rows without parts, from token 0 on.
void attend_in_integers(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t tokens, void* scratch) {
  ByteScratch& s = *static_cast<ByteScratch*>(scratch);
  const int64_t dim = job.layout.head_dim;
  while (count > 0) {
    const int64_t queries = min_of(count, kKeptPanels * kQueryLanes),
                  panels = (queries + kQueryLanes - 1) / kQueryLanes;
    const auto first_of = [&](int64_t panel) { return queries * panel / panels; };
    int64_t seen = 0;
    for (int64_t p = 0; p < panels; ++p) {
      round_queries(s.panels[p], s, job, rows + first_of(p), first_of(p + 1) - first_of(p), queries - first_of(p),
                    tokens);
      seen = max_of(seen, s.panels[p].most);
    }
    for (int64_t kept = 0; kept < seen; kept += kKeptTokens) {
      const int64_t end = min_of(seen, kept + kKeptTokens);
      const auto block_at = [&](int64_t token) -> ByteBlock& { return s.blocks[(token - kept) / kBlockTokens]; };
      for (int64_t token = kept; token < end; token += kBlockTokens) {
        convert_block(block_at(token), s, job, token, min_of(kBlockTokens, end - token), tokens);
      }
      for (int64_t p = 0; p < panels; ++p) {
        for (int64_t token = kept; token < min_of(end, s.panels[p].most); token += kBlockTokens) {
          attend_block(s.panels[p], first_of(p + 1) - first_of(p), block_at(token), s, dim, token,
                       min_of(kBlockTokens, end - token));
        }
      }
    }
    for (int64_t p = 0; p < panels; ++p) {
      for (int64_t r = first_of(p); r < first_of(p + 1); ++r) {
        const int64_t lane = r - first_of(p);
        const float sum = s.panels[p].weight[lane];
        const F weight = splat(sum > 0 ? 1.0f / sum : 0.0f);
        for (int64_t d = 0; d < dim; d += kWidth) {
          store_half(rows[r].out + d, to_bf16(load(s.panels[p].total + lane * dim + d) * weight));
        }
      }
    }
    rows += queries;
    count -= queries;
  }
}

size_t integers_scratch() { return sizeof(ByteScratch); }

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
