#include "kernels/cuda/driver.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace drivlm::cuda {

namespace {
constexpr int kOldestMajor = 8;  // mma.sync in bf16, cp.async
#if defined(DRIVLM_CUDA_ARCHS)
constexpr const char* kArchitectures = DRIVLM_CUDA_ARCHS;  // what the kernels were compiled for
#else
constexpr const char* kArchitectures = "80-virtual";
#endif
}  // namespace

std::string driver_problem() {
#if !defined(DRIVLM_EMULATED)
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!library) return "the NVIDIA driver could not be loaded (libcuda.so.1: not found)";
  dlclose(library);
#endif
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess) {
    cudaGetLastError();
    return "the NVIDIA driver did not give its version";
  }
  if (driver == 0) return "the NVIDIA driver is not running (driver version 0)";
  if (driver / 1000 < runtime / 1000) {
    return text("the NVIDIA driver is too old: it supports CUDA %d.%d, this build needs %d.0 or newer", driver / 1000,
                driver % 1000 / 10, runtime / 1000);
  }
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error != cudaSuccess) return text("the NVIDIA driver reports: %s", cudaGetErrorString(error));
  if (count == 0) return "there is no NVIDIA GPU in this machine";
  return "";
}

std::string device_problem(int index) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return text("GPU %d does not answer: %s", index, cudaGetErrorString(error));
  }
  if (properties.major < kOldestMajor) {
    return text("GPU %d (%s) has compute capability %d.%d; %d.0 or newer is needed", index, properties.name,
                properties.major, properties.minor, kOldestMajor);
  }
  if (!has_code(kArchitectures, properties.major, properties.minor)) {
    return text(
        "GPU %d (%s) has compute capability %d.%d, and this addon was built for %s; build it on this machine, or with "
        "DRIVLM_CUDA_ARCHS=%d%d-real",
        index, properties.name, properties.major, properties.minor, kArchitectures, properties.major, properties.minor);
  }
  return "";
}

bool has_code(const std::string& architectures, int major, int minor) {
  const int device = major * 10 + minor;
  size_t at = 0;
  while (at < architectures.size()) {
    const size_t end = std::min(architectures.find_first_of(";,", at), architectures.size());
    const std::string one = architectures.substr(at, end - at);
    at = end + 1;
    char* kind = nullptr;
    const int built = int(std::strtol(one.c_str(), &kind, 10));
    if (kind == one.c_str()) return true;                                    // native, all, all-major
    const bool tied = std::isalpha(static_cast<unsigned char>(*kind)) != 0;  // 90a, 100f: that one only
    if (tied ? built == device : std::strcmp(kind, "-virtual") != 0 && built / 10 == major && built <= device)
      return true;
    if (!tied && std::strcmp(kind, "-real") != 0 && built <= device) return true;
  }
  return false;
}

}  // namespace drivlm::cuda
