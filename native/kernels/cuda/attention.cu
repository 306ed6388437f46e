// Bidirectional attention of the vision tower: every position of a tile sees all positions of its tile.
//
//   out[q, head] = softmax(Q[q] K^T * head_dim^-0.5) V
//
//   qkv  [groups * positions, 3 * heads * head_dim]  bf16   a row holds q, k and v of all heads; positions = 1025
//   out  [groups * positions, heads * head_dim]      bf16
//
// Tiling    A block takes 64 queries of one head and tile, 16 a warp, and walks the keys in tiles of kKeys; K and V are
//           double-buffered by cp.async, queries stay in registers as A fragments. One pass with a running maximum and
//           sum; P goes from score to A fragment without leaving registers. 1025 keys are 17 tiles, the last with one key.
// Traffic   qkv once from memory, K and V again from L2 by each of the 17 query blocks of a head: 13 tiles of ViT-L are
//           82 MB and 56 GFLOP a layer: 57 us at 989 TFLOP/s, 1.3 ms at 43 TFLOP/s dense bf16 (bounds, not timings).
// Numerics  scores, maximum and sum in f32, exponentials base 2; P is rounded to bf16 for the product with V.
// Needs     head_dim 16, 32, 64, 96 or 128; rows 16-byte aligned.
// Checked   test/emulator/attention_test.cpp, attention_full.

#include <cmath>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"

namespace drivlm::cuda {

namespace {

constexpr int kWarps = 4, kQueries = 16 * kWarps, kThreads = 32 * kWarps;
// Asked of the compiler, which otherwise aims at four blocks and spills a register or two on some architectures.
constexpr int kBlocksPerSm = 3;

template <int kDim>
__host__ __device__ constexpr int keys_per_tile() {
  return kDim <= 64 ? 64 : 32;  // 48 KiB or less in all, so that two blocks fit an SM with 100 KiB
}

struct Args {
  const bf16* qkv;
  bf16* out;
  int positions, heads;
  float scale_log2;
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) attention_full_kernel(Args p) {
  constexpr int kKeys = keys_per_tile<kDim>(), kChunks = kDim / 8;
  using Rows = SharedTile<kDim>;
  constexpr int kTileBytes = Rows::bytes(kKeys);
  const uint32_t s_q = shared_address(dynamic_shared<unsigned char>());
  const uint32_t s_k = s_q + Rows::bytes(kQueries), s_v = s_k + 2 * kTileBytes;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int q0 = blockIdx.x * kQueries, head = blockIdx.y, tiles = (p.positions + kKeys - 1) / kKeys;
  const int width = p.heads * kDim;
  const bf16* queries = p.qkv + size_t(blockIdx.z) * p.positions * 3 * width + head * kDim;
  const bf16* keys = queries + width;
  const bf16* values = keys + width;

  auto load_keys = [&](int tile) {
    const uint32_t to_k = s_k + tile % 2 * kTileBytes, to_v = s_v + tile % 2 * kTileBytes;
#pragma unroll
    for (int i = threadIdx.x; i < kKeys * kChunks; i += kThreads) {
      const int r = i / kChunks, c = i % kChunks, key = tile * kKeys + r;
      const size_t from = size_t(key) * 3 * width + c * 8;
      cp_async16(to_k + Rows::at(r, c), keys + from, key < p.positions);
      cp_async16(to_v + Rows::at(r, c), values + from, key < p.positions);
    }
  };
#pragma unroll
  for (int i = threadIdx.x; i < kQueries * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks;
    cp_async16(s_q + Rows::at(r, c), queries + size_t(q0 + r) * 3 * width + c * 8, q0 + r < p.positions);
  }
  load_keys(0);
  cp_async_commit();

  AttentionTile<kDim, kKeys> tile_state;
  tile_state.clear();
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // tile `tile` has arrived, and everybody has left the one before it
    if (tile == 0) tile_state.load_queries(s_q, warp * 16, lane);
    if (tile + 1 < tiles) load_keys(tile + 1);
    cp_async_commit();

    tile_state.score(s_k + tile % 2 * kTileBytes, 0, lane);
    if ((tile + 1) * kKeys > p.positions) {
      const int last = p.positions - 1 - tile * kKeys;
      tile_state.mask(last, last, lane);
    }
    tile_state.absorb(s_v + tile % 2 * kTileBytes, 0, p.scale_log2, lane);
  }
  cp_async_wait<0>();

  tile_state.finish_sums();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int q = q0 + warp * 16 + lane / 4 + half * 8;
    if (q >= p.positions) continue;
    bf16* out = p.out + (size_t(blockIdx.z) * p.positions + q) * width + head * kDim + lane % 4 * 2;
    const float inverse = 1.f / tile_state.r_sum[half];
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      *reinterpret_cast<uint32_t*>(out + j * 8) =
          pack_bf16(tile_state.r_out[0][j][2 * half] * inverse, tile_state.r_out[0][j][2 * half + 1] * inverse);
    }
  }
}

template <int kDim>
void run(const FullAttention& job, cudaStream_t stream) {
  const Args args{job.qkv, job.out, job.positions, job.heads, 1.44269504f / std::sqrt(float(kDim))};
  const int shared_bytes = SharedTile<kDim>::bytes(kQueries + 4 * keys_per_tile<kDim>());
  const dim3 grid(unsigned(ceil_div(job.positions, kQueries)), unsigned(job.heads), unsigned(job.groups));
  launch(attention_full_kernel<kDim>, grid, kThreads, shared_bytes, stream, args);
}

}  // namespace

void attention_full(const FullAttention& job, cudaStream_t stream) {
  switch (job.head_dim) {
    case 16: return run<16>(job, stream);
    case 32: return run<32>(job, stream);
    case 64: return run<64>(job, stream);
    case 96: return run<96>(job, stream);
    case 128: return run<128>(job, stream);
    default:
      throw Error(Code::internal,
                  text("attention: no kernel for head_dim %d; built for 16, 32, 64, 96, 128", job.head_dim));
  }
}

void CudaOps::attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) {
  const int64_t rows = qkv.shape[0];
  expect_shape("attention", "qkv", qkv, {rows, 3 * heads * head_dim});
  expect_shape("attention", "out", out, {rows, heads * head_dim});
  expect_bf16("attention", "qkv", qkv);
  if (rows % positions != 0) throw Error(Code::internal, "attention: rows are not whole groups");
  attention_full({qkv.as<bf16>(), out.as<bf16>(), int(rows / positions), int(positions), int(heads), int(head_dim)},
                 stream());
}

}  // namespace drivlm::cuda
