// Host side of every kernel file: launches, error checks, sizes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "base/error.h"

#if !defined(__CUDACC__) && defined(DRIVLM_EMULATED)
#include "simt.h"
#endif

namespace drivlm::cuda {

using bf16 = __nv_bfloat16;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Throws OUT_OF_MEMORY for a failed allocation, DEVICE_LOST for all else. `what` is what we were doing.
[[noreturn]] void throw_cuda_error(cudaError_t error, const char* what);

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw_cuda_error(error, what);
}

// A block has 48 KiB of shared memory unless its kernel is allowed more, arrays that the kernel declares included.
constexpr size_t kSharedUnasked = size_t(48) << 10;
// The most that a kernel of ours declares (SHARED_ARRAY); scripts/check-ptxas.mjs and the emulator hold them to it.
constexpr size_t kMostDeclared = size_t(8) << 10;

// Lets `kernel` use so much dynamic shared memory on the current device. Remembers what was allowed; never lowers it.
void allow_shared(const void* kernel, size_t bytes);

// What kernels ask about the device they run on.
struct DeviceLimits {
  int multiprocessors;
  int shared_per_block;  // opt-in
  int shared_per_multiprocessor;
};

// Enqueues `kernel` on `stream`. Allocates nothing, waits for nothing. An empty grid is no launch.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream, A&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes + kMostDeclared > kSharedUnasked) allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
#if defined(__CUDACC__)
  kernel<<<grid, threads, shared_bytes, stream>>>(static_cast<P>(arguments)...);
  check(cudaGetLastError(), "launching a kernel");
#elif defined(DRIVLM_EMULATED)
  using Call = emu::Call<P...>;
  auto call = std::make_shared<Call>(Call{kernel, {static_cast<P>(arguments)...}});
  check(emu::enqueue_launch(&Call::run, call, reinterpret_cast<const void*>(kernel), grid, dim3(threads), shared_bytes,
                            stream),
        "launching a kernel");
#else
  static_assert(sizeof...(P) < 0, "kernels are launched from .cu files");
#endif
}

}  // namespace drivlm::cuda
