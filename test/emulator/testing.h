// What tests of kernels need beside check.h: device buffers, and cases that leave the device as they found it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "../check.h"
#include "kernels/cuda/launch.h"

namespace drivlm::cuda::testing {

using test::check_close;
using test::fail;

// A case as test::run_case has it, beside what the device and the emulator have to say.
test::CaseOutcome run_case(const test::Case& test);

// Of the case that runs; seeded anew by each.
test::Random& generator();
float uniform(float low, float high);
float to_bf16(float value);

// A copy on the device that starts 16-byte aligned and ends where the allocation ends.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : host(count) { allocate(); }
  explicit Buffer(std::vector<T> values) : host(std::move(values)) {
    allocate();
    upload();
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  size_t bytes() const { return host.size() * sizeof(T); }
  // Waits: cudaMemcpy from pageable memory may return before the device has the bytes, and streams need not wait for it.
  void upload() {
    check(cudaMemcpy(data, host.data(), bytes(), cudaMemcpyHostToDevice), "test");
    check(cudaDeviceSynchronize(), "test");
  }
  void download() { check(cudaMemcpy(host.data(), data, bytes(), cudaMemcpyDeviceToHost), "test"); }
  std::vector<T> host;
  T* data = nullptr;

 private:
  void allocate() { check(cudaMalloc(reinterpret_cast<void**>(&data), bytes() > 0 ? bytes() : 1), "test"); }
};

// Random values in [-size, size], rounded to bf16; `values` are what the device sees.
class Halves : public Buffer<bf16> {
 public:
  Halves(size_t count, float size, float center = 0);
  void download();  // refreshes values too
  std::vector<float> values;
};
class Floats : public Buffer<float> {
 public:
  Floats(size_t count, float size, float center = 0);
};

}  // namespace drivlm::cuda::testing
