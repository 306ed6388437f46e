// LayerNorm and RMS norm over rows, alone or with what stands around them.
//
//   out[r, :]  = (x[r, :] - mean) * rstd * weight + bias   LayerNorm
//   out[r, :]  = bf16(x[r, :] * rrms) * weight             RMS norm, which rounds before the weight as the network does
//   shuffled:    row r of x is the 2 x 2 cell r of a tile's patches, side by side (pixel shuffle of the projector)
//
//   rounded:     out in 8 bits with a scale and a zero point a row (rounding.cuh), what linear_int8.cu reads; out itself is not written
//
//   x += scale * y:      the residual, alone (scale_add)
//
//   x, y, out            [rows, dim]  bf16   rows of x and out may be parts of longer rows
//   scale, weight, bias  [dim]        f32
//
// Tiling    A warp holds a row of up to 1024 values in registers, 4 rows a block; longer rows take the 4 or 8 warps of a
//           block. Nothing is read twice.
// Traffic   one read and one write: 13 tiles of the tower (13 325 x 1024) are 55 MB: 16 us at 3.35 TB/s (bound).
//           Rounded it writes half: 41 MB, and spares the rounding's 41.
// Numerics  f32 sums. Rounded from what out would hold, in bf16: the bits of both kernels one after the other. Variance from the centred values: E[x^2] - E[x]^2 cancels when the mean is large.
// Needs     dim a multiple of 8, at most 8192; rows 16-byte aligned.
// Checked   test/emulator/norm_test.cpp.

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"
#include "kernels/cuda/rounding.cuh"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

namespace {

struct Args {
  const bf16* x;
  bf16* out;
  const float* weight;
  const float* bias;
  int rows, dim, x_stride, out_stride;
  float eps;
  int grid;
  bool transposed;
  uint8_t* rounded;  // [rows, rounded_stride], in place of out
  InputScale* scales;
  int rounded_stride;
};

// Eight f32 parameters.
__device__ __forceinline__ void load_parameters(float (&values)[8], const float* from) {
  const float4 low = *reinterpret_cast<const float4*>(from), high = *reinterpret_cast<const float4*>(from + 4);
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

// Where column c of shuffled row r comes from: spec 3.2. dim is that of the shuffled row.
__device__ __forceinline__ size_t shuffled_source(int r, int c, int dim, int grid, bool transposed) {
  const int half = grid / 2, cells = half * half, part_dim = dim / 4;
  const int tile = r / cells, cell = r % cells, i = cell / half, j = cell % half, part = c / part_dim;
  const int patch_row = 2 * (transposed ? j : i) + part / 2, patch_column = 2 * (transposed ? i : j) + part % 2;
  return (size_t(tile) * (1 + grid * grid) + 1 + patch_row * grid + patch_column) * part_dim + c % part_dim;
}

// kWarps warps share a row; kVecs vectors of eight values a lane.
template <bool kLayer, bool kShuffled, int kWarps, int kVecs>
__global__ void __launch_bounds__(kWarps == 1 ? 128 : 32 * kWarps) norm_kernel(Args p) {
  constexpr int kLanes = 32 * kWarps, kRowsPerBlock = kWarps == 1 ? 4 : 1;
  SHARED_ARRAY(float, s_part, [2][kWarps]);
  SHARED_ARRAY(float, s_most, [2][kWarps]);
  const int lane = threadIdx.x % kLanes, row = blockIdx.x * kRowsPerBlock + threadIdx.x / kLanes;
  if (row >= p.rows) return;  // whole warps, or the whole block
  const bf16* x = p.x + size_t(row) * p.x_stride;

  float r_x[kVecs][8];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int c = (i * kLanes + lane) * 8;
    if (c < p.dim) {
      unpack8(r_x[i], load16(kShuffled ? p.x + shuffled_source(row, c, p.dim, p.grid, p.transposed) : x + c));
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) r_x[i][e] = 0;
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) sum += kLayer ? r_x[i][e] : r_x[i][e] * r_x[i][e];
  }

