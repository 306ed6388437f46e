// Linear layers on tensor cores, with what follows them fused.
//
//   y[m, :]   = x[m, :] * W^T + bias
//   out[m, :] = y | gelu(y) | out[m, :] + scale * y | silu(y[2i]) * y[2i + 1]
//
//   x     [rows, k]       bf16   rows = tiles * 1025 in the vision tower: all tiles of a scene are one product
//   W     [n, k]          bf16, int8 or int4, as weight_formats.cuh lays them out; gated: gate and up rows alternate
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

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/linear_kernel.cuh"
#include "kernels/cuda/op_checks.h"

namespace drivlm::cuda {

namespace {

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
LinearTile choose_linear_tile(int64_t rows, int64_t n, const DeviceLimits& limits, Encoding encoding) {
  LinearTile best = LinearTile::t64x64;
  double best_time = 0;
  for (const TileCost& t : kTiles) {
    if (t.shared_bytes > limits.shared_per_block) continue;
    if (encoding != Encoding::bf16 && t.bm == 128) continue;
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
  if (job.x_scales) return linear_int8(job, tile, stream);
  if (job.w.encoding != Encoding::bf16) return linear_quantised(job, tile, stream);
  if (job.k % 8 != 0) {  // the patch embedding
    if (job.k % 4 != 0 || job.after != Epilogue::store || job.out_f32) {
      throw Error(Code::internal, text("linear: no kernel for k %lld with this epilogue; k must be a multiple of 8",
                                       static_cast<long long>(job.k)));
    }
    return job.rows >= 512 ? run_linear<Tile64x128, Bf16, Epilogue::store, bf16, true>(job, stream)
                           : run_linear<Tile64x64, Bf16, Epilogue::store, bf16, true>(job, stream);
  }
  switch (tile) {
    case LinearTile::t128x128x4: return run_linear_tile<Tile128x128x4, Bf16>(job, stream);
    case LinearTile::t128x128x3: return run_linear_tile<Tile128x128x3, Bf16>(job, stream);
    case LinearTile::t64x128: return run_linear_tile<Tile64x128, Bf16>(job, stream);
    case LinearTile::t64x64: return run_linear_tile<Tile64x64, Bf16>(job, stream);
    case LinearTile::t16x64: return run_linear_tile<Tile16x64, Bf16>(job, stream);
  }
}

void linear_suited(const Linear& job, const DeviceLimits& limits, float* partial, cudaStream_t stream) {
  if (job.rows <= kMatvecRows && job.k % 8 == 0 && !job.x_scales) return matvec(job, stream);
  const int splits = choose_linear_splits(job.rows, job.n, job.k, limits);
  if (splits > 1) return linear_split(job, splits, partial, stream);
  // The bytes of S8Bytes come as they are; the others become bf16 on their way, which tiles of 128 rows have no kernel for.
  linear(job, choose_linear_tile(job.rows, job.n, limits, job.x_scales ? Encoding::bf16 : job.w.encoding), stream);
}

bool CudaOps::rounds(int64_t rows, const Weights& w) const {
  return rows > kMatvecRows && context_.int8_activations && w.encoding != Encoding::bf16;
}

RoundedRows CudaOps::rounded_rows(int64_t rows, int64_t stride) {
  const int64_t scales_at = round_up(rows * stride, 16);
  uint8_t* bytes = static_cast<uint8_t*>(rounded_room(scales_at + rows * int64_t(sizeof(InputScale))));
  return {bytes, reinterpret_cast<InputScale*>(bytes + scales_at)};
}

void CudaOps::run_linear(Linear job) {
  if (job.rows == 0) return;
  if (!job.x_scales && rounds(job.rows, job.w)) {
    const RoundedRows rounded = rounded_rows(job.rows, job.w.stride);
    round_rows(rounded.bytes, rounded.scales, static_cast<const bf16*>(job.x), job.rows, job.k, job.w.stride, stream());
    job.x = rounded.bytes, job.x_scales = rounded.scales;
  }
  if (job.x_scales) job.w = as_bytes(job.w, job.n);
  linear_suited(job, context_.limits, static_cast<float*>(partial_.data), stream());
}

void CudaOps::linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) {
  const int64_t rows = x.shape[0];
  expect_shape("linear", "x", x, {rows, w.cols});
  expect_bf16("linear", "x", x);
  if (after != Epilogue::store && after != Epilogue::gelu)
    throw Error(Code::internal, "linear: stores, or gelu before that");
  linear_of("linear", {x.as<bf16>(), ours(w).weights, rows, w.rows, w.cols}, out, w, bias, after);
}

// The product of the rows that `job` names, with what follows it.
void CudaOps::linear_of(const char* op, Linear job, Tensor out, const Matrix& w, Tensor bias, Epilogue after) {
  const bool gated = after == Epilogue::gated;
  expect_shape(op, "out", out, {job.rows, gated ? w.rows / 2 : w.rows});
  job.bias = parameters(op, "bias", bias, w.rows);
  job.out = out.data;
  job.out_f32 = out.dtype == DType::f32;
  job.after = after;
  if (job.out_f32 && after != Epilogue::store)
    throw Error(Code::internal, text("%s: no kernel for f32 out after an activation", op));
  if (ours(w).gated != gated) throw Error(Code::internal, text("%s: linear_gated is for matrices from load_gated", op));
  run_linear(job);
}

void CudaOps::linear_add(Tensor x, Tensor in, const Matrix& w, Tensor bias, Tensor scale, Tensor) {
  const int64_t rows = in.shape[0];
  expect_shape("linear_add", "in", in, {rows, w.cols});
  expect_shape("linear_add", "x", x, {rows, w.rows});
  expect_bf16("linear_add", "in", in);
  expect_bf16("linear_add", "x", x);
  Linear job{in.as<bf16>(), ours(w).weights, rows, w.rows, w.cols};
  job.bias = parameters("linear_add", "bias", bias, w.rows);
  job.scale = parameters("linear_add", "scale", scale, w.rows);
  job.out = x.data;
  job.after = Epilogue::add;
  run_linear(job);
}

void CudaOps::linear_gated(Tensor out, Tensor x, const Matrix& gate_up) {
  const int64_t rows = x.shape[0];
  expect_shape("linear_gated", "x", x, {rows, gate_up.cols});
  expect_bf16("linear_gated", "x", x);
  linear_of("linear_gated", {x.as<bf16>(), ours(gate_up).weights, rows, gate_up.rows, gate_up.cols}, out, gate_up, {},
            Epilogue::gated);
}

}  // namespace drivlm::cuda
