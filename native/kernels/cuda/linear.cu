// Linear layers on tensor cores, with what follows them fused.
//
//   y[m, :]   = x[m, :] * W^T + bias
//   out[m, :] = y | gelu(y) | out[m, :] + scale * y | silu(y[2i]) * y[2i + 1]
//
//   x     [rows, k]       bf16   rows = tiles * 1025 in the vision tower: all tiles of a scene are one product
//   W     [n, w_stride]   bf16   rows zero past k; gated: gate and up rows alternate
//   out   [rows, n]       bf16 or f32; [rows, n / 2] when gated
//   bias, scale  [n]      f32
//
// Tiling    A block computes BM x BN of out; its warps take equal rectangles. k advances by BK per step through a ring
//           of kStages tiles filled by cp.async; one barrier a step: wait for stage kt, barrier, refill the stage that
//           everybody left a step ago, compute. Blocks walk the tile grid in groups of 8 row tiles, so that concurrent
//           blocks share rows of x and of W in L2.
// Traffic   x, W and out once: ViT-L fc1 of 13 tiles (13 325 x 4096 x 1024) is 146 MB and 112 GFLOP: bound by the
//           tensor cores, 0.12 ms at 989 TFLOP/s, 2.6 ms at 43 TFLOP/s dense bf16 (bounds, not timings).
// Numerics  f32 sums over k in tensor-core order; bias, activation, scale and residual in f32, one rounding at the end.
// Needs     k a multiple of 4; x 16-byte aligned rows unless k is no multiple of 8 (then 8-byte copies are used).
// Checked   test/emulator/linear_test.cpp, linear_.

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/op_checks.h"
#include "kernels/cuda/warp.cuh"
#include "kernels/cuda/weight_formats.cuh"

