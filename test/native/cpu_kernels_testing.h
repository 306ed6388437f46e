// What the tests of the CPU's fast kernels have in common: threads, numbers, the bound, the targets that this CPU has.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/numeric.h"
#include "check.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/targets.h"

namespace drivlm::cpu {

// Tasks dealt to real threads, so that a race shows.
class TestWorkers : public Workers {
 public:
  explicit TestWorkers(int threads) : threads_(threads) {}
  int count() const override { return threads_; }
  void run(int64_t tasks, void (*body)(const void*, int64_t), const void* context) override {
    std::vector<std::thread> threads;
    for (int worker = 0; worker < threads_; ++worker) {
      threads.emplace_back([=, this] {
        for (int64_t task = worker; task < tasks; task += threads_) body(context, task);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  int threads_;
};

class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed) {}
  float next() {  // [-1, 1)
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int32_t>(state_)) / 2147483648.0f;
  }
  std::vector<uint16_t> halves(int64_t count, float size) {
    std::vector<uint16_t> values(count);
    for (uint16_t& v : values) v = from_float<bf16>(next() * size).bits;
    return values;
  }
  std::vector<float> floats(int64_t count, float size) {
    std::vector<float> values(count);
    for (float& v : values) v = next() * size;
    return values;
  }

 private:
  uint32_t state_;
};

inline float widen(uint16_t bits) { return to_float(bf16{bits}); }

// Heap memory of exactly the asked size: the address sanitizer sees one byte too many.
template <class T>
std::unique_ptr<T[]> exact(const std::vector<T>& values) {
  auto copy = std::make_unique<T[]>(values.size());
  std::copy(values.begin(), values.end(), copy.get());
  return copy;
}

struct Aligned {
  explicit Aligned(size_t bytes) : data(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {
    std::memset(data, 0xff, bytes);
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  void* data;
};

inline void check_close(const std::string& what, const std::vector<double>& exact_values,
                        const std::vector<float>& plain, const std::vector<float>& found, double unit = 0x1p-8) {
  double worst = 0;
  for (size_t i = 0; i < exact_values.size(); ++i) worst = std::max(worst, std::fabs(plain[i] - exact_values[i]));
  for (size_t i = 0; i < exact_values.size(); ++i) {
    const double bound = 2 * worst + unit * std::fabs(exact_values[i]) + 1e-30;
    if (std::fabs(found[i] - exact_values[i]) <= bound) continue;
    std::ostringstream message;
    message << what << ": at " << i << " expected " << exact_values[i] << ", found " << found[i] << ", allowed "
            << bound;
    return test::fail(__FILE__, __LINE__, message.str());
  }
}

template <class Body>
void for_each_target(Body body) {
  for (const Target& target : targets()) {
    if (target.supported) body(target);
  }
}

}  // namespace drivlm::cpu