  // mean, then the variance of the centred values; or the mean square
  sum = block_sum<kWarps>(sum, s_part[0]);
  float mean = 0;
  if constexpr (kLayer) {
    mean = sum / p.dim;
    sum = 0;
#pragma unroll
    for (int i = 0; i < kVecs; ++i) {
      if ((i * kLanes + lane) * 8 >= p.dim) continue;
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        r_x[i][e] -= mean;
        sum += r_x[i][e] * r_x[i][e];
      }
    }
    sum = block_sum<kWarps>(sum, s_part[1]);
  }
  const float inverse = rsqrtf(sum / p.dim + p.eps);

  // out
  float ends[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int c = (i * kLanes + lane) * 8;
    if (c >= p.dim) continue;
    float r_weight[8], r_bias[8];
    load_parameters(r_weight, p.weight + c);
    if constexpr (kLayer) load_parameters(r_bias, p.bias + c);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      r_x[i][e] =
          kLayer ? r_x[i][e] * inverse * r_weight[e] + r_bias[e] : round_bf16(r_x[i][e] * inverse) * r_weight[e];
    }
    const uint4 packed = pack8(r_x[i]);
    if (!p.rounded) {
      store16(p.out + size_t(row) * p.out_stride + c, packed);
    } else {
      unpack8(r_x[i], packed);
      widen_ends(ends, r_x[i]);
    }
  }
  if (!p.rounded) return;
  const Rounding rounding = rounding_of_row<kWarps>(ends, s_most, p.scales + row, lane == 0);
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int c = (i * kLanes + lane) * 8;
    if (c >= p.rounded_stride) continue;
    *reinterpret_cast<uint2*>(p.rounded + size_t(row) * p.rounded_stride + c) =
        c < p.dim ? rounding.eight(r_x[i]) : make_uint2(0, 0);
  }
}

template <bool kLayer, bool kShuffled>
void run(const Args& args, cudaStream_t stream) {
  const unsigned rows = unsigned(args.rows);
  if (args.dim <= 256) return launch(norm_kernel<kLayer, kShuffled, 1, 1>, dim3((rows + 3) / 4), 128, 0, stream, args);
  if (args.dim <= 1024) return launch(norm_kernel<kLayer, kShuffled, 1, 4>, dim3((rows + 3) / 4), 128, 0, stream, args);
  if (args.dim <= 4096) return launch(norm_kernel<kLayer, kShuffled, 4, 4>, dim3(rows), 128, 0, stream, args);
  launch(norm_kernel<kLayer, kShuffled, 8, 4>, dim3(rows), 256, 0, stream, args);
}

__global__ void __launch_bounds__(256)
    scale_add_kernel(bf16* x, const bf16* y, const float* scale, int dim, int64_t vectors) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= vectors) return;
  float r_x[8], r_y[8], r_scale[8];
  unpack8(r_x, load16(x + i * 8));
  unpack8(r_y, load16(y + i * 8));
  if (scale) load_parameters(r_scale, scale + i * 8 % dim);
#pragma unroll
  for (int e = 0; e < 8; ++e) r_x[e] += (scale ? r_scale[e] : 1.f) * r_y[e];
  store16(x + i * 8, pack8(r_x));
}

}  // namespace

void norm(const NormJob& job, cudaStream_t stream) {
  if (job.dim % 8 != 0 || job.dim > kMostNormed) {
    throw Error(Code::internal,
                text("norm: no kernel for dim %lld; multiples of 8 up to 8192", static_cast<long long>(job.dim)));
  }
  const Args args{job.x,
                  job.out,
                  job.weight,
                  job.bias,
                  int(job.rows),
                  int(job.dim),
                  int(job.x_stride),
                  int(job.out_stride),
                  job.eps,
                  int(job.grid),
                  job.version == 1,
                  job.rounded,
                  job.scales,
                  int(job.rounded_stride)};
  if (job.rounded && job.rounded_stride != round_up(job.dim, 16) && job.rounded_stride != round_up(job.dim, 128)) {
    throw Error(Code::internal, "norm: rounded rows are filled up to 16 or 128 bytes");
  }
  if (job.grid && !job.layer) throw Error(Code::internal, "norm: pixel shuffle is fused with LayerNorm only");
  if (job.grid) return run<true, true>(args, stream);
  job.layer ? run<true, false>(args, stream) : run<false, false>(args, stream);
}

void scale_add(bf16* x, const bf16* y, const float* scale, int64_t rows, int64_t dim, cudaStream_t stream) {
  if (dim % 8 != 0) throw Error(Code::internal, "scale_add: dim must be a multiple of 8");
  const int64_t vectors = rows * dim / 8;
  launch(scale_add_kernel, dim3(unsigned(ceil_div(vectors, 256))), 256, 0, stream, x, y, scale, int(dim), vectors);
}

