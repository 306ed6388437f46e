// What one warp does with 16 query rows and a tile of keys in shared memory: scores, running softmax, product with V.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

// How keys and values lie in shared memory, and become operands of the products there.
//
//   HalfKv   bf16 as they are.
//   ByteKv   int8, widened in registers, with an f32 scale a key and a value: scores are multiplied with the keys' afterwards, weights with the
//            values' before they are rounded. ldmatrix moves 16-bit units, so a lane gets four neighbouring dimensions of a key, or two of
//            two neighbouring values; which of them are multiplied at a time is free as long as queries and results follow:
//            the k of product kk are, for lane t, dimensions 4t, 4t + 2, then 4t + 1, 4t + 3 of the 16; results of an even block of 8 columns
//            are the even dimensions of 16, of the odd block beside it the odd ones. Scores are a part of kWidenedBytes until the scale of absorb
//            meets them; result takes the values' part away.
struct HalfKv {
  static constexpr bool kBytes = false;
  template <int kDim>
  using Rows = SharedTile<kDim>;
};
struct ByteKv {
  static constexpr bool kBytes = true;
  template <int kDim>
  using Rows = SharedTile<kDim / 2>;
};

// Lane (g, t) = (lane / 4, lane % 4) holds rows g and g + 8 of everything, and columns 2t, 2t + 1 of each block of 8.
template <int kDim, int kKeys, class Cache = HalfKv>
struct AttentionTile {
  static_assert(kDim % 16 == 0 && kKeys % 16 == 0);
  using Queries = SharedTile<kDim>;
  using Rows = typename Cache::template Rows<kDim>;

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
      ldmatrix_x4(r_q[kk], s_q + Queries::at(row + lane_row_a(lane), kk * 2 + lane_chunk_a(lane)));
      if constexpr (Cache::kBytes) reorder_queries(r_q[kk], lane);
    }
  }

  // From dimensions 2t, 2t + 1 and 8 + 2t, 9 + 2t of 16 to those that ByteKv wants.
  __device__ __forceinline__ static void reorder_queries(uint32_t (&r)[4], int lane) {
    const int source = lane / 4 * 4 + lane % 2 * 2;
    const bool upper = lane % 4 >= 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // rows g and g + 8
      uint32_t pairs[2];                    // dimensions 4t, 4t + 1 and 4t + 2, 4t + 3
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t low = __shfl_sync(kAllLanes, r[half], source + i);
        const uint32_t high = __shfl_sync(kAllLanes, r[half + 2], source + i);
        pairs[i] = upper ? high : low;
      }
      r[half] = (pairs[0] & 0xffffu) | pairs[1] << 16;
      r[half + 2] = pairs[0] >> 16 | (pairs[1] & 0xffff0000u);
    }
  }

  // ldmatrix of 16 rows of bytes and 32 dimensions of them from `dim` on, or 16 twice where there are no more.
  __device__ __forceinline__ static uint32_t byte_rows(uint32_t s_rows, int row, int dim, int lane) {
    return s_rows + Rows::at(row + lane_row_a(lane), dim / 16 + (kDim > 16 ? lane_chunk_a(lane) : 0));
  }

  // scores of keys [first, first + kKeys) of the tile; s_scales: of the tile's keys, with ByteKv
  __device__ __forceinline__ void score(uint32_t s_k, int first, int lane, const float* s_scales = nullptr) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) r_score[0][n][e] = 0;
    }
    if constexpr (Cache::kBytes) return score_bytes(s_k, first, lane, s_scales);
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

  __device__ __forceinline__ void score_bytes(uint32_t s_k, int first, int lane, const float* s_scales) {
    constexpr int kPart = kDim > 16 ? 2 : 1;  // products of 16 dimensions that one load serves
#pragma unroll
    for (int kk = 0; kk < kDim / 16; kk += kPart) {
      uint32_t r_k[kPart][kKeys / 8][2];
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, byte_rows(s_k, first + n * 8, kk * 16, lane));
#pragma unroll
        for (int part = 0; part < kPart; ++part) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            r_k[part][n + i][0] = widen_bytes(r[2 * part + i]), r_k[part][n + i][1] = widen_bytes(r[2 * part + i] >> 8);
          }
        }
      }
