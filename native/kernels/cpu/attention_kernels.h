// Attention of some query vectors over a range of tokens, one thread.
//
//   out = softmax(scale * q * K^T) * V, row r over tokens [0, visible[r])
//
// Tiling    kTileRows queries against chunks of up to 352 tokens: scores [rows, 352] f32 (20 KiB) stay in L1, the sums
//           [rows, head_dim] beside them. K and V come in units of the register tile; with several queries a kv head
//           (GQA) the queries of a tile share every load of them. The sums of a chunk stay in registers from page to
//           page.
//           Several tiles pass over a chunk one after another, the last of them fetching the next chunk: keys and values
//           come from L2 for all but the first.
// Softmax   Online: every chunk has its own largest score m, weight l and sums; they are added up in the order of their
//           tokens, the older ones scaled by 2^(m_old - m). Base 2 throughout, the scale folds log2(e) in.
// Order     Chunks begin at multiples of their length, so what a query gets depends on the tokens that it sees alone,
//           bit for bit: not on the queries beside it, nor on how the tokens are cut into tasks.
// Numerics  f32 scores, weights and sums; on vdpbf16ps and AMX the weights are rounded to bf16 for the second product.
// 8 bits    Of a cache in 8 bits queries and keys come spread (packed/formats.h), which leaves their products as they are. Queries are rounded to 16 bits with a
//           scale each, and so are the weights of a chunk times the scales of their values; both products are exact in int32.
#pragma once

#include <type_traits>

#include "kernels/cpu/gemm_kernels.h"
#if defined(__AMX_BF16__)
#include "kernels/cpu/attention_amx.h"
#endif
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/pack_rows.h"
#include "kernels/cpu/packed_attention.h"
#include "kernels/cpu/spread.h"
#include "kernels/cpu/tile.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

using cpu::AttendJob;
using cpu::AttendRow;
using cpu::KvLayout;

static_assert(cpu::kMostChunkTokens == kScoreStride - 16);
constexpr int64_t kRowLanes = (kTileRows + kWidth - 1) / kWidth * kWidth;
constexpr float kLowest = -3.0e38f;
constexpr int64_t kMaxHeadDim = 128;
constexpr int64_t kMostPieces = cpu::kMostChunkTokens / 32 + 1;
constexpr int64_t kTilesTogether = 16;  // their queries and totals leave room in L2 for two chunks

// Floats from part to part in the scratch: room for whole panels of 32 dimensions.
constexpr int64_t kPartStride = cpu::kPartHead + kMaxHeadDim;

// How keys and values of a cache are multiplied.
template <class Dots>
struct InRegisters {
  static constexpr bool kTiles = false;
  static constexpr bool kPairs = Dots::kPairs;  // weights of tokens are rounded to bf16
  static ScoreTile keys(int64_t rows) { return score_tile_for<Dots>(rows); }
  static PieceTile values(int64_t rows) { return piece_tile_for<Dots>(rows); }
  struct Scope {
    explicit Scope(int64_t) {}
  };
};
using HalfCache = InRegisters<Bf16Dots>;
#if defined(__AMX_BF16__)
struct TileCache {
  static constexpr bool kTiles = true;
  static constexpr bool kPairs = true;
  static ScoreTile keys(int64_t) { return amx_score_tile; }
  static PieceTile values(int64_t) { return amx_piece_tile; }
  using Scope = TileScope;
};
#endif
struct ByteCache : InRegisters<S16S8> {
  static_assert(kMaxHeadDim <= 4 * S16S8::kExactUnits && cpu::kMostChunkTokens <= 4 * S16S8::kExactUnits);
};

// What a tile keeps from chunk to chunk.
struct AttendTile {
  alignas(64) float q[kTileRows * kMaxHeadDim + 16];
  alignas(64) float totals[kTileRows * kPartStride];  // of the chunks so far
  float query_scales[kTileRows];                      // of a cache in 8 bits
  const AttendRow* rows;
  int64_t count, last;  // rows; the end of what any of them sees
};