namespace {
NormJob norm_job(const char* op, Tensor x, const Norm& norm) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_bf16(op, "x", x);
  NormJob job{};
  job.x = x.as<bf16>();
  job.weight = parameters(op, "weight", norm.weight, dim);
  job.bias = parameters(op, "bias", norm.bias, dim);
  job.rows = rows, job.dim = dim, job.x_stride = dim, job.out_stride = dim;
  job.eps = norm.eps, job.layer = norm.layer;
  if (!job.weight || norm.layer != (job.bias != nullptr)) {
    throw Error(Code::internal, text("%s: LayerNorm needs weight and bias, RMS norm a weight only", op));
  }
  return job;
}
}  // namespace

void CudaOps::norm(Tensor out, Tensor x, const Norm& norm) {
  expect_shape("norm", "out", out, {x.shape[0], x.shape[1]});
  NormJob job = norm_job("norm", x, norm);
  job.out = out.as<bf16>();
  if (job.rows > 0) cuda::norm(job, stream());
}

void CudaOps::norm_linear(Tensor out, Tensor normed, Tensor x, const Norm& norm, const Matrix& w, Tensor bias,
                          Epilogue after) {
  const Weights& weights = ours(w).weights;
  if (!rounds(x.shape[0], weights)) return Ops::norm_linear(out, normed, x, norm, w, bias, after);
  expect_shape("norm_linear", "x", x, {x.shape[0], w.cols});
  NormJob job = norm_job("norm_linear", x, norm);
  const RoundedRows rounded = rounded_rows(job.rows, weights.stride);
  job.rounded = rounded.bytes, job.scales = rounded.scales, job.rounded_stride = weights.stride;
  cuda::norm(job, stream());
  Linear product{rounded.bytes, weights, job.rows, w.rows, w.cols};
  product.x_scales = rounded.scales;
  linear_of("norm_linear", product, out, w, bias, after);
}

void CudaOps::norm_columns(Tensor x, int64_t first, int64_t width, Tensor weight, float eps) {
  const int64_t rows = x.shape[0], stride = x.shape[1];
  expect_bf16("norm_columns", "x", x);
  if (first < 0 || width < 1 || first + width > stride || first % 8 != 0 || stride % 8 != 0) {
    throw Error(Code::internal, "norm_columns: expected columns inside the rows, on a multiple of 8");
  }
  NormJob job{};
  job.x = x.as<bf16>() + first, job.out = x.as<bf16>() + first;
  job.weight = parameters("norm_columns", "weight", weight, width);
  job.rows = rows, job.dim = width, job.x_stride = stride, job.out_stride = stride;
  job.eps = eps, job.layer = false;
  if (rows > 0) cuda::norm(job, stream());
}

void CudaOps::pixel_shuffle_norm(Tensor out, Tensor x, int64_t grid, int version, const Norm& norm) {
  const int64_t tiles = x.shape[0], dim = 4 * x.shape[2], rows = tiles * grid * grid / 4;
  // A vector of eight values must not straddle two patches.
  if (!norm.layer || x.shape[2] % 8 != 0) return Ops::pixel_shuffle_norm(out, x, grid, version, norm);
  expect_shape("pixel_shuffle_norm", "x", x, {tiles, 1 + grid * grid, dim / 4});
  expect_shape("pixel_shuffle_norm", "out", out, {rows, dim});
  expect_bf16("pixel_shuffle_norm", "x", x);
  NormJob job{};
  job.x = x.as<bf16>(), job.out = out.as<bf16>();
  job.weight = parameters("pixel_shuffle_norm", "weight", norm.weight, dim);
  job.bias = parameters("pixel_shuffle_norm", "bias", norm.bias, dim);
  job.rows = rows, job.dim = dim, job.x_stride = dim, job.out_stride = dim;
  job.eps = norm.eps, job.layer = true, job.grid = grid, job.version = version;
  if (rows > 0) cuda::norm(job, stream());
}

void CudaOps::scale_add(Tensor x, Tensor y, Tensor scale) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("scale_add", "y", y, {rows, dim});
  expect_bf16("scale_add", "x", x);
  cuda::scale_add(x.as<bf16>(), y.as<bf16>(), parameters("scale_add", "scale", scale, dim), rows, dim, stream());
}

}  // namespace drivlm::cuda
