// Causal attention of a forward pass over the paged KV cache: prefill and decode, any mix of sequences.
//
//   out[row, head] = softmax(Q[row, head] K^T * head_dim^-0.5) V    over keys 0..position of the row's own sequence
//
//   qkv            [rows, (heads + 2 * kv_heads) * head_dim]  bf16   queries as rope.cu leaves them: rotated, with int8 spread as the keys are
//   keys, values   [pages, kv_heads] blocks, one layer: [64, head_dim] bf16, or int8 and an f32 scale a token (kv_block_bytes); a block is
//                  one tile of keys
//   partial        [slots, heads, head_dim + 2]               f32    of rows whose keys are split over blocks
//
// Tiling    The host cuts the pass into items (attention_plan.cpp): some tokens against a range of keys of one page table. An item
//           and a kv head make a block. Its rows are tokens x the query heads that share the kv head, so K and V are read
//           once for the group. Wide items: 64 rows, 16 a warp. Narrow ones (decode): 16 rows, and the warps take a quarter
//           of each page's keys instead, merged at the end. Pages are double-buffered by cp.async.
//           Tokens of several questions over the same pages (a scene's prefix) are rows of one item: one read for all.
//           Long contexts are split over items; a second kernel merges the partial results by their maxima and sums.
// Traffic   decode reads each page once: 3400 tokens of a 2 x 64 cache are 1.7 MB a layer, 0.92 MB in 8 bits. Prefill reads a page once for
//           each 64 rows of its queries, from L2.
// Numerics  as attention.cu; int8 is exact in bf16, weights are rounded after they are multiplied with the scales of the values. Partial results are f32, merged in split order: the same result every time.
// Needs     head_dim 16, 32, 64, 96 or 128; at most 64 query heads a kv head; rows 16-byte aligned.
// Checked   test/emulator/attention_test.cpp, attention_cached.

#include <algorithm>
#include <cmath>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"

namespace drivlm::cuda {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

struct Args {
  const bf16* qkv;
  bf16* out;
  const char* keys;
  const char* values;
  const int32_t* pages;
  const AttentionItem* items;
  const AttentionToken* tokens;
  float* partial;
  int heads, kv_heads;
  float scale_log2;
};

// Values in r_out[..][half] of a row go to the output, or with maximum and sum to the row's slot.
template <int kDim, int kKeys, class Cache>
__device__ __forceinline__ void store_row(const Args& p, const AttentionTile<kDim, kKeys, Cache>& tile, int half,
                                          const AttentionToken& token, int split, int head, int lane) {
  const float top = tile.r_max[half], sum = tile.r_sum[half];
  if (token.splits == 1) {
    bf16* out = p.out + (size_t(token.row) * p.heads + head) * kDim;
    const float inverse = 1.f / sum;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      const float2 y = tile.result(j, half);
      *reinterpret_cast<uint32_t*>(out + tile.result_dim(j, lane)) = pack_bf16(y.x * inverse, y.y * inverse);
    }
  } else {
    float* out = p.partial + (size_t(token.slot + split) * p.heads + head) * (kDim + 2);
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      *reinterpret_cast<float2*>(out + tile.result_dim(j, lane)) = tile.result(j, half);
    }
    if (lane % 4 == 0) *reinterpret_cast<float2*>(out + kDim) = make_float2(top, sum);
  }
}

// Queries, then keys and values of the tile in use and of the next, then scales of the same, if there are any.
template <int kDim, bool kNarrow, class Cache>
struct Shared {
  // A wide block of a large head walks half pages, so that two blocks fit an SM with 100 KiB.
  static constexpr int kTileKeys = kNarrow || kDim <= 64 ? kPageTokens : kPageTokens / 2;
  static constexpr int kRows = kNarrow ? kAttentionNarrow : kAttentionRows;
  static constexpr int kTileBytes = Cache::template Rows<kDim>::bytes(kTileKeys);
  static constexpr int kScaleBytes = Cache::kBytes ? kTileKeys * int(sizeof(float)) : 0;
  static constexpr int kKeysAt = SharedTile<kDim>::bytes(kRows), kValuesAt = kKeysAt + 2 * kTileBytes;
  static constexpr int kScalesAt = kValuesAt + 2 * kTileBytes;  // [2][keys, values]
  static constexpr int kBytes = kScalesAt + 4 * kScaleBytes;
};

// Blocks an SM is to hold; 0: as ptxas likes. For heads of 32 it would go down to 64 registers on sm_100 and sm_110 and spill one.
template <int kDim, bool kNarrow>
constexpr int kBlocks = kDim == 32 && kNarrow ? 5 : 0;

