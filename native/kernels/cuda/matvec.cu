// Linear layers for the few rows of a decode step: one read of the weights decides.
//
//   out = x * W^T with the epilogues of linear.cu, for 1 to 8 rows of x
//
//   x    [rows, k]   bf16   rows <= 8, stays in L1
//   W    [n, k]      bf16, int8 or int4, as weight_formats.cuh lays them out
//
// Tiling    out^T = W x^T on tensor cores: 16 rows of W are the A operand, the rows of x the 8 columns of B, so nothing is
//           padded but the columns without a row. No shared memory in the loop: the order of k does not matter as long as
//           A and B agree, so in every format lane (g, t) loads 16 bytes of rows g and g + 8 at byte 64 step + 16 t, and x for the
//           weights that these are. The warps of a block split k and add up in shared memory.
// Traffic   W once, bytes a weight: 2 in bf16, 1 in int8 with 4 a row, 0.5625 in int4. 0.49 G weights of a 0.5B decoder are 0.99 GB a
//           step in bf16: 0.30 ms at 3.35 TB/s, 4.8 ms at 205 GB/s; in int8 half of that, in int4 0.28 (bounds).
// Work      Integer and conversion instructions for two weights, as disassembled for sm_87 and sm_90: none in bf16; int8 1.5 (an AND-XOR, half
//           a shift); int4 1.25 (an AND, or AND-XOR, a quarter of a shift), and 0.25 for the scales. In both one fused multiply-add of a pair.
// Numerics  f32 sums, split by warp and added in warp order: the same result every time. int8: the row's scale is applied to the sum;
//           int4: each group's sum by its scale.
// Needs     k a multiple of 8; 16-byte aligned rows of x.
// Checked   test/emulator/linear_test.cpp, matvec_.

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/cuda/weight_formats.cuh"

namespace drivlm::cuda {

namespace {

constexpr int kRowsPerBlock = 16;

struct Args {
  const bf16* x;
  const float* bias;
  const float* scale;
  void* out;
  int rows, n, k;
};

template <class Format, Epilogue kEpilogue, class Out, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) matvec_kernel(Args p, WeightView weights) {
  constexpr int kUnroll = 4;  // pieces in flight: 8 x 16 bytes a lane
  SHARED_ARRAY(float, s_part, [kWarps][kRowsPerBlock][kMatvecRows]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int row0 = blockIdx.x * kRowsPerBlock, steps = (weights.row_bytes + 63) / 64;
  const uint4 zero = make_uint4(0, 0, 0, 0);

  float r_sum[4] = {};
  const auto load_w = [&](int row, int step) {
    const int byte = step * 64 + t * 16;
    const bool inside = row < p.n && byte < weights.row_bytes;
    return inside ? load_streaming16(weights.data + size_t(row) * weights.row_bytes + byte) : zero;
  };
  const auto load_x = [&](int k) { return g < p.rows && k < p.k ? load16(p.x + size_t(g) * p.k + k) : zero; };

  for (int step0 = warp; step0 < steps; step0 += kWarps * kUnroll) {
    typename Format::Piece r_piece[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int step = step0 + u * kWarps;
      r_piece[u].low = load_w(row0 + g, step);
      r_piece[u].high = load_w(row0 + g + 8, step);
      Format::load_scales(r_piece[u], weights, step, row0 + g, row0 + g + 8, p.n);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) Format::multiply(r_sum, r_piece[u], step0 + u * kWarps, t, load_x);
  }

  // r_sum holds rows g and g + 8 of W against rows 2t and 2t + 1 of x
  s_part[warp][g][2 * t] = r_sum[0], s_part[warp][g][2 * t + 1] = r_sum[1];
  s_part[warp][g + 8][2 * t] = r_sum[2], s_part[warp][g + 8][2 * t + 1] = r_sum[3];
  __syncthreads();
  const auto total = [&](int row, int column) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += s_part[i][row][column];
    return sum * Format::row_scale(weights, row0 + row) + (p.bias ? p.bias[row0 + row] : 0.f);
  };

  constexpr int kOut = kEpilogue == Epilogue::gated ? kRowsPerBlock / 2 : kRowsPerBlock;
  const int out_n = kEpilogue == Epilogue::gated ? p.n / 2 : p.n, out0 = blockIdx.x * kOut;
  for (int i = threadIdx.x; i < kOut * kMatvecRows; i += 32 * kWarps) {
    const int row = i % kOut, column = i / kOut;
    if (out0 + row >= out_n || column >= p.rows) continue;
    const size_t at = size_t(column) * out_n + out0 + row;
    if constexpr (kEpilogue == Epilogue::gated) {
      static_cast<bf16*>(p.out)[at] = __float2bfloat16(silu(total(2 * row, column)) * total(2 * row + 1, column));
    } else {
      float y = total(row, column);
      if constexpr (kEpilogue == Epilogue::gelu) y = gelu(y);
      if constexpr (std::is_same_v<Out, float>) {
        static_cast<float*>(p.out)[at] = y;
      } else {
        bf16* out = static_cast<bf16*>(p.out) + at;
        if constexpr (kEpilogue == Epilogue::add) {
          y = __bfloat162float(*out) + (p.scale ? p.scale[out0 + row] : 1.f) * y;
        }
        *out = __float2bfloat16(y);
      }
    }
  }
}

template <class Format, Epilogue kEpilogue, class Out>
void run(const Linear& job, cudaStream_t stream) {
  const Args args{static_cast<const bf16*>(job.x), job.bias, job.scale, job.out, int(job.rows), int(job.n), int(job.k)};
  const WeightView weights = view_of(job.w);
  const dim3 grid(unsigned(ceil_div(job.n, kRowsPerBlock)));
  // Few rows of W make few blocks: then more warps share each, as long as there is enough k for them.
  if (job.k >= 1024 && job.n <= 16384) {
    launch(matvec_kernel<Format, kEpilogue, Out, 8>, grid, 256, 0, stream, args, weights);
  } else {
    launch(matvec_kernel<Format, kEpilogue, Out, 4>, grid, 128, 0, stream, args, weights);
  }
}

template <class Format>
void run(const Linear& job, cudaStream_t stream) {
  switch (job.after) {
    case Epilogue::store:
      return job.out_f32 ? run<Format, Epilogue::store, float>(job, stream)
                         : run<Format, Epilogue::store, bf16>(job, stream);
    case Epilogue::gelu: return run<Format, Epilogue::gelu, bf16>(job, stream);
    case Epilogue::add: return run<Format, Epilogue::add, bf16>(job, stream);
    case Epilogue::gated: return run<Format, Epilogue::gated, bf16>(job, stream);
  }
}

}  // namespace

void matvec(const Linear& job, cudaStream_t stream) {
  if (job.rows == 0) return;
  if (job.rows > kMatvecRows || job.k % 8 != 0) throw Error(Code::internal, "matvec: 1 to 8 rows, k a multiple of 8");
  switch (job.w.encoding) {
    case Encoding::bf16: return run<Bf16>(job, stream);
    case Encoding::s8: return run<S8Rows>(job, stream);
    case Encoding::s4: return run<S4Groups>(job, stream);
  }
}

}  // namespace drivlm::cuda