struct AttendScratch {
  alignas(64) float scores[kTileRows * kScoreStride];
  alignas(64) float parts[kTileRows * kPartStride];  // of a chunk

  // Of a cache in 8 bits, of the tokens of a chunk.
  alignas(64) float key_scales[cpu::kMostChunkTokens];
  alignas(64) float value_scales[cpu::kMostChunkTokens];
  AttendTile tiles[kTilesTogether];
};

// A part or a total of parts (AttendRow).
DRIVLM_INLINE float* sums_of(float* part) { return part + cpu::kPartHead; }
DRIVLM_INLINE const float* sums_of(const float* part) { return part + cpu::kPartHead; }

void clear_total(float* total, int64_t dim) {
  total[0] = kLowest;
  total[1] = 0;
  for (int64_t d = 0; d < dim; d += kWidth) store(sums_of(total) + d, F{});
}

// total = total * by + part * part_by. The factors rescale each from its own largest score to the larger of the two.
// Never inlined, so that the same instructions add up parts everywhere and results are the same bit for bit.
__attribute__((noinline)) void fold(float* total, const float* part, float by, float part_by, int64_t dim) {
  total[0] = max_of(total[0], part[0]);
  total[1] = total[1] * by + part[1] * part_by;
  for (int64_t d = 0; d < dim; d += kWidth) {
    store(sums_of(total) + d, load(sums_of(total) + d) * by + load(sums_of(part) + d) * part_by);
  }
}

__attribute__((noinline)) void finish_total(uint16_t* out, const float* total, int64_t dim) {
  const F weight = splat(total[1] > 0 ? 1.0f / total[1] : 0.0f);
  for (int64_t d = 0; d < dim; d += kWidth) store_half(out + d, to_bf16(load(sums_of(total) + d) * weight));
}

// The largest of the first `valid` scores.
DRIVLM_INLINE float largest_of(const float* scores, int64_t valid) {
  F a = splat(kLowest), b = a;
  int64_t j = 0;
  for (; j + 2 * kWidth <= valid; j += 2 * kWidth) {
    a = max(a, load(scores + j));
    b = max(b, load(scores + j + kWidth));
  }
  for (; j < valid; j += kWidth) a = max(a, first_lanes(load(scores + j), valid - j, kLowest));
  return max_of(max(a, b));
}

// Scores of one row to weights, in place: p = 2^(score * scale - m) for the first `valid`, 0 up to `width`, a multiple of 32.
// Returns their sum by lanes.
DRIVLM_INLINE F soften(float* scores, int64_t valid, int64_t width, float scale, float m) {
  F total = F{};
  const F scales = splat(scale), tops = splat(m);
  for (int64_t j = 0; j < width; j += kWidth) {
    F p = exp2(load(scores + j) * scales - tops);
    if (j + kWidth > valid) p = first_lanes(p, valid - j, 0.0f);
    store(scores + j, p);
    total += p;
  }
  return total;
}

#if defined(__AVX512BF16__)
// The same to pairs of bf16 as vdpbf16ps takes them. The sum is that of what the values meet, so that one token alone has all
// the weight.
DRIVLM_INLINE F soften_to_bf16(float* scores, int64_t valid, int64_t width, float scale, float m) {
  F total = F{};
  const F scales = splat(scale), tops = splat(m);
  const auto ones = reinterpret_cast<__m512bh>(splat_bits(0x3f803f80));
  for (int64_t j = 0; j < width; j += 32) {
    F low = exp2_coarse(load(scores + j) * scales, tops), high = exp2_coarse(load(scores + j + 16) * scales, tops);
    if (j + 32 > valid) {
      low = first_lanes(low, valid - j, 0.0f);
      high = first_lanes(high, valid - j - 16, 0.0f);
    }
    const __m512bh p = _mm512_cvtne2ps_pbh(high, low);
    store_bits(reinterpret_cast<uint16_t*>(scores) + j, reinterpret_cast<U>(p));
    total = _mm512_dpbf16_ps(total, p, ones);
  }
  return total;
}
#endif