namespace drivlm::cuda {

namespace {

template <int kBm_, int kBn_, int kBk_, int kStages_, int kWarpsM_, int kWarpsN_>
struct Tile {
  static constexpr int kBm = kBm_, kBn = kBn_, kBk = kBk_, kStages = kStages_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kWarpRows = kBm / kWarpsM, kWarpCols = kBn / kWarpsN;
  static constexpr int kMi = kWarpRows / 16, kNi = kWarpCols / 8;
  static constexpr int kStageBytes = (kBm + kBn) * kBk * 2, kSharedBytes = kStages * kStageBytes;
};
using Tile128x128x4 = Tile<128, 128, 32, 4, 2, 4>;
using Tile128x128x3 = Tile<128, 128, 32, 3, 2, 4>;
using Tile64x128 = Tile<64, 128, 32, 4, 2, 4>;
using Tile64x64 = Tile<64, 64, 64, 3, 2, 2>;
using Tile16x64 = Tile<16, 64, 64, 4, 1, 4>;

template <class Format>
struct Args {
  const bf16* x;
  typename Format::View w;
  const float* bias;
  const float* scale;
  void* out;
  int rows, n, k;
};

constexpr int kGroupRows = 8;  // row tiles that are walked together

// Writes columns n and n + 1 of row m; n is even.
template <Epilogue kEpilogue, class Out>
__device__ __forceinline__ void finish(void* to, int width, int m, int n, float y0, float y1, float scale0,
                                       float scale1) {
  const bool second = n + 1 < width, paired = (width & 1) == 0;
  if constexpr (kEpilogue == Epilogue::gated) {
    static_cast<bf16*>(to)[size_t(m) * (width / 2) + n / 2] = __float2bfloat16(silu(y0) * y1);
  } else if constexpr (std::is_same_v<Out, float>) {
    float* out = static_cast<float*>(to) + size_t(m) * width + n;
    if (paired) {
      *reinterpret_cast<float2*>(out) = make_float2(y0, y1);
    } else {
      out[0] = y0;
      if (second) out[1] = y1;
    }
  } else {
    bf16* out = static_cast<bf16*>(to) + size_t(m) * width + n;
    if constexpr (kEpilogue == Epilogue::gelu) y0 = gelu(y0), y1 = gelu(y1);
    if (paired) {
      if constexpr (kEpilogue == Epilogue::add) {
        const uint32_t before = *reinterpret_cast<const uint32_t*>(out);
        y0 = bf16_low(before) + scale0 * y0, y1 = bf16_high(before) + scale1 * y1;
      }
      *reinterpret_cast<uint32_t*>(out) = pack_bf16(y0, y1);
    } else {
      if constexpr (kEpilogue == Epilogue::add) {
        y0 = __bfloat162float(out[0]) + scale0 * y0;
        if (second) y1 = __bfloat162float(out[1]) + scale1 * y1;
      }
      out[0] = __float2bfloat16(y0);
      if (second) out[1] = __float2bfloat16(y1);
    }
  }
}

// kNarrow: rows of x are only 8-byte aligned.
template <class T, class Format, Epilogue kEpilogue, class Out, bool kNarrow>
__global__ void __launch_bounds__(T::kThreads) linear_kernel(Args<Format> p) {
  constexpr int kBm = T::kBm, kBn = T::kBn, kBk = T::kBk, kChunks = kBk / 8, kStages = T::kStages;
  using Rows = SharedTile<kBk>;
  const uint32_t s_ring = shared_address(dynamic_shared<unsigned char>());
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / T::kWarpsN * T::kWarpRows, warp_n = warp % T::kWarpsN * T::kWarpCols;

  // this block's tile
  const int tiles_n = (p.n + kBn - 1) / kBn, tiles_m = (p.rows + kBm - 1) / kBm;
  const int group = blockIdx.x / (kGroupRows * tiles_n), in_group = blockIdx.x % (kGroupRows * tiles_n);
  const int group_rows = min(kGroupRows, tiles_m - group * kGroupRows);
  const int m0 = (group * kGroupRows + in_group % group_rows) * kBm, n0 = in_group / group_rows * kBn;
  const int steps = (p.k + kBk - 1) / kBk;

  auto load = [&](int step) {
    const uint32_t s_x = s_ring + step % kStages * T::kStageBytes, s_w = s_x + kBm * kBk * 2;
#pragma unroll
    for (int i = threadIdx.x; i < kBm * kChunks; i += T::kThreads) {
      const int r = i / kChunks, c = i % kChunks, m = m0 + r, k = step * kBk + c * 8;
      const bf16* from = p.x + size_t(m) * p.k + k;
      if constexpr (kNarrow) {
        cp_async8(s_x + Rows::at(r, c), from, m < p.rows && k < p.k);
        cp_async8(s_x + Rows::at(r, c) + 8, from + 4, m < p.rows && k + 4 < p.k);
      } else {
        cp_async16(s_x + Rows::at(r, c), from, m < p.rows && k < p.k);
      }
    }
#pragma unroll
    for (int i = threadIdx.x; i < kBn * kChunks; i += T::kThreads) {
      const int r = i / kChunks, c = i % kChunks, n = n0 + r, k = step * kBk + c * 8;
      Format::fill8(s_w + Rows::at(r, c), p.w, n, k, n < p.n);
    }
  };

  float r_sum[T::kMi][T::kNi][4] = {};
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step);
    cp_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // stage `step` has arrived, and everybody has left the stage before it
    if (step + kStages - 1 < steps) load(step + kStages - 1);
    cp_async_commit();
    const uint32_t s_x = s_ring + step % kStages * T::kStageBytes, s_w = s_x + kBm * kBk * 2;
#pragma unroll
    for (int kk = 0; kk < kBk / 16; ++kk) {
      uint32_t r_x[T::kMi][4], r_w[T::kNi][2];
#pragma unroll
      for (int i = 0; i < T::kMi; ++i) {
        ldmatrix_x4(r_x[i], s_x + Rows::at(warp_m + i * 16 + lane_row_a(lane), kk * 2 + lane_chunk_a(lane)));
      }
#pragma unroll
      for (int j = 0; j < T::kNi; j += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, s_w + Rows::at(warp_n + j * 8 + lane_row_b(lane), kk * 2 + lane_chunk_b(lane)));
        r_w[j][0] = r[0], r_w[j][1] = r[1], r_w[j + 1][0] = r[2], r_w[j + 1][1] = r[3];
      }
      mma_bf16_tile(r_sum, r_x, r_w);
    }
  }
  cp_async_wait<0>();

