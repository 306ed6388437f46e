// The kernel of linear layers, which linear.cu instantiates over bf16 weights, linear_quantised.cu over those in 8 and 4 bits, and linear_int8.cu
// over weights and x in 8 bits; what it computes, how, and from what shapes on is said in linear.cu.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/cuda/weight_formats.cuh"

namespace drivlm::cuda {

// kBk counts units of 16 bits along k: values of bf16, or pairs of bytes.
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

struct LinearArgs {
  const unsigned char* x;
  const InputScale* x_scales;
  int x_bytes;  // of a row
  WeightView w;
  const float* bias;
  const float* scale;
  void* out;
  int rows, n, k;
};

inline constexpr int kGroupRows = 8;  // row tiles that are walked together

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

// What a thread holds of weights that are widened on their way.
template <class Format, int kCount, bool = Format::kDirect>
struct Pieces {
  struct type {};
};
template <class Format, int kCount>
struct Pieces<Format, kCount, false> {
  struct type {
    typename Format::Eight eight[kCount];
  };
};

// kNarrow: rows of x are only 8-byte aligned.
template <class T, class Format, Epilogue kEpilogue, class Out, bool kNarrow>
__global__ void __launch_bounds__(T::kThreads) linear_kernel(LinearArgs p) {
  constexpr int kBm = T::kBm, kBn = T::kBn, kBk = T::kBk, kChunks = kBk / 8, kStages = T::kStages;
  using Rows = SharedTile<kBk>;
  unsigned char* const ring = dynamic_shared<unsigned char>();
  const uint32_t s_ring = shared_address(ring);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / T::kWarpsN * T::kWarpRows, warp_n = warp % T::kWarpsN * T::kWarpCols;

  // this block's tile
  const int tiles_n = (p.n + kBn - 1) / kBn, tiles_m = (p.rows + kBm - 1) / kBm;
  const int group = blockIdx.x / (kGroupRows * tiles_n), in_group = blockIdx.x % (kGroupRows * tiles_n);
  const int group_rows = min(kGroupRows, tiles_m - group * kGroupRows);
  const int m0 = (group * kGroupRows + in_group % group_rows) * kBm, n0 = in_group / group_rows * kBn;
  // and its part of k
  const int all_steps = (p.x_bytes + kBk * 2 - 1) / (kBk * 2);
  const int begin = all_steps * int(blockIdx.y) / int(gridDim.y),
            end = all_steps * int(blockIdx.y + 1) / int(gridDim.y);

  auto load = [&](int step) {
    const uint32_t s_x = s_ring + step % kStages * T::kStageBytes, s_w = s_x + kBm * kBk * 2;
#pragma unroll
    for (int i = threadIdx.x; i < kBm * kChunks; i += T::kThreads) {
      const int r = i / kChunks, c = i % kChunks, m = m0 + r, byte = step * kBk * 2 + c * 16;
      const unsigned char* from = p.x + size_t(m) * p.x_bytes + byte;
      if constexpr (kNarrow) {
        cp_async8(s_x + Rows::at(r, c), from, m < p.rows && byte < p.x_bytes);
        cp_async8(s_x + Rows::at(r, c) + 8, from + 8, m < p.rows && byte + 8 < p.x_bytes);
      } else {
        cp_async16(s_x + Rows::at(r, c), from, m < p.rows && byte < p.x_bytes);
      }
    }
    if constexpr (Format::kDirect) {
#pragma unroll
      for (int i = threadIdx.x; i < kBn * kChunks; i += T::kThreads) {
        const int r = i / kChunks, c = i % kChunks, n = n0 + r;
        copy_weights16(s_w + Rows::at(r, c), p.w, n, step * kBk * 2 + c * 16, n < p.n);
      }
    }
  };

  // Weights that are widened on their way are loaded before a step's products and stored after them, so that the loads have time.
  constexpr int kPieces = kBn * kChunks / T::kThreads;
  static_assert(kBn * kChunks % T::kThreads == 0);
  typename Pieces<Format, kPieces>::type r_pieces;
  const auto load_pieces = [&](int step) {
    if constexpr (!Format::kDirect) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int at = threadIdx.x + i * T::kThreads, n = n0 + at / kChunks, k = step * kBk + at % kChunks * 8;
        r_pieces.eight[i] = Format::load8(p.w, n, k, n < p.n && k < p.k);
      }
    }
  };
  const auto store_pieces = [&](int step) {
    if constexpr (!Format::kDirect) {
      unsigned char* const to = ring + step % kStages * T::kStageBytes + kBm * kBk * 2;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int at = threadIdx.x + i * T::kThreads;
        store16(to + Rows::at(at / kChunks, at % kChunks), Format::widen8(r_pieces.eight[i]));
      }
    }
  };

  typename Format::Sum r_sum[T::kMi][T::kNi][4] = {};
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    const int step = begin + i;
    if (step < end) {
      load(step);
      load_pieces(step);
      store_pieces(step);
    }
    cp_async_commit();
  }
  for (int step = begin; step < end; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // stage `step` has arrived, and everybody has left the stage before it
    const int next = step + kStages - 1;
    if (next < end) {
      load(next);
      load_pieces(next);
    }
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
      if constexpr (std::is_same_v<typename Format::Sum, int32_t>) {
        mma_u8s8_tile(r_sum, r_x, r_w);
      } else {
        mma_bf16_tile(r_sum, r_x, r_w);
      }
    }
    if (next < end) store_pieces(next);
  }
  cp_async_wait<0>();
  void* out = p.out;
  if constexpr (!std::is_same_v<Out, bf16>) out = static_cast<Out*>(out) + size_t(blockIdx.y) * p.rows * p.n;