// ---- a cache in 8 bits ----

// bf16 values in 16 bits: q = v / scale, the largest |q| 32767. Returns the scale. dim is a multiple of 16.
DRIVLM_INLINE float round_to_16(int16_t* q, const uint16_t* values, int64_t dim) {
  F largest = F{};
  for (int64_t d = 0; d < dim; d += kWidth) largest = max(largest, absolute(to_f32(load_half(values + d))));
  const float top = max_of(largest);
  const F inverse = splat(top > 0 ? 32767.0f / top : 0.0f);
  for (int64_t d = 0; d < dim; d += kWidth) {
    store_shorts(q + d, to_nearest(to_f32(load_half(values + d)) * inverse));
  }
  return top / 32767.0f;
}

// The same in 8 bits, of bf16 or f32, as quantize_s8 of packed/formats.h does it, bit for bit.
template <class T>
DRIVLM_INLINE float round_to_s8(uint8_t* q, const T* values, int64_t dim) {
  F largest = F{};
  for (int64_t d = 0; d < dim; d += kWidth) largest = max(largest, absolute(load_first(values + d, kWidth)));
  const float top = max_of(largest);
  const F inverse = splat(top > 0 ? 127.0f / top : 0.0f);
  for (int64_t d = 0; d < dim; d += kWidth) {
    const F v = load_first(values + d, kWidth) * inverse;
    store_bytes(q + d, to_nearest(min(max(v, splat(-127.0f)), splat(127.0f))));
  }
  return top / 127.0f;
}

// int32 sums to values, in place; `scales` may be null.
DRIVLM_INLINE void rescale(float* sums, int64_t width, const float* scales, float scale) {
  for (int64_t j = 0; j < width; j += kWidth) {
    const F value = __builtin_convertvector(reinterpret_cast<I>(load(sums + j)), F);
    store(sums + j, value * (scales ? load(scales + j) * scale : splat(scale)));
  }
}

// Weights times the scales of their values, in place in 16 bits. Returns what 1 stands for. width is a multiple of 32.
DRIVLM_INLINE float round_weights(float* weights, const float* value_scales, int64_t width) {
  F largest = F{};
  for (int64_t j = 0; j < width; j += kWidth) {
    const F v = load(weights + j) * load(value_scales + j);
    store(weights + j, v);
    largest = max(largest, v);
  }
  const float top = max_of(largest);
  const F inverse = splat(top > 0 ? 32767.0f / top : 0.0f);
  int16_t* q = reinterpret_cast<int16_t*>(weights);
  for (int64_t j = 0; j < width; j += kWidth) store_shorts(q + j, to_nearest(load(weights + j) * inverse));
  return top / 32767.0f;
}

// Fills `tile` with rows [0, count): their queries as the products take them, and totals of nothing.
template <class Cache>
void begin_tile(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t token0, int64_t token1,
                AttendTile& tile, AttendScratch& s) {
  const int64_t dim = job.layout.head_dim;
  constexpr bool kInt8 = std::is_same_v<Cache, ByteCache>;
  tile.rows = rows;
  tile.count = count;

  // q as [step][rows], or in rows as tiles load it
  uint16_t* together = reinterpret_cast<uint16_t*>(Cache::kTiles ? tile.q : s.scores);
  for (int64_t r = 0; r < count; ++r) {
    if constexpr (kInt8) {
      tile.query_scales[r] = round_to_16(reinterpret_cast<int16_t*>(together + r * dim), rows[r].q, dim);
    } else {
      memcpy(together + r * dim, rows[r].q, static_cast<size_t>(dim) * 2);
    }
  }
  if constexpr (!Cache::kTiles) {
    using Words = std::conditional_t<kInt8 || Cache::kPairs, RawWords, WidenedWords>;
    pack_rows<Words>(reinterpret_cast<uint32_t*>(tile.q), reinterpret_cast<const char*>(together), dim * 2, count,
                     dim * 2, count);
  }

  tile.last = 0;
  for (int64_t r = 0; r < count; ++r) {
    tile.last = max_of(tile.last, rows[r].visible);
    clear_total(tile.totals + r * kPartStride, dim);
    if (job.folds) continue;
    // Chunks that no row of this tile sees get empty parts here: attend_chunk never comes to them.
    float* part = rows[r].partial;
    for (int64_t chunk = token0; part && chunk < token1; chunk += job.chunk_tokens, part += job.partial_step) {
      clear_total(part, dim);
    }
  }
  tile.last = min_of(tile.last, token1);
}

