// Tensor cores: ldmatrix, mma.sync m16n8k16 in bf16 with f32 sums, and m16n8k32 of unsigned by signed bytes with 32-bit sums.
//
// With lane = 4 g + t: A registers hold rows g, g + 8 (alternating) of columns 2t, 2t+1 and then 2t+8, 2t+9; B registers
// hold rows 2t, 2t+1, then 2t+8, 2t+9 of column g; the sum holds row g, then g + 8, of columns 2t, 2t+1. Of bytes a register holds four in place
// of two: 4t ... 4t+3, then 4t+16 ... 4t+19; so what ldmatrix loads is right for both.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// d [16, 8] += a [16, 16] * b [16, 8]
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d [16, 8] += a [16, 32] * b [32, 8]
__device__ __forceinline__ void mma_u8s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d[i][j] += a[i] * b[j]: a whole warp tile, which the emulator does in one step.
template <int kMi, int kNi>
__device__ __forceinline__ void mma_bf16_tile(float (&d)[kMi][kNi][4], const uint32_t (&a)[kMi][4],
                                              const uint32_t (&b)[kNi][2]) {
#pragma unroll
  for (int i = 0; i < kMi; ++i) {
#pragma unroll
    for (int j = 0; j < kNi; ++j) mma_bf16(d[i][j], a[i], b[j][0], b[j][1]);
  }
}
template <int kMi, int kNi>
__device__ __forceinline__ void mma_u8s8_tile(int32_t (&d)[kMi][kNi][4], const uint32_t (&a)[kMi][4],
                                              const uint32_t (&b)[kNi][2]) {
#pragma unroll
  for (int i = 0; i < kMi; ++i) {
#pragma unroll
    for (int j = 0; j < kNi; ++j) mma_u8s8(d[i][j], a[i], b[j][0], b[j][1]);
  }
}

#else
#include "simt.h"
#endif

namespace drivlm::cuda {

// Where a lane points so that ldmatrix_x4 loads a 16 x 16 block: as A operand (rows m, columns k), as V for trans loads
// (rows k, columns n), or as B stored [n, k] (two 8-column blocks: registers 0, 1 are the first, 2, 3 the second).
__device__ __forceinline__ int lane_row_a(int lane) { return lane & 15; }
__device__ __forceinline__ int lane_chunk_a(int lane) { return lane >> 4; }
__device__ __forceinline__ int lane_row_b(int lane) { return (lane & 7) + (lane >> 4) * 8; }
__device__ __forceinline__ int lane_chunk_b(int lane) { return (lane >> 3) & 1; }

}  // namespace drivlm::cuda
