// Launches of kernels over plain pointers and sizes, which the ops fill in; tests and benches call them too.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "device/device.h"
#include "device/epilogue.h"
#include "kernels/cuda/launch.h"
#include "packed/formats.h"

namespace drivlm::cuda {

// ---- linear.cu ----

// A matrix's rows on the device, laid out as weight_formats.cuh says.
struct Weights {
  const void* data;
  int64_t stride;  // weights a row, those that fill it up included
  Encoding encoding = Encoding::bf16;
  const void* scales = nullptr;  // s8: RowScale [n]; s4: bf16 [n, stride / 32]
};

// Of a row of weights in 8 bits: w = scale * q.
struct RowScale {
  float scale;
  int32_t sum;  // of q, for products with x in 8 bits
};

// Of a row of x in 8 bits: x = scale * (q - zero).
struct InputScale {
  float scale;
  int32_t zero;
};

// x [rows, k] * w [n, k]^T with what follows it fused.
struct Linear {
  const void* x;  // bf16, or u8 [rows, w.stride] with x_scales
  Weights w;
  int64_t rows, n, k;
  const float* bias = nullptr;           // [n]
  const float* scale = nullptr;          // [n], of Epilogue::add
  void* out = nullptr;                   // [rows, n], [rows, n / 2] if gated
  bool out_f32 = false;                  // of Epilogue::store
  Epilogue after = Epilogue::store;      // gated: rows 2i, 2i + 1 of w are gate and up
  const InputScale* x_scales = nullptr;  // [rows]
  // Parts of k, of Epilogue::store: out is [splits, rows, n], to be added up. In f32; more than one of x in 8 bits: the integer sums.
  int splits = 1;
};

enum class LinearTile { t128x128x4, t128x128x3, t64x128, t64x64, t16x64 };
const char* linear_tile_name(LinearTile tile);
// The tile that should finish first: whole waves of blocks times the cost of one, see linear.cu.
LinearTile choose_linear_tile(int64_t rows, int64_t n, const DeviceLimits& limits, Encoding encoding = Encoding::bf16);

void linear(const Linear& job, LinearTile tile, cudaStream_t stream);

// The kernel that suits the shape: matvec, tiles, or tiles that share k. `partial` has kPartialBytes.
void linear_suited(const Linear& job, const DeviceLimits& limits, float* partial, cudaStream_t stream);

// What attention and linear layers whose work is split share for their parts.
constexpr int64_t kPartialBytes = int64_t(16) << 20;

// ---- linear_split.cu ----

constexpr int kSplitRows = 64;  // most rows of x whose products may be split along k
// Parts of k that fill the device, 1 where tiles alone do.
int choose_linear_splits(int64_t rows, int64_t n, int64_t k, const DeviceLimits& limits);
// The same job in so many parts of k, each by blocks of its own, then added up in their order. For up to kSplitRows rows.
void linear_split(const Linear& job, int splits, float* partial, cudaStream_t stream);

// ---- linear_quantised.cu ----

// The same job over weights in 8 or 4 bits, which become bf16 on their way into shared memory. Tiles of 128 rows are not among them.
void linear_quantised(const Linear& job, LinearTile tile, cudaStream_t stream);

// ---- linear_int8.cu ----

// The same job with x in 8 bits, as round_rows leaves it, over weights in 8 bits.
void linear_int8(const Linear& job, LinearTile tile, cudaStream_t stream);

// out [rows, stride] = x [rows, k] in 8 bits, in the order of S8Rows, zeros past k. stride is a multiple of 16.
void round_rows(uint8_t* out, InputScale* scales, const bf16* x, int64_t rows, int64_t k, int64_t stride,
                cudaStream_t stream);

// Rows of weights in 4 bits as S8Rows of the same stride: out [n, stride], the scale and sum of each. By the arithmetic of the CPU
// (kernels/cpu/gemm_formats.h, S4AsBytes): of a row's coarsest group they resolve a step in 16 parts, of the others finer.
void bytes_of_s4(uint8_t* out, RowScale* scales, const Weights& w, int64_t n, cudaStream_t stream);

// ---- matvec.cu ----

constexpr int kMatvecRows = 8;  // most rows of x
// The same job for 1 to 8 rows: bound by reading w once.
void matvec(const Linear& job, cudaStream_t stream);

// ---- attention.cu ----

// Bidirectional attention inside groups of `positions` rows. qkv [groups * positions, 3 * heads * head_dim].
struct FullAttention {
  const bf16* qkv;
  bf16* out;  // [groups * positions, heads * head_dim]
  int groups, positions, heads, head_dim;
};
void attention_full(const FullAttention& job, cudaStream_t stream);

// ---- attention_cached.cu ----

// A block's work: tokens [token, token + tokens) of the token list against keys [key_begin, key_end) of a page table.
// With `splits` > 1 the result is partial number `split` of each of these tokens.
struct AttentionItem {
  int32_t token, tokens;
  int32_t page;  // index of the table's entry for key_begin
  int32_t key_begin, key_end;
  int32_t split;
};
// A query row: it sees keys 0..position. Its partials are at `slot`, `splits` of them; splits 1 writes the result itself.
struct AttentionToken {
  int32_t row, position, slot, splits;
};

constexpr int kPageTokens = 64;

// The keys, or the values, of one page and kv head: [64, head_dim] in bf16, or in int8 with the f32 scales [64] of its tokens after them.
// Whole multiples of 16 bytes for every head_dim that is one of 16.
__host__ __device__ constexpr int64_t kv_block_bytes(int64_t head_dim, KvFormat format) {
  return kPageTokens *
         (format == KvFormat::int8 ? head_dim + int64_t(sizeof(float)) : head_dim * int64_t(sizeof(bf16)));
}

constexpr int kAttentionRows = 64;    // query rows (tokens x heads of a group) of a wide item
constexpr int kAttentionNarrow = 16;  // and of a narrow one

struct CachedAttention {
  const bf16* qkv;     // [rows, (heads + 2 * kv_heads) * head_dim]
  bf16* out;           // [rows, heads * head_dim]
  const void* keys;    // [pages, kv_heads] blocks of this layer (kv_block_bytes)
  const void* values;  // the same
  const int32_t* pages;
  const AttentionItem* wide;
  int wide_items;
  const AttentionItem* narrow;
  int narrow_items;
  const AttentionToken* tokens;
  const int32_t* split_tokens;  // indices of tokens with more than one split
  int split_token_count;
  float* partial;  // [slots, heads, head_dim + 2]: weighted values, then maximum and sum
  int heads, kv_heads, head_dim;
  KvFormat format = KvFormat::activation;
};
constexpr bool has_attention(int64_t head_dim) {
  return head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 96 || head_dim == 128;
}
void attention_cached(const CachedAttention& job, cudaStream_t stream);

// ---- norm.cu ----

constexpr int64_t kMostNormed = 8192;  // values of a row

struct NormJob {
  const bf16* x;
  bf16* out;
  const float* weight;
  const float* bias = nullptr;
  int64_t rows, dim;
  int64_t x_stride, out_stride;
  float eps;
  bool layer;
  // pixel shuffle of [tiles, 1 + grid * grid, dim / 4], when grid is given; version 1 or 2
  int64_t grid = 0;
  int version = 2;
  // in place of out: its rows in 8 bits, zeros past dim, as round_rows would leave them
  uint8_t* rounded = nullptr;
  InputScale* scales = nullptr;
  int64_t rounded_stride = 0;  // dim, filled up to 16 or 128
};
void norm(const NormJob& job, cudaStream_t stream);

// x += scale * y over [rows, dim]
void scale_add(bf16* x, const bf16* y, const float* scale, int64_t rows, int64_t dim, cudaStream_t stream);

// ---- vision.cu ----

void patchify(bf16* patches, const uint8_t* tiles, int64_t tile_count, int64_t size, int64_t patch,
              const std::array<float, 3>& mean, const std::array<float, 3>& std, cudaStream_t stream);
void assemble_tiles(bf16* x, const bf16* patches, const float* class_embedding, const float* positions, int64_t tiles,
                    int64_t patches_per_tile, int64_t dim, cudaStream_t stream);
void pixel_shuffle(bf16* out, const bf16* x, int64_t tiles, int64_t grid, int64_t dim, int version,
                   cudaStream_t stream);

// ---- rope.cu ----

struct RopeAppend {
  bf16* qkv;             // [rows, (heads + 2 * kv_heads) * head_dim]; q is rotated in place
  const float* cos_sin;  // [angles, head_dim]
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;  // [head_dim]
  float eps = 0;
  const int32_t* slots;   // [rows]: page * 64 + place in the page
  const int32_t* angles;  // [rows]: row of cos_sin
  void* keys;
  void* values;  // [pages, kv_heads] blocks (kv_block_bytes)
  int64_t rows;
  int heads, kv_heads, head_dim;
  KvFormat format = KvFormat::activation;
};
void rope_append(const RopeAppend& job, cudaStream_t stream);

// ---- embedding.cu ----

void gather(bf16* out, const int32_t* ids, int64_t count, const bf16* table, int64_t table_stride, int64_t dim,
            cudaStream_t stream);

// ---- sample.cu ----

struct SampleJob {  // one choice; on the device
  float temperature, top_p;
  double uniform;
  int32_t row;      // of the logits
  int32_t limit;    // ids from here on are never chosen
  int32_t forced;   // >= 0: take it
  int32_t allowed;  // first word of its bit set; -1: all ids
  int32_t want_logprob;
};
struct SampleResult {
  int32_t id;  // -1 if none may be chosen
  float logprob;
};
void sample(SampleResult* results, const float* logits, const SampleJob* jobs, const uint32_t* allowed, int64_t count,
            int64_t vocab, cudaStream_t stream);

}  // namespace drivlm::cuda