// A tile's rows against the tokens from `chunk` on, of a chunk that begins there. `end` is where the chunks end; with `fetch_chunk` the next one is
// fetched, else what this tile comes to next.
template <class Cache>
void attend_chunk(const AttendJob& job, AttendTile& tile, int64_t token0, int64_t chunk, int64_t end, bool fetch_chunk,
                  AttendScratch& s) {
  const int64_t dim = job.layout.head_dim, dim_panels = cpu::panel_count(dim), page_tokens = job.layout.page_tokens;
  constexpr bool kInt8 = std::is_same_v<Cache, ByteCache>;
  constexpr int64_t kDepth = kInt8 ? 4 : 2;
  const int64_t key_panel_bytes = job.layout.key_panel_bytes(), value_panel_bytes = job.layout.value_panel_bytes();
  const float scale = job.scale * 1.44269504f;
  const AttendRow* rows = tile.rows;
  const int64_t count = tile.count, tokens = min_of(job.chunk_tokens, tile.last - chunk);
  const int64_t width = (tokens + 31) / 32 * 32;
  const typename Cache::Scope scope(count);
  const ScoreTile multiply_keys = Cache::keys(count);
  const PieceTile multiply_values = Cache::values(count);
  const auto block_of = [&](int64_t token) {
    const int64_t page = token / page_tokens;
    return job.blocks + (job.pages ? job.pages[page] : page) * job.page_bytes;
  };

  // The chunk's keys and values, a run of tokens inside one page each.
  Piece keys[kMostPieces], values[kMostPieces];
  int64_t pieces = 0;
  for (int64_t t = 0; t < tokens; ++pieces) {
    const int64_t inside = (chunk + t) % page_tokens, run = min_of(tokens - t, page_tokens - inside);
    const char* block = block_of(chunk + t);
    keys[pieces] = {block + inside / 32 * key_panel_bytes, (run + 31) / 32};
    values[pieces] = {block + job.layout.key_bytes() + inside / kDepth * 128, (run + kDepth - 1) / kDepth};
    if constexpr (kInt8) {
      const float* scales = reinterpret_cast<const float*>(block + job.layout.scales_offset());
      memcpy(s.key_scales + t, scales + inside, static_cast<size_t>(run) * 4);
      memcpy(s.value_scales + t, scales + page_tokens + inside, static_cast<size_t>(run) * 4);
    }
    t += run;
  }
  if constexpr (kInt8) {
    // What was never written must not be read as a NaN.
    for (int64_t t = tokens; t < width; ++t) s.key_scales[t] = s.value_scales[t] = 0;
  }

  // scores = q * K^T. Of a single piece the next panel is fetched early, else the next piece, after the last one the
  // values.
  float* scores = s.scores;
  for (int64_t i = 0, t = 0; i < pieces; ++i) {
    const char* next = pieces == 1 ? keys[0].w + key_panel_bytes : i + 1 < pieces ? keys[i + 1].w : values[0].w;
    const int64_t there = chunk + job.chunk_tokens + t;
    if (fetch_chunk && there < end) next = block_of(there) + there % page_tokens / 32 * key_panel_bytes;
    multiply_keys(scores, keys[i].w, keys[i].units, tile.q, dim / kDepth, next - keys[i].w);
    scores += keys[i].units * 32;
    t += keys[i].units * 32;
  }

  // p = softmax of the chunk. All largest scores come first: a row's exponentials would wait for its own.
  alignas(64) float weight_steps[kTileRows];
  const auto valid_of = [&](int64_t r) { return max_of(0, min_of(rows[r].visible - chunk, tokens)); };
  for (int64_t r = 0; r < count; ++r) {
    float* row = s.scores + r * kScoreStride;
    if constexpr (kInt8) rescale(row, width, s.key_scales, tile.query_scales[r]);
    const float top = largest_of(row, valid_of(r)) * scale;
    s.parts[r * kPartStride] = Cache::kPairs ? __builtin_ceilf(top) : top;
  }
  for (int64_t r = 0; r < count; ++r) {
    const int64_t valid = valid_of(r);
    float* row = s.scores + r * kScoreStride;
    float* part = s.parts + r * kPartStride;
    const float top = part[0];
#if defined(__AVX512BF16__)
    if constexpr (Cache::kPairs) {
      part[1] = sum_of(soften_to_bf16(row, valid, width, scale, top));
      continue;
    }
#endif
    part[1] = sum_of(soften(row, valid, width, scale, top));
    if constexpr (kInt8) weight_steps[r] = round_weights(row, s.value_scales, width);
  }

  // sums = p * V. After the last piece the first of the next panel is fetched, after the last panel the next chunk's
  // keys.
  for (int64_t p = 0; p < dim_panels; ++p) {
    const char* next = values[0].w + p * value_panel_bytes + (pieces == 1 ? 1024 : value_panel_bytes);
    if (pieces > 1 && p + 1 == dim_panels && chunk + tokens < tile.last) next = block_of(chunk + tokens);
    multiply_values(sums_of(s.parts) + p * 32, kPartStride, values, pieces, p * value_panel_bytes, s.scores, next);
  }
  if constexpr (kInt8) {
    for (int64_t r = 0; r < count; ++r) {
      rescale(sums_of(s.parts + r * kPartStride), dim_panels * 32, nullptr, weight_steps[r]);
    }
  }

  if (rows[0].partial && !job.folds) {
    const int64_t index = (chunk - token0) / job.chunk_tokens;
    for (int64_t r = 0; r < count; ++r) {
      memcpy(rows[r].partial + index * job.partial_step, s.parts + r * kPartStride,
             static_cast<size_t>(cpu::kPartHead + dim) * 4);
    }
    return;
  }
  alignas(64) float by[kRowLanes] = {}, part_by[kRowLanes] = {};
  for (int64_t r = 0; r < count; ++r) {
    const float old = tile.totals[r * kPartStride], top = s.parts[r * kPartStride], m = max_of(old, top);
    by[r] = old - m;
    part_by[r] = top - m;
  }
  for (int64_t r = 0; r < count; r += kWidth) {
    store(by + r, exp2(load(by + r)));
    store(part_by + r, exp2(load(part_by + r)));
  }
  for (int64_t r = 0; r < count; ++r) {
    if (rows[r].visible > chunk) fold(tile.totals + r * kPartStride, s.parts + r * kPartStride, by[r], part_by[r], dim);
  }
}