#pragma unroll
  for (int j = 0; j < T::kNi; ++j) {
    const int n = n0 + warp_n + j * 8 + lane % 4 * 2;
    if (n >= p.n) continue;
    const bool second = n + 1 < p.n;
    const float bias0 = p.bias ? p.bias[n] : 0.f, bias1 = p.bias && second ? p.bias[n + 1] : 0.f;
    float scale0 = 1, scale1 = 1;
    if (kEpilogue == Epilogue::add && p.scale) scale0 = p.scale[n], scale1 = second ? p.scale[n + 1] : 1.f;
#pragma unroll
    for (int i = 0; i < T::kMi; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int m = m0 + warp_m + i * 16 + half * 8 + lane / 4;
        if (m >= p.rows) continue;
        finish<kEpilogue, Out>(p.out, p.n, m, n, r_sum[i][j][2 * half] + bias0, r_sum[i][j][2 * half + 1] + bias1,
                               scale0, scale1);
      }
    }
  }
}

template <class T, class Format, Epilogue kEpilogue, class Out, bool kNarrow = false>
void run(const Linear& job, cudaStream_t stream) {
  const Args<Format> args{
      job.x, Format::view(job.w, job.w_stride), job.bias, job.scale, job.out, int(job.rows), int(job.n), int(job.k)};
  const int64_t blocks = ceil_div(args.rows, T::kBm) * ceil_div(args.n, T::kBn);
  launch(linear_kernel<T, Format, kEpilogue, Out, kNarrow>, dim3(unsigned(blocks)), T::kThreads, T::kSharedBytes,
         stream, args);
}

template <class T, class Format>
void run_tile(const Linear& job, cudaStream_t stream) {
  switch (job.after) {
    case Epilogue::store:
      return job.out_f32 ? run<T, Format, Epilogue::store, float>(job, stream)
                         : run<T, Format, Epilogue::store, bf16>(job, stream);
    case Epilogue::gelu: return run<T, Format, Epilogue::gelu, bf16>(job, stream);
    case Epilogue::add: return run<T, Format, Epilogue::add, bf16>(job, stream);
    case Epilogue::gated: return run<T, Format, Epilogue::gated, bf16>(job, stream);
  }
}

struct TileCost {
  LinearTile tile;
  int bm, bn, shared_bytes;
  int blocks_per_sm;  // at most; registers allow them
  double rate;        // useful products a cycle against the largest tile, from its shared-memory loads a product
};
constexpr TileCost kTiles[] = {
    {LinearTile::t128x128x4, 128, 128, Tile128x128x4::kSharedBytes, 2, 1.00},
    {LinearTile::t128x128x3, 128, 128, Tile128x128x3::kSharedBytes, 2, 0.97},
    {LinearTile::t64x128, 64, 128, Tile64x128::kSharedBytes, 2, 0.85},
    {LinearTile::t64x64, 64, 64, Tile64x64::kSharedBytes, 4, 0.80},
    {LinearTile::t16x64, 16, 64, Tile16x64::kSharedBytes, 5, 0.35},
};

}  // namespace

const char* linear_tile_name(LinearTile tile) {
  switch (tile) {
    case LinearTile::t128x128x4: return "128x128x32x4";
    case LinearTile::t128x128x3: return "128x128x32x3";
    case LinearTile::t64x128: return "64x128x32x4";
    case LinearTile::t64x64: return "64x64x64x3";
    case LinearTile::t16x64: return "16x64x64x4";
  }
  return "?";
}

// Time of a tile choice: an SM works through its share of the blocks, and the one with most decides. Blocks beside each
// other on an SM share its tensor cores, so what counts is the work of a full SM, not how many blocks hold it.
LinearTile choose_linear_tile(int64_t rows, int64_t n, const DeviceLimits& limits) {
  LinearTile best = LinearTile::t64x64;
  double best_time = 0;
  for (const TileCost& t : kTiles) {
    if (t.shared_bytes > limits.shared_per_block) continue;
    const int64_t blocks = ceil_div(rows, t.bm) * ceil_div(n, t.bn);
    const int64_t most = ceil_div(blocks, limits.multiprocessors);
    // One block alone cannot hide its own waits.
    const int64_t resident =
        std::min<int64_t>(t.blocks_per_sm, limits.shared_per_multiprocessor / (t.shared_bytes + 1024));
    const double hiding = std::min<int64_t>(most, resident) >= 2 ? 1.0 : 0.8;
    const double time = double(most) * t.bm * t.bn / (t.rate * hiding);
    if (best_time == 0 || time < best_time) best_time = time, best = t.tile;
  }
  return best;
}

