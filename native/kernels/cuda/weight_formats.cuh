// How the weights of a matrix lie on the device, each format a type that linear.cu and matvec.cu are written over. A format has
//
//   View      what a kernel is given: where the rows are
//   load8     eight neighbouring weights of a row as four bf16 pairs in registers
//   fill8     the same eight, as 16 bytes of bf16, on their way into shared memory
//
// k is a multiple of 8. What lies past the last weight of a row is zero.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

// [n, stride] bf16, rows on 16 bytes.
struct Bf16 {
  struct View {
    const bf16* data;
    int stride;
  };
  static View view(const bf16* data, int64_t stride) { return {data, int(stride)}; }

  __device__ __forceinline__ static uint4 load8(const View& w, int row, int k) {
    return load_streaming16(w.data + size_t(row) * w.stride + k);
  }
  // `valid` false, or k past the row: zeros.
  __device__ __forceinline__ static void fill8(uint32_t to, const View& w, int row, int k, bool valid) {
    cp_async16(to, w.data + size_t(row) * w.stride + k, valid && k < w.stride);
  }
};

}  // namespace drivlm::cuda