// kNarrow: 16 rows, the warps share each page's keys. Else 64 rows, 16 a warp.
template <int kDim, bool kNarrow, class Cache>
__global__ void __launch_bounds__(kThreads, (kBlocks<kDim, kNarrow>)) attention_cached_kernel(Args p) {
  using Place = Shared<kDim, kNarrow, Cache>;
  constexpr int kTileKeys = Place::kTileKeys, kTileBytes = Place::kTileBytes, kRows = Place::kRows;
  constexpr int kKeys = kNarrow ? kTileKeys / kWarps : kTileKeys;  // of one warp
  constexpr int kTilesPerPage = kPageTokens / kTileKeys;
  using Queries = SharedTile<kDim>;
  using Rows = typename Cache::template Rows<kDim>;
  constexpr int kQueryChunks = kDim / 8, kChunks = Cache::kBytes ? kDim / 16 : kDim / 8, kRowBytes = 16 * kChunks;
  const uint32_t s_q = shared_address(dynamic_shared<unsigned char>());
  const uint32_t s_k = s_q + Place::kKeysAt, s_v = s_q + Place::kValuesAt;
  const float* const scales = reinterpret_cast<const float*>(dynamic_shared<unsigned char>() + Place::kScalesAt);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  const AttentionItem item = p.items[blockIdx.x];
  if (item.tokens == 0) return;  // the whole block; lists of a recorded step are padded
  const int kv_head = blockIdx.y, group = p.heads / p.kv_heads, rows = item.tokens * group;
  const int width = (p.heads + 2 * p.kv_heads) * kDim;
  const int tiles = (item.key_end - item.key_begin + kTileKeys - 1) / kTileKeys;

  auto load_keys = [&](int tile) {
    const uint32_t to_k = s_k + tile % 2 * kTileBytes, to_v = s_v + tile % 2 * kTileBytes;
    const int page = p.pages[item.page + tile / kTilesPerPage], first = tile % kTilesPerPage * kTileKeys;
    constexpr KvFormat kFormat = Cache::kBytes ? KvFormat::int8 : KvFormat::activation;
    const size_t block = (size_t(page) * p.kv_heads + kv_head) * kv_block_bytes(kDim, kFormat);
    const char *keys = p.keys + block, *values = p.values + block;
    const int left = item.key_end - item.key_begin - tile * kTileKeys;  // keys of the item
#pragma unroll
    for (int i = threadIdx.x; i < kTileKeys * kChunks; i += kThreads) {
      const int r = i / kChunks, c = i % kChunks;
      cp_async16(to_k + Rows::at(r, c), keys + first * kRowBytes + i * 16, r < left);
      cp_async16(to_v + Rows::at(r, c), values + first * kRowBytes + i * 16, r < left);
    }
    if constexpr (Cache::kBytes) {  // zero past the last key: what was never written may be no number
      static_assert(2 * kTileKeys <= kThreads);
      const int r = threadIdx.x % kTileKeys, which = threadIdx.x / kTileKeys;
      if (which < 2) {
        const char* from = (which == 0 ? keys : values) + kPageTokens * kRowBytes + (first + r) * sizeof(float);
        cp_async4(s_q + Place::kScalesAt + (tile % 2 * 2 + which) * Place::kScaleBytes + r * sizeof(float), from,
                  r < left);
      }
    }
  };
  for (int i = threadIdx.x; i < kRows * kQueryChunks; i += kThreads) {
    const int r = i / kQueryChunks, c = i % kQueryChunks;
    const bool valid = r < rows;
    const int row = valid ? p.tokens[item.token + r / group].row : 0;
    cp_async16(s_q + Queries::at(r, c), p.qkv + size_t(row) * width + (kv_head * group + r % group) * kDim + c * 8,
               valid);
  }
  load_keys(0);
  cp_async_commit();

  // Rows g and g + 8 of this warp: the last key of this item that each sees. Rows without a token see what there is.
  const int warp_row = kNarrow ? 0 : warp * 16;
  int last[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = warp_row + lane / 4 + half * 8;
    const int position = r < rows ? p.tokens[item.token + r / group].position : item.key_end - 1;
    last[half] = min(position, item.key_end - 1) - item.key_begin;
  }

  AttentionTile<kDim, kKeys, Cache> tile_state;
  tile_state.clear();
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // tile `tile` has arrived, and everybody has left the one before it
    if (tile == 0) tile_state.load_queries(s_q, warp_row, lane);
    if (tile + 1 < tiles) load_keys(tile + 1);
    cp_async_commit();

    const int first = kNarrow ? warp * kKeys : 0;  // of this warp in the tile
    const int base = tile * kTileKeys + first;     // and in the item
    const float* key_scales = scales + tile % 2 * 2 * kTileKeys;
    tile_state.score(s_k + tile % 2 * kTileBytes, first, lane, key_scales);
    tile_state.mask(last[0] - base, last[1] - base, lane);
    tile_state.absorb(s_v + tile % 2 * kTileBytes, first, p.scale_log2, lane, key_scales + kTileKeys);
  }
  cp_async_wait<0>();
  tile_state.finish_sums();

  if constexpr (kNarrow) {
    // Warps hold the same rows over different keys: merge them through shared memory, K and V being done with.
    float* s_stats = dynamic_shared<float>();                // [kWarps][16][2]: maximum and sum
    float* s_out = s_stats + kWarps * kAttentionNarrow * 2;  // [kWarps][16][kDim + 4]
    constexpr int kPitch = kDim + 4;
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = lane / 4 + half * 8;
      float* to = s_out + (warp * kAttentionNarrow + r) * kPitch;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        *reinterpret_cast<float2*>(to + tile_state.result_dim(j, lane)) = tile_state.result(j, half);
      }
      if (lane % 4 == 0) {
        *reinterpret_cast<float2*>(s_stats + (warp * kAttentionNarrow + r) * 2) =
            make_float2(tile_state.r_max[half], tile_state.r_sum[half]);
      }
    }
    __syncthreads();
    for (int r = warp; r < rows; r += kWarps) {
      float top = -INFINITY, sum = 0, weight[kWarps];
#pragma unroll
      for (int i = 0; i < kWarps; ++i) top = fmaxf(top, s_stats[(i * kAttentionNarrow + r) * 2]);
      const float base = top == -INFINITY ? 0.f : top;  // no key of this item may be the row's
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        weight[i] = exp2_approx((s_stats[(i * kAttentionNarrow + r) * 2] - base) * p.scale_log2);
        sum += weight[i] * s_stats[(i * kAttentionNarrow + r) * 2 + 1];
      }
      const AttentionToken token = p.tokens[item.token + r / group];
      const int head = kv_head * group + r % group;
      const float inverse = token.splits == 1 ? 1.f / sum : 1.f;
      bf16* out = p.out + (size_t(token.row) * p.heads + head) * kDim;
      float* partial = p.partial + (size_t(token.slot + item.split) * p.heads + head) * (kDim + 2);
      for (int d = lane * 2; d < kDim; d += 64) {
        float y0 = 0, y1 = 0;
#pragma unroll
        for (int i = 0; i < kWarps; ++i) {
          const float2 y = *reinterpret_cast<const float2*>(s_out + (i * kAttentionNarrow + r) * kPitch + d);
          y0 += weight[i] * y.x, y1 += weight[i] * y.y;
        }
        if (token.splits == 1) {
          *reinterpret_cast<uint32_t*>(out + d) = pack_bf16(y0 * inverse, y1 * inverse);
        } else {
          *reinterpret_cast<float2*>(partial + d) = make_float2(y0, y1);
        }
      }
      if (token.splits > 1 && lane == 0) *reinterpret_cast<float2*>(partial + kDim) = make_float2(top, sum);
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = warp_row + lane / 4 + half * 8;
      if (r >= rows) continue;
      const AttentionToken token = p.tokens[item.token + r / group];
      store_row(p, tile_state, half, token, item.split, kv_head * group + r % group, lane);
    }
  }
}