#pragma unroll
      for (int part = 0; part < kPart; ++part) {
        const uint32_t (&q)[4] = r_q[kk + part];
        const uint32_t r_a[1][4] = {{q[0], q[1], q[2], q[3]}};
        mma_bf16_tile(r_score, r_a, r_k[part]);
      }
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      const float2 scale = *reinterpret_cast<const float2*>(s_scales + first + n * 8 + lane % 4 * 2);
      r_score[0][n][0] *= scale.x, r_score[0][n][1] *= scale.y;
      r_score[0][n][2] *= scale.x, r_score[0][n][3] *= scale.y;
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

  // Scores become weights against the new maximum, what was there is rescaled, weights times V are added. s_scales: of the tile's values,
  // with ByteKv; those of keys that no row sees must be numbers.
  __device__ __forceinline__ void absorb(uint32_t s_v, int first, float scale_log2, int lane,
                                         const float* s_scales = nullptr) {
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
      float (&low)[4] = r_score[0][2 * kk];
      float (&high)[4] = r_score[0][2 * kk + 1];
      if constexpr (Cache::kBytes) {
        const float* scales = s_scales + first + kk * 16 + lane % 4 * 2;
        const float2 by0 = *reinterpret_cast<const float2*>(scales), by1 = *reinterpret_cast<const float2*>(scales + 8);
        low[0] *= by0.x, low[1] *= by0.y, low[2] *= by0.x, low[3] *= by0.y;
        high[0] *= by1.x, high[1] *= by1.y, high[2] *= by1.x, high[3] *= by1.y;
      }
      const uint32_t r_p[1][4] = {{pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                                   pack_bf16(high[2], high[3])}};
      uint32_t r_v[kDim / 8][2];
      if constexpr (Cache::kBytes) {
#pragma unroll
        for (int n = 0; n < kDim / 8; n += 4) {
          uint32_t r[4];
          ldmatrix_x4_trans(r, byte_rows(s_v, first + kk * 16, n * 8, lane));
#pragma unroll
          for (int i = 0; i < 4 && n + i < kDim / 8; ++i) {
            r_v[n + i][0] = widen_bytes(r[i / 2 * 2] >> (i % 2 * 8));
            r_v[n + i][1] = widen_bytes(r[i / 2 * 2 + 1] >> (i % 2 * 8));
          }
        }
      } else {
#pragma unroll
        for (int n = 0; n < kDim / 8; n += 2) {
          uint32_t r[4];
          ldmatrix_x4_trans(r, s_v + Rows::at(first + kk * 16 + lane_row_a(lane), n + lane_chunk_a(lane)));
          r_v[n][0] = r[0], r_v[n][1] = r[1], r_v[n + 1][0] = r[2], r_v[n + 1][1] = r[3];
        }
      }
      mma_bf16_tile(r_out, r_p, r_v);
    }
  }

  // Results j of row g (half 0) or g + 8: two neighbouring dimensions from result_dim(j) on; j below kDim / 8.
  __device__ __forceinline__ static int result_dim(int j, int lane) {
    return Cache::kBytes ? j / 2 * 16 + lane % 4 * 4 + j % 2 * 2 : j * 8 + lane % 4 * 2;
  }
  __device__ __forceinline__ float2 result(int j, int half) const {
    if constexpr (Cache::kBytes) {
      const int even = j / 2 * 2, e = 2 * half + j % 2;
      return make_float2(r_out[0][even][e] * kWidenedBytes, r_out[0][even + 1][e] * kWidenedBytes);
    }
    return make_float2(r_out[0][j][2 * half], r_out[0][j][2 * half + 1]);
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
