// What the tests of the CPU's fast kernels have in common: threads, memory, the targets that this CPU has.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
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

using test::check_close;
using test::Random;

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

template <class Body>
void for_each_target(Body body) {
  for (const Target& target : targets()) {
    if (target.supported) body(target);
  }
}

}  // namespace drivlm::cpu