struct MergeArgs {
  bf16* out;
  const float* partial;
  const AttentionToken* tokens;
  const int32_t* split_tokens;
  int heads, head_dim;
  float scale_log2;
};

// A warp adds up the partial results of one row and head.
__global__ void __launch_bounds__(kThreads) attention_merge_kernel(MergeArgs p) {
  const int lane = threadIdx.x % 32, head = blockIdx.y * kWarps + threadIdx.x / 32;
  if (head >= p.heads) return;
  const int index = p.split_tokens[blockIdx.x];
  if (index < 0) return;  // padding
  const AttentionToken token = p.tokens[index];
  const int pitch = p.head_dim + 2;
  const float* partial = p.partial + (size_t(token.slot) * p.heads + head) * pitch;
  const size_t step = size_t(p.heads) * pitch;

  float top = -INFINITY, sum = 0;
  for (int i = lane; i < token.splits; i += 32) top = fmaxf(top, partial[i * step + p.head_dim]);
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, flip));
  for (int i = 0; i < token.splits; ++i) {
    sum += exp2_approx((partial[i * step + p.head_dim] - top) * p.scale_log2) * partial[i * step + p.head_dim + 1];
  }
  const float inverse = 1.f / sum;
  for (int d = lane * 2; d < p.head_dim; d += 64) {
    float y0 = 0, y1 = 0;
    for (int i = 0; i < token.splits; ++i) {
      const float weight = exp2_approx((partial[i * step + p.head_dim] - top) * p.scale_log2);
      const float2 y = *reinterpret_cast<const float2*>(partial + i * step + d);
      y0 += weight * y.x, y1 += weight * y.y;
    }
    *reinterpret_cast<uint32_t*>(p.out + (size_t(token.row) * p.heads + head) * p.head_dim + d) =
        pack_bf16(y0 * inverse, y1 * inverse);
  }
}

