// cp.async: copies from global to shared memory that do not pass through registers.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// `valid` false writes zeros and reads nothing.
__device__ __forceinline__ void cp_async16(uint32_t to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async8(uint32_t to, const void* from, bool valid = true) {
  asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 8, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 8 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async4(uint32_t to, const void* from, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most kGroups of this thread's newest groups are unfinished.
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroups) : "memory");
}

#else
#include "simt.h"
#endif

namespace drivlm::cuda {

// A tile of bf16 rows in shared memory, kDim values each, laid out so that the eight rows of an ldmatrix phase, and the
// copies that fill it, fall into different banks: 16-byte chunks are xored with the row, or rows are padded by a chunk
// where their count of chunks is no power of two.
template <int kDim>
struct SharedTile {
  static constexpr int kChunks = kDim / 8;
  static constexpr bool kPadded = (kChunks & (kChunks - 1)) != 0;
  static constexpr int kRowBytes = (kChunks + (kPadded && kChunks % 2 == 0 ? 1 : 0)) * 16;

  __host__ __device__ static constexpr int bytes(int rows) { return rows * kRowBytes; }

  // Byte offset of chunk `chunk` of row `row`.
  __device__ __forceinline__ static uint32_t at(int row, int chunk) {
    if constexpr (kPadded) {
      return row * kRowBytes + chunk * 16;
    } else if constexpr (kChunks >= 8) {
      return row * kRowBytes + ((chunk ^ (row & 7)) << 4);
    } else {
      constexpr int kRowsPerLine = 8 / kChunks;  // rows in 128 bytes
      return row * kRowBytes + ((chunk ^ ((row / kRowsPerLine) & (kChunks - 1))) << 4);
    }
  }
};

}  // namespace drivlm::cuda