void linear(const Linear& job, LinearTile tile, cudaStream_t stream) {
  if (job.rows == 0 || job.n == 0) return;
  if (job.k % 8 != 0) {  // the patch embedding
    if (job.k % 4 != 0 || job.after != Epilogue::store || job.out_f32) {
      throw Error(Code::internal, text("linear: no kernel for k %lld with this epilogue; k must be a multiple of 8",
                                       static_cast<long long>(job.k)));
    }
    return job.rows >= 512 ? run<Tile64x128, Bf16, Epilogue::store, bf16, true>(job, stream)
                           : run<Tile64x64, Bf16, Epilogue::store, bf16, true>(job, stream);
  }
  switch (tile) {
    case LinearTile::t128x128x4: return run_tile<Tile128x128x4, Bf16>(job, stream);
    case LinearTile::t128x128x3: return run_tile<Tile128x128x3, Bf16>(job, stream);
    case LinearTile::t64x128: return run_tile<Tile64x128, Bf16>(job, stream);
    case LinearTile::t64x64: return run_tile<Tile64x64, Bf16>(job, stream);
    case LinearTile::t16x64: return run_tile<Tile16x64, Bf16>(job, stream);
  }
}

void CudaOps::run_linear(const Linear& job) {
  if (job.rows == 0) return;
  if (job.rows <= kMatvecRows && job.k % 8 == 0) return matvec(job, stream());
  cuda::linear(job, choose_linear_tile(job.rows, job.n, context_.limits), stream());
}

void CudaOps::linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) {
  const int64_t rows = x.shape[0];
  expect_shape("linear", "x", x, {rows, w.cols});
  expect_shape("linear", "out", out, {rows, w.rows});
  expect_bf16("linear", "x", x);
  Linear job{x.as<bf16>(), ours(w).data, rows, w.rows, w.cols, ours(w).stride};
  job.bias = parameters("linear", "bias", bias, w.rows);
  job.out = out.data;
  job.out_f32 = out.dtype == DType::f32;
  job.after = after;
  if (after != Epilogue::store && after != Epilogue::gelu)
    throw Error(Code::internal, "linear: stores, or gelu before that");
  if (job.out_f32 && after == Epilogue::gelu) throw Error(Code::internal, "linear: no kernel for gelu with f32 out");
  if (ours(w).gated) throw Error(Code::internal, "linear: a gated matrix is for linear_gated");
  run_linear(job);
}

void CudaOps::linear_add(Tensor x, Tensor in, const Matrix& w, Tensor bias, Tensor scale, Tensor) {
  const int64_t rows = in.shape[0];
  expect_shape("linear_add", "in", in, {rows, w.cols});
  expect_shape("linear_add", "x", x, {rows, w.rows});
  expect_bf16("linear_add", "in", in);
  expect_bf16("linear_add", "x", x);
  Linear job{in.as<bf16>(), ours(w).data, rows, w.rows, w.cols, ours(w).stride};
  job.bias = parameters("linear_add", "bias", bias, w.rows);
  job.scale = parameters("linear_add", "scale", scale, w.rows);
  job.out = x.data;
  job.after = Epilogue::add;
  run_linear(job);
}

void CudaOps::linear_gated(Tensor out, Tensor x, const Matrix& gate_up) {
  const int64_t rows = x.shape[0];
  expect_shape("linear_gated", "x", x, {rows, gate_up.cols});
  expect_shape("linear_gated", "out", out, {rows, gate_up.rows / 2});
  expect_bf16("linear_gated", "x", x);
  expect_bf16("linear_gated", "out", out);
  if (!ours(gate_up).gated) throw Error(Code::internal, "linear_gated: the matrix is not from load_gated");
  Linear job{x.as<bf16>(), ours(gate_up).data, rows, gate_up.rows, gate_up.cols, ours(gate_up).stride};
  job.out = out.data;
  job.after = Epilogue::gated;
  run_linear(job);
}

}  // namespace drivlm::cuda
