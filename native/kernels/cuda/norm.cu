// LayerNorm and RMS norm over rows, alone or with what stands around them.
//
//   x[r, :]   += scale * y[r, :]                           optional: the residual before the norm
//   out[r, :]  = (x[r, :] - mean) * rstd * weight + bias   LayerNorm
//   out[r, :]  = bf16(x[r, :] * rrms) * weight             RMS norm, which rounds before the weight as the network does
//   shuffled:    row r of x is the 2 x 2 cell r of a tile's patches, side by side (pixel shuffle of the projector)
//
//   x, y, out            [rows, dim]  bf16   rows of x and out may be parts of longer rows
//   scale, weight, bias  [dim]        f32
//
// Tiling    A warp holds a row of up to 1024 values in registers, 4 rows a block; longer rows take the 4 or 8 warps of a
//           block. Nothing is read twice.
// Traffic   one read and one write: 13 tiles of the tower (13 325 x 1024) are 55 MB: 16 us at 3.35 TB/s (bound).
//           With the residual two reads and two writes; unfused it is five passes.
// Numerics  f32 sums. Variance from the centred values: E[x^2] - E[x]^2 cancels when the mean is large. The norm reads x
//           as rounded to bf16, as the unfused pair does.
// Needs     dim a multiple of 8, at most 8192; rows 16-byte aligned.
// Checked   test/emulator/norm_test.cpp.

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

namespace {

enum class Before { nothing, add, shuffle };

struct Args {
  bf16* x;
  const bf16* y;
  bf16* out;
  const float* weight;
  const float* bias;
  const float* scale;
  int rows, dim, x_stride, out_stride;
  float eps;
  int grid;
  bool transposed;
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
template <bool kLayer, Before kBefore, int kWarps, int kVecs>
__global__ void __launch_bounds__(kWarps == 1 ? 128 : 32 * kWarps) norm_kernel(Args p) {
  constexpr int kLanes = 32 * kWarps, kRowsPerBlock = kWarps == 1 ? 4 : 1;
  SHARED_ARRAY(float, s_part, [2][kWarps]);
  const int lane = threadIdx.x % kLanes, row = blockIdx.x * kRowsPerBlock + threadIdx.x / kLanes;
  if (row >= p.rows) return;  // whole warps, or the whole block
  bf16* x = p.x + size_t(row) * p.x_stride;

  float r_x[kVecs][8];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int c = (i * kLanes + lane) * 8;
    if (c < p.dim) {
      const bf16* from = kBefore == Before::shuffle ? p.x + shuffled_source(row, c, p.dim, p.grid, p.transposed) : x + c;
      unpack8(r_x[i], load16(from));
      if constexpr (kBefore == Before::add) {
        float r_y[8], r_scale[8];
        unpack8(r_y, load16(p.y + size_t(row) * p.dim + c));
        if (p.scale) load_parameters(r_scale, p.scale + c);
#pragma unroll
        for (int e = 0; e < 8; ++e) r_x[i][e] += (p.scale ? r_scale[e] : 1.f) * r_y[e];
        const uint4 rounded = pack8(r_x[i]);
        store16(x + c, rounded);
        unpack8(r_x[i], rounded);
      }
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
#pragma unroll
  for (int i = 0; i < kVecs; ++i) {
    const int c = (i * kLanes + lane) * 8;
    if (c >= p.dim) continue;
    float r_weight[8], r_bias[8], r_out[8];
    load_parameters(r_weight, p.weight + c);
    if constexpr (kLayer) load_parameters(r_bias, p.bias + c);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      r_out[e] = kLayer ? r_x[i][e] * inverse * r_weight[e] + r_bias[e] : round_bf16(r_x[i][e] * inverse) * r_weight[e];
    }
    store16(p.out + size_t(row) * p.out_stride + c, pack8(r_out));
  }
}

template <bool kLayer, Before kBefore>
void run(const Args& args, cudaStream_t stream) {
  const unsigned rows = unsigned(args.rows);
  if (args.dim <= 256) return launch(norm_kernel<kLayer, kBefore, 1, 1>, dim3((rows + 3) / 4), 128, 0, stream, args);
  if (args.dim <= 1024) return launch(norm_kernel<kLayer, kBefore, 1, 4>, dim3((rows + 3) / 4), 128, 0, stream, args);
  if (args.dim <= 4096) return launch(norm_kernel<kLayer, kBefore, 4, 4>, dim3(rows), 128, 0, stream, args);
  launch(norm_kernel<kLayer, kBefore, 8, 4>, dim3(rows), 256, 0, stream, args);
}

__global__ void __launch_bounds__(256) scale_add_kernel(bf16* x, const bf16* y, const float* scale, int dim, int64_t vectors) {
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
  if (job.dim % 8 != 0 || job.dim > 8192) {
    throw Error(Code::internal, text("norm: no kernel for dim %lld; multiples of 8 up to 8192", static_cast<long long>(job.dim)));
  }
  const Args args{const_cast<bf16*>(job.x), job.y,         job.out,
                  job.weight,               job.bias,      job.scale,
                  int(job.rows),            int(job.dim),  int(job.x_stride),
                  int(job.out_stride),      job.eps,       int(job.grid),
                  job.version == 1};
  if (job.layer) {
    if (job.grid) return run<true, Before::shuffle>(args, stream);
    return job.y ? run<true, Before::add>(args, stream) : run<true, Before::nothing>(args, stream);
  }
  if (job.grid) throw Error(Code::internal, "norm: pixel shuffle is fused with LayerNorm only");
  job.y ? run<false, Before::add>(args, stream) : run<false, Before::nothing>(args, stream);
}

void scale_add(bf16* x, const bf16* y, const float* scale, int64_t rows, int64_t dim, cudaStream_t stream) {
  if (dim % 8 != 0) throw Error(Code::internal, "scale_add: dim must be a multiple of 8");
  const int64_t vectors = rows * dim / 8;
  launch(scale_add_kernel, dim3(unsigned(ceil_div(vectors, 256))), 256, 0, stream, x, y, scale, int(dim), vectors);
}

}  // namespace drivlm::cuda
