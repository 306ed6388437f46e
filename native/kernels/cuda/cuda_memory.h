// Device memory, pinned staging, and weights on their way to the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "device/device.h"
#include "kernels/cuda/kernels.h"

namespace drivlm::cuda {

// cudaMalloc that says what is missing. Frees itself.
class DeviceMemory : public Memory {
 public:
  DeviceMemory(size_t size, const char* what);
  ~DeviceMemory() override;
};

// Host memory that the GPU reads where it lies; `data` is its address there. Empty (no data) where the driver refuses.
class RegisteredMemory : public Memory {
 public:
  RegisteredMemory(const void* host, size_t size);
  ~RegisteredMemory() override;
  const void* const host;
};

// Pinned host buffers that take turns: while one is being copied to the device, the next is filled.
class Staging {
 public:
  explicit Staging(cudaStream_t stream);
  ~Staging();
  Staging(const Staging&) = delete;

  static constexpr size_t kBytes = size_t(4) << 20;  // of one buffer

  // A buffer the device no longer reads; valid until the next call.
  void* next();
  // Enqueues the copy of the first `bytes` bytes of that buffer.
  void send(void* to, size_t bytes);

  // Any size, in pieces; `from` is free again on return.
  void copy(void* to, const void* from, size_t bytes);

 private:
  static constexpr int kBuffers = 4;
  cudaStream_t stream_;
  void* buffers_[kBuffers] = {};
  cudaEvent_t sent_[kBuffers] = {};
  bool used_[kBuffers] = {};
  int current_ = 0;
};

// All weights in one block, reserved before the first is loaded; nothing is given back one by one. Without a reservation every piece is
// an allocation of its own.
class WeightBlock {
 public:
  static constexpr int64_t kAlign = 256;

  void reserve(size_t bytes);
  // Throws INTERNAL when more is taken than was reserved.
  void* take(size_t bytes, const std::string& what);

 private:
  std::unique_ptr<DeviceMemory> block_;
  size_t used_ = 0;
  std::vector<std::unique_ptr<DeviceMemory>> pieces_;
};

class CudaMatrix : public Matrix {
 public:
  Weights weights{};
  bool gated = false;
  bool in_place = false;  // data lies in host memory that was registered
};

// Row `row` of a stored tensor as bf16; `out` has `source.cols` values.
class RowReader {
 public:
  explicit RowReader(const HostTensor& source);
  void read_bf16(int64_t row, uint16_t* out);
  void read_f32(int64_t row, float* out);

 private:
  const char* locate(int64_t row);
  const HostTensor& source_;
  size_t run_ = 0;
  int64_t first_ = 0;  // first row of the run
};

}  // namespace drivlm::cuda
