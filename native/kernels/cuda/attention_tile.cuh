// What one warp does with 16 query rows and a tile of keys in shared memory: scores, running softmax, product with V.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

// Lane (g, t) = (lane / 4, lane % 4) holds rows g and g + 8 of everything, and columns 2t, 2t + 1 of each block of 8.
template <int kDim, int kKeys>
struct AttentionTile {
  static_assert(kDim % 16 == 0 && kKeys % 16 == 0);
  using Rows = SharedTile<kDim>;

  uint32_t r_q[kDim / 16][4];
  float r_score[1][kKeys / 8][4];
  float r_out[1][kDim / 8][4];
  float r_max[2], r_sum[2];  // of rows g and g + 8; r_sum is this lane's share until finish_sums

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) r_out[0][j][e] = 0;
    }
    r_max[0] = r_max[1] = -INFINITY;
    r_sum[0] = r_sum[1] = 0;
  }

  __device__ __forceinline__ void load_queries(uint32_t s_q, int row, int lane) {
#pragma unroll
    for (int kk = 0; kk < kDim / 16; ++kk) {
      ldmatrix_x4(r_q[kk], s_q + Rows::at(row + lane_row_a(lane), kk * 2 + lane_chunk_a(lane)));
    }
  }

  // scores of keys [first, first + kKeys) of the tile
  __device__ __forceinline__ void score(uint32_t s_k, int first, int lane) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) r_score[0][n][e] = 0;
    }
#pragma unroll
    for (int kk = 0; kk < kDim / 16; ++kk) {
      const uint32_t r_a[1][4] = {{r_q[kk][0], r_q[kk][1], r_q[kk][2], r_q[kk][3]}};
      uint32_t r_k[kKeys / 8][2];
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, s_k + Rows::at(first + n * 8 + lane_row_b(lane), kk * 2 + lane_chunk_b(lane)));
        r_k[n][0] = r[0], r_k[n][1] = r[1], r_k[n + 1][0] = r[2], r_k[n + 1][1] = r[3];
      }
      mma_bf16_tile(r_score, r_a, r_k);
    }
  }

  // Row g keeps keys up to last0 of those scored, row g + 8 up to last1.
  __device__ __forceinline__ void mask(int last0, int last1, int lane) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = n * 8 + lane % 4 * 2 + (e & 1);
        if (key > (e < 2 ? last0 : last1)) r_score[0][n][e] = -INFINITY;
      }
    }
  }

  // Scores become weights against the new maximum, what was there is rescaled, weights times V are added.
  __device__ __forceinline__ void absorb(uint32_t s_v, int first, float scale_log2, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = r_max[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(r_score[0][n][2 * half], r_score[0][n][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float base = top == -INFINITY ? 0.f : top * scale_log2;  // a row without a key yet stays all zero
      const float shrink = exp2_approx(r_max[half] * scale_log2 - base);
      r_max[half] = top;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          r_score[0][n][e] = exp2_approx(r_score[0][n][e] * scale_log2 - base);
          sum += r_score[0][n][e];
        }
      }
      r_sum[half] = r_sum[half] * shrink + sum;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) r_out[0][j][2 * half] *= shrink, r_out[0][j][2 * half + 1] *= shrink;
    }
#pragma unroll
    for (int kk = 0; kk < kKeys / 16; ++kk) {
      const float (&low)[4] = r_score[0][2 * kk];
      const float (&high)[4] = r_score[0][2 * kk + 1];
      const uint32_t r_p[1][4] = {{pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                                   pack_bf16(high[2], high[3])}};
      uint32_t r_v[kDim / 8][2];
#pragma unroll
      for (int n = 0; n < kDim / 8; n += 2) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, s_v + Rows::at(first + kk * 16 + lane_row_a(lane), n + lane_chunk_a(lane)));
        r_v[n][0] = r[0], r_v[n][1] = r[1], r_v[n + 1][0] = r[2], r_v[n + 1][1] = r[3];
      }
      mma_bf16_tile(r_out, r_p, r_v);
    }
  }

  // Adds the shares of the four lanes of a row.
  __device__ __forceinline__ void finish_sums() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      r_sum[half] += __shfl_xor_sync(kAllLanes, r_sum[half], 1);
      r_sum[half] += __shfl_xor_sync(kAllLanes, r_sum[half], 2);
    }
  }
};

}  // namespace drivlm::cuda
