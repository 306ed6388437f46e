// Attention over keys and values packed like weights, so that the register tile of the matrix products serves it.
//
// Block     The keys and values of one page, layer and kv head:
//             keys    page_tokens / 32 panels of 32 tokens, head_dim / 2 units: scores = q * keys^T
//             values  ceil(head_dim / 32) panels of 32 dimensions, page_tokens / 2 units: out = p * values
//           In 8 bits a unit holds four of what bf16 has two, in the order 0 2 1 3 (tile.h, S16S8), and after the values
//           come the scales, f32: of page_tokens keys, then of page_tokens values. x = scale * q, as in packed/formats.h; of
//           keys x is spread_head of what came, and queries that meet them must be spread too.
// Page      [layers, kv_heads] blocks: one run of memory, copied as one.
// Tables    A page table lists page numbers; without one page i is the i-th.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device/ops.h"
#include "kernels/cpu/gemm.h"

namespace drivlm::cpu {

struct KvLayout {
  int64_t layers = 1, kv_heads = 1, head_dim = 0, page_tokens = 0;
  bool int8 = false;

  constexpr int64_t depth() const { return int8 ? 4 : 2; }  // values of one column in a unit
  constexpr int64_t key_panel_bytes() const { return head_dim / depth() * kUnitBytes; }
  constexpr int64_t value_panel_bytes() const { return page_tokens / depth() * kUnitBytes; }
  constexpr int64_t key_bytes() const { return page_tokens / 32 * key_panel_bytes(); }
  constexpr int64_t value_bytes() const { return panel_count(head_dim) * value_panel_bytes(); }
  constexpr int64_t scales_offset() const { return key_bytes() + value_bytes(); }
  constexpr int64_t block_bytes() const {
    return scales_offset() + (int8 ? 2 * page_tokens * static_cast<int64_t>(sizeof(float)) : 0);
  }
  constexpr int64_t page_bytes() const { return layers * kv_heads * block_bytes(); }
  constexpr int64_t block_offset(int64_t page, int64_t layer, int64_t kv_head) const {
    return page * page_bytes() + (layer * kv_heads + kv_head) * block_bytes();
  }
  // Of one value inside a block.
  constexpr int64_t key_offset(int64_t token, int64_t d) const {
    return token / 32 * key_panel_bytes() + d / depth() * kUnitBytes + token % 32 * 4 + place_in_word(d);
  }
  constexpr int64_t value_offset(int64_t token, int64_t d) const {
    return key_bytes() + d / 32 * value_panel_bytes() + token / depth() * kUnitBytes + d % 32 * 4 +
           place_in_word(token);
  }
  constexpr int64_t place_in_word(int64_t i) const { return int8 ? i % 2 * 2 + i / 2 % 2 : i % 2 * 2; }
};

// One query vector. The keys it sees are tokens [0, visible).
struct AttendRow {
  const uint16_t* q;  // bf16 [head_dim]
  uint16_t* out;      // bf16 [head_dim], if partial is null
  float* partial;  // the first chunk's part, or all of them (AttendJob::folds); null in every row of a job or in none
  int64_t visible;
};

// A part, of one query and the tokens of one chunk: [kPartHead + head_dim] floats, first the largest score and the sum
// of the weights relative to it, from kPartHead on the values times their weights.
constexpr int64_t kPartHead = 16;

constexpr int64_t kMostChunkTokens = 352;

struct AttendJob {
  const char* blocks;    // of one layer and kv head, page 0; null where `keys` and `values` are given
  int64_t page_bytes;    // from page to page
  const int32_t* pages;  // null: page i is i
  KvLayout layout;
  float scale;
  int64_t chunk_tokens;            // weights are relative to the largest score of so many tokens; a multiple of 32
  int64_t partial_step;            // floats from a chunk's part to the next one's
  const uint16_t* keys = nullptr;  // bf16 rows of head_dim, `stride` elements apart
  const uint16_t* values = nullptr;
  int64_t stride = 0;
  bool folds = false;  // chunks from token 0 on, added up to one part
};

// What a target multiplies in its attention in integers.
enum class IntegerForm {
  none,    // the target gains nothing by it
  shorts,  // 16 bits: attention_integers.h
  bytes,   // attention_bytes.h
};

// A target's part of its table: attention_kernels.h.
struct AttentionKernels {
  // Queries over tokens [token0, token1), token0 at the start of a chunk.
  void (*attend)(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t token0, int64_t token1,
                 void* scratch);
  size_t (*attend_scratch)();
  // The same over tokens [0, tokens) of many queries without parts, with products in integers: keys and values are rounded once for all of them. In
  // bytes also from rows that no block holds.
  IntegerForm integers;
  void (*attend_in_integers)(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t tokens, void* scratch);
  size_t (*integers_scratch)();
  // The parts of one query to its result.
  void (*merge)(uint16_t* out, const float* parts, int64_t stride, const int64_t* slots, int64_t count, int64_t dim);
  // Rows to a block; in 8 bits keys are spread there.
  void (*append)(char* block, const KvLayout& layout, const uint16_t* keys, const uint16_t* values, int64_t stride,
                 int64_t first, int64_t tokens);
};

struct KernelTable;

// Vision: bidirectional attention in groups of `positions` rows. qkv bf16 [groups * positions, 3 * heads * head_dim],
// out bf16 [groups * positions, heads * head_dim]. head_dim a multiple of 16 up to 128. `integers`: products of integers, where the target has them.
void attention(const KernelTable& kernels, uint16_t* out, const uint16_t* qkv, int64_t groups, int64_t positions,
               int64_t heads, int64_t head_dim, bool integers, Workers& workers);

// How one forward pass is cut into tasks; made once a pass, used by every layer.
//
// Long segments (prefill) are cut by rows. Short ones (decode) are cut by tokens too, after whole chunks: what begins at
// token 0 leaves one part a row, elsewhere every chunk leaves one, merged at the end. Short segments whose page tables
// start with the same pages are together over those pages' chunks, cut by rows as far as that leaves each task several
// tiles. None of this changes a result: chunks begin at the same tokens and are added up in the same order.
class AttentionPlan {
 public:
  void make(const Batch& batch, int64_t page_tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int tile_rows,
            int threads);

  // qkv bf16 [rows, (heads + 2 * kv_heads) * head_dim] -> out bf16 [rows, heads * head_dim]. `integers`: products of segments of more than kStreamRows rows
  // are of integers, where the target has them.
  void run(const KernelTable& kernels, uint16_t* out, const uint16_t* qkv, const void* kv, const KvLayout& layout,
           int64_t layer, int64_t heads, bool integers, Workers& workers);

 private:
  struct Query {
    int64_t row, visible;
  };
  // Queries [first, first + count) over tokens [token0, token1) of a page table; the parts of its i-th chunk go to slots
  // [slot + i * count, slot + (i + 1) * count), those of a span from token 0 on to the first `count`; or slot is -1. `many`: of a segment whose products may be of integers.
  struct Span {
    int64_t first, count, page, token0, token1, slot;
    bool many;
  };
  struct Merge {
    int64_t row, first, count;  // slots merge_slots_[first ..]
  };

  const int32_t* pages_ = nullptr;
  std::vector<Query> queries_;
  std::vector<Span> spans_;
  std::vector<Merge> merges_;
  std::vector<int64_t> merge_slots_;
  std::vector<float> parts_;  // [slots, heads, kPartHead + head_dim]
};

}  // namespace drivlm::cpu