template <class Cache>
void attend_with(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t token0, int64_t token1,
                 AttendScratch& s) {
  const int64_t dim = job.layout.head_dim, all = (count + kTileRows - 1) / kTileRows;
  const int64_t groups = (all + kTilesTogether - 1) / kTilesTogether;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t tile0 = all * g / groups, tiles = all * (g + 1) / groups - tile0;
    int64_t end = token0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = count * (tile0 + t) / all, height = count * (tile0 + t + 1) / all - first;
      begin_tile<Cache>(job, rows + first, height, token0, token1, s.tiles[t], s);
      end = max_of(end, s.tiles[t].last);
    }
    for (int64_t chunk = token0; chunk < end; chunk += job.chunk_tokens) {
      for (int64_t t = 0; t < tiles; ++t) {
        if (s.tiles[t].last <= chunk) continue;
        attend_chunk<Cache>(job, s.tiles[t], token0, chunk, end, tiles > 1 && t + 1 == tiles, s);
      }
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const AttendTile& tile = s.tiles[t];
      for (int64_t r = 0; r < tile.count; ++r) {
        const float* total = tile.totals + r * kPartStride;
        if (!tile.rows[r].partial) {
          finish_total(tile.rows[r].out, total, dim);
        } else if (job.folds) {
          memcpy(tile.rows[r].partial, total, static_cast<size_t>(cpu::kPartHead + dim) * 4);
        }
      }
    }
  }
}

