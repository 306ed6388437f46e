#include "kernels/cuda/launch.h"

#include <map>
#include <mutex>
#include <utility>

namespace drivlm::cuda {

void throw_cuda_error(cudaError_t error, const char* what) {
  cudaGetLastError();  // a sticky error stays, others are cleared
  if (error == cudaErrorMemoryAllocation) {
    throw Error(Code::out_of_memory, text("The GPU is out of memory (%s).", what));
  }
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver || error == cudaErrorInvalidDevice ||
      error == cudaErrorNoKernelImageForDevice) {
    throw Error(Code::device_unavailable, text("The GPU cannot be used: %s (%s).", cudaGetErrorString(error), what));
  }
  throw Error(Code::device_lost, text("The GPU failed: %s (%s). This model can no longer be used; load it again.",
                                      cudaGetErrorString(error), what));
}

void allow_shared(const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> allowed;  // the most so far: the attribute is set, not raised
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  std::lock_guard lock(mutex);
  size_t& most = allowed[{device, kernel}];
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "reserving shared memory for a kernel");
  most = bytes;
}

}  // namespace drivlm::cuda