template <int kDim, bool kNarrow, class Cache>
void run(const CachedAttention& job, const AttentionItem* items, int count, float scale_log2, cudaStream_t stream) {
  const Args args{job.qkv,
                  job.out,
                  static_cast<const char*>(job.keys),
                  static_cast<const char*>(job.values),
                  job.pages,
                  items,
                  job.tokens,
                  job.partial,
                  job.heads,
                  job.kv_heads,
                  scale_log2};
  const int merge = kNarrow ? kWarps * kAttentionNarrow * (kDim + 4 + 2) * 4 : 0;
  launch(attention_cached_kernel<kDim, kNarrow, Cache>, dim3(unsigned(count), unsigned(job.kv_heads)), kThreads,
         std::max(Shared<kDim, kNarrow, Cache>::kBytes, merge), stream, args);
}

template <int kDim, class Cache>
void run_items(const CachedAttention& job, float scale_log2, cudaStream_t stream) {
  run<kDim, false, Cache>(job, job.wide, job.wide_items, scale_log2, stream);
  run<kDim, true, Cache>(job, job.narrow, job.narrow_items, scale_log2, stream);
}

template <int kDim>
void run_all(const CachedAttention& job, cudaStream_t stream) {
  const float widened = job.format == KvFormat::int8 ? kWidenedBytes : 1.f;  // scores are of widened keys until here
  const float scale_log2 = widened * 1.44269504f / std::sqrt(float(kDim));
  job.format == KvFormat::int8 ? run_items<kDim, ByteKv>(job, scale_log2, stream)
                               : run_items<kDim, HalfKv>(job, scale_log2, stream);
  const MergeArgs merge{job.out, job.partial, job.tokens, job.split_tokens, job.heads, kDim, scale_log2};
  launch(attention_merge_kernel, dim3(unsigned(job.split_token_count), unsigned(ceil_div(job.heads, kWarps))), kThreads,
         0, stream, merge);
}

}  // namespace

void attention_cached(const CachedAttention& job, cudaStream_t stream) {
  switch (job.head_dim) {
    case 16: return run_all<16>(job, stream);
    case 32: return run_all<32>(job, stream);
    case 64: return run_all<64>(job, stream);
    case 96: return run_all<96>(job, stream);
    case 128: return run_all<128>(job, stream);
    default:
      throw Error(Code::internal,
                  text("attention: no kernel for head_dim %d; built for 16, 32, 64, 96, 128", job.head_dim));
  }
}

// The plan is the same for all layers of a pass; the first one makes it.
const AttentionPlan& CudaOps::plan(const Batch& batch, int64_t heads, int64_t kv_heads, int64_t head_dim, bool padded) {
  if (plan_) return *plan_;
  const int64_t slot_bytes = heads * (head_dim + 2) * int64_t(sizeof(float));
  plan_ = plan_attention(batch, heads, kv_heads, context_.limits.multiprocessors, int64_t(kPartialBytes) / slot_bytes);
  if (padded) pad(*plan_);
  plan_lists_.clear();
  plan_lists_.add(plan_->wide);
  plan_lists_.add(plan_->narrow);
  plan_lists_.add(plan_->tokens);
  plan_lists_.add(plan_->split_tokens);
  send(plan_lists_);
  return *plan_;
}

void CudaOps::attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) {
  const int64_t kv_heads = kv.shape.kv_heads, head_dim = kv.shape.head_dim;
  expect_shape("attention_cached", "qkv", qkv, {batch.rows, (heads + 2 * kv_heads) * head_dim});
  expect_shape("attention_cached", "out", out, {batch.rows, heads * head_dim});
  expect_bf16("attention_cached", "out", out);
  expect_kv("attention_cached", kv, layer);
  const cudaStream_t on = stream();
  const AttentionPlan& p = plan(batch, heads, kv_heads, head_dim);
  CachedAttention job{};
  job.qkv = qkv.as<bf16>(), job.out = out.as<bf16>();
  job.keys = layer_keys(kv, layer), job.values = layer_values_of(kv, layer);
  job.pages = batch_lists_.at<int32_t>(2);
  job.wide = plan_lists_.at<AttentionItem>(0), job.wide_items = int(p.wide.size());
  job.narrow = plan_lists_.at<AttentionItem>(1), job.narrow_items = int(p.narrow.size());
  job.tokens = plan_lists_.at<AttentionToken>(2);
  job.split_tokens = plan_lists_.at<int32_t>(3), job.split_token_count = int(p.split_tokens.size());
  job.partial = static_cast<float*>(partial_.data);
  job.heads = int(heads), job.kv_heads = int(kv_heads), job.head_dim = int(head_dim);
  job.format = kv.shape.format;
  cuda::attention_cached(job, on);
}

}  // namespace drivlm::cuda