void attend(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t token0, int64_t token1, void* scratch) {
  AttendScratch& s = *static_cast<AttendScratch*>(scratch);
  if (job.layout.int8) return attend_with<ByteCache>(job, rows, count, token0, token1, s);
#if defined(__AMX_BF16__)
  if (job.layout.head_dim % 32 == 0) return attend_with<TileCache>(job, rows, count, token0, token1, s);
#endif
  attend_with<HalfCache>(job, rows, count, token0, token1, s);
}

size_t attend_scratch() { return sizeof(AttendScratch); }

// Parts of one query to its result: `count` of them, in the order of their tokens, `slots` their numbers, `stride`
// floats apart at `parts`. The first may be of several chunks, added up already.
void merge(uint16_t* out, const float* parts, int64_t stride, const int64_t* slots, int64_t count, int64_t dim) {
  alignas(64) float total[kPartStride];
  memcpy(total, parts + slots[0] * stride, static_cast<size_t>(cpu::kPartHead + dim) * 4);
  for (int64_t i = 1; i < count; ++i) {
    const float* part = parts + slots[i] * stride;
    if (!(part[1] > 0)) continue;  // an empty part: the query sees none of its tokens
    const float m = max_of(total[0], part[0]);
    fold(total, part, exp2(splat(total[0] - m))[0], exp2(splat(part[0] - m))[0], dim);
  }
  finish_total(out, total, dim);
}

// Rows that append() comes to next are fetched early: they are far apart, and one head's part of each is a line or two.
DRIVLM_INLINE void fetch_row(const uint16_t* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 32) __builtin_prefetch(row + d);
}

// A key as spread_head of packed/formats.h leaves it.
DRIVLM_INLINE void spread_key(float* wide, const uint16_t* key, int64_t dim) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; i += kWidth) {
    const int64_t left = half - i;
    const F a = load_first(key + i, left), b = load_first(key + half + i, left);
    store_first(wide + i, a + b, left);
    store_first(wide + half + i, a - b, left);
  }
  spread_halves(wide, dim);
}

// Of a cache in 8 bits, whose keys are spread.
void append_bytes(char* block, const KvLayout& layout, const uint16_t* keys, const uint16_t* values, int64_t stride,
                  int64_t first, int64_t tokens) {
  const int64_t dim = layout.head_dim, value_panel_bytes = layout.value_panel_bytes();
  float* scales = reinterpret_cast<float*>(block + layout.scales_offset());
  alignas(64) uint8_t q[kMaxHeadDim];
  alignas(64) float wide[kMaxHeadDim];
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t token = first + t;
    if (t + 2 < tokens) {
      fetch_row(keys + (t + 2) * stride, dim);
      fetch_row(values + (t + 2) * stride, dim);
    }
    spread_key(wide, keys + t * stride, dim);
    scales[token] = round_to_s8(q, wide, dim);
    char* key = block + layout.key_offset(token, 0);
    for (int64_t d = 0; d < dim; d += 4, key += 128) {
      const uint8_t word[4] = {q[d], q[d + 2], q[d + 1], q[d + 3]};
      memcpy(key, word, 4);
    }
    scales[layout.page_tokens + token] = round_to_s8(q, values + t * stride, dim);
    char* value = block + layout.value_offset(token, 0);
    for (int64_t d = 0; d < dim; d += 32, value += value_panel_bytes) {
      for (int64_t i = 0; i < min_of(32, dim - d); ++i) value[i * 4] = static_cast<char>(q[d + i]);
    }
  }
}