#pragma unroll
  for (int j = 0; j < T::kNi; ++j) {
    const int n = n0 + warp_n + j * 8 + lane % 4 * 2;
    if (n >= p.n) continue;
    const bool second = n + 1 < p.n;
    const float bias0 = p.bias ? p.bias[n] : 0.f, bias1 = p.bias && second ? p.bias[n + 1] : 0.f;
    const auto column0 = Format::column(p.w, n), column1 = Format::column(p.w, second ? n + 1 : n);
    float scale0 = 1, scale1 = 1;
    if (kEpilogue == Epilogue::add && p.scale) scale0 = p.scale[n], scale1 = second ? p.scale[n + 1] : 1.f;
#pragma unroll
    for (int i = 0; i < T::kMi; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int m = m0 + warp_m + i * 16 + half * 8 + lane / 4;
        if (m >= p.rows) continue;
        if constexpr (std::is_same_v<Out, int32_t>) {  // a part of the sums
          int32_t* const to = static_cast<int32_t*>(out) + size_t(m) * p.n + n;
          to[0] = r_sum[i][j][2 * half];
          if (second) to[1] = r_sum[i][j][2 * half + 1];
        } else {
          const float y0 = Format::value(r_sum[i][j][2 * half], column0, p.x_scales, m, bias0);
          const float y1 = Format::value(r_sum[i][j][2 * half + 1], column1, p.x_scales, m, bias1);
          finish<kEpilogue, Out>(out, p.n, m, n, y0, y1, scale0, scale1);
        }
      }
    }
  }
}

template <class T, class Format, Epilogue kEpilogue, class Out, bool kNarrow = false>
void run_linear(const Linear& job, cudaStream_t stream) {
  const int x_bytes = int(job.x_scales ? job.w.stride : job.k * int64_t(sizeof(bf16)));
  const LinearArgs args{static_cast<const unsigned char*>(job.x),
                        job.x_scales,
                        x_bytes,
                        view_of(job.w),
                        job.bias,
                        job.scale,
                        job.out,
                        int(job.rows),
                        int(job.n),
                        int(job.k)};
  const int64_t blocks = ceil_div(args.rows, T::kBm) * ceil_div(args.n, T::kBn);
  launch(linear_kernel<T, Format, kEpilogue, Out, kNarrow>, dim3(unsigned(blocks), unsigned(job.splits)), T::kThreads,
         T::kSharedBytes, stream, args);
}

template <class T, class Format>
void run_linear_tile(const Linear& job, cudaStream_t stream) {
  switch (job.after) {
    case Epilogue::store:
      return job.out_f32 ? run_linear<T, Format, Epilogue::store, float>(job, stream)
                         : run_linear<T, Format, Epilogue::store, bf16>(job, stream);
    case Epilogue::gelu: return run_linear<T, Format, Epilogue::gelu, bf16>(job, stream);
    case Epilogue::add: return run_linear<T, Format, Epilogue::add, bf16>(job, stream);
    case Epilogue::gated: return run_linear<T, Format, Epilogue::gated, bf16>(job, stream);
  }
}

}  // namespace drivlm::cuda
