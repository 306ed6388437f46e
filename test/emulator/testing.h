// Small test harness for kernels: cases by name, device buffers, and the error rule.
//
// A result is held to the same computation in f64 (`exact`) on the same bf16 inputs. It may miss that by twice what the
// plain computation misses it by (f32 sums, bf16 where the network rounds), plus one last-place unit of the result.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"

namespace drivlm::cuda::testing {

// TEST(linear) { ... } is a case; run_case runs it.
struct Registration {
  Registration(const char* name, void (*body)());
};
#define TEST(name)                                                                            \
  static void test_##name();                                                                  \
  static const ::drivlm::cuda::testing::Registration registration_##name(#name, test_##name); \
  static void test_##name()

void fail(const std::string& message);
#define EXPECT(condition) \
  if (!(condition))       \
  ::drivlm::cuda::testing::fail(std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition)

struct Outcome {
  std::string name;
  double seconds = 0;
  std::vector<std::string> failures;
  bool lost = false;  // the device answers no more calls of this process
};
std::vector<std::string> case_names();
Outcome run_case(const std::string& name);

std::mt19937& generator();
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

// The rule above, over a whole tensor. Reports the worst element.
void expect_close(const char* what, const std::vector<float>& got, const std::vector<double>& exact,
                  const std::vector<float>& plain, bool f32 = false);

}  // namespace drivlm::cuda::testing