// Keys and values of `tokens` consecutive rows, `stride` elements apart, to a block, from token `first` of it. A value
// whose partner in its unit is not there yet is stored with a zero beside it: what is never written must not be read as
// a NaN.
void append(char* block, const KvLayout& layout, const uint16_t* keys, const uint16_t* values, int64_t stride,
            int64_t first, int64_t tokens) {
  if (layout.int8) return append_bytes(block, layout, keys, values, stride, first, tokens);
  const int64_t dim = layout.head_dim, key_panel_bytes = layout.key_panel_bytes(),
                value_panel_bytes = layout.value_panel_bytes();
  int64_t t = 0;
  while (t < tokens) {
    const int64_t inside = first + t, n = min_of(tokens - t, 32 - inside % 32);
    for (int64_t i = t + n; i < min_of(tokens, t + n + 32); ++i) fetch_row(keys + i * stride, dim);
    uint32_t* panel = reinterpret_cast<uint32_t*>(block + inside / 32 * key_panel_bytes) + inside % 32;
    if (inside % 32 == 0 && n >= 4) {
      pack_rows<RawWords>(panel, reinterpret_cast<const char*>(keys + t * stride), stride * 2, n, dim * 2, 32);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t d = 0; d < dim / 2; ++d) memcpy(panel + d * 32 + i, keys + (t + i) * stride + d * 2, 4);
      }
    }
    t += n;
  }
  char* sums = block + layout.key_bytes();
  for (t = 0; t < tokens;) {
    const int64_t inside = first + t;
    const uint16_t* v0 = values + t * stride;
    for (int64_t i = t + 32; i < min_of(tokens, t + 34); ++i) fetch_row(values + i * stride, dim);
    for (int64_t d = 0; d < dim; d += kWidth) {
      char* unit = sums + d / 32 * value_panel_bytes + inside / 2 * 128 + d % 32 * 4;
      const U low = __builtin_convertvector(load_half(v0 + d), U);
      if (inside % 2 == 1) {
        store_bits(unit, (load_bits(unit) & 0xffffu) | low << 16);
      } else if (t + 1 < tokens) {
        store_bits(unit, low | __builtin_convertvector(load_half(v0 + stride + d), U) << 16);
      } else {
        store_bits(unit, low);
      }
    }
    t += inside % 2 == 1 || t + 1 == tokens ? 1 : 2;
  }
}

// Both products in integers: in bytes where an instruction multiplies four of them at once (attention_bytes.h, docs/decisions/0049), of 16 bits on AVX2 without
// (attention_integers.h, docs/decisions/0044). AMX has neither.
#if defined(__AMX_BF16__) || !(defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD))
constexpr decltype(cpu::AttentionKernels::attend_in_integers) attend_in_integers = nullptr;
constexpr decltype(cpu::AttentionKernels::integers_scratch) integers_scratch = nullptr;
constexpr cpu::IntegerForm kIntegers = cpu::IntegerForm::none;
#else
void attend_in_integers(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t tokens, void* scratch);
size_t integers_scratch();
constexpr cpu::IntegerForm kIntegers = kWidensBytes ? cpu::IntegerForm::shorts : cpu::IntegerForm::bytes;
#endif

constexpr cpu::AttentionKernels kAttention = {.attend = attend,
                                              .attend_scratch = attend_scratch,
                                              .integers = kIntegers,
                                              .attend_in_integers = attend_in_integers,
                                              .integers_scratch = integers_scratch,
                                              .merge = merge,
                                              .append = append};

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
