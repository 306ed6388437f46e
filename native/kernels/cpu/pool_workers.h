// The process's thread pool as the workers of a matrix product.
#pragma once

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/thread_pool.h"

namespace drivlm::cpu {

class PoolWorkers : public Workers {
 public:
  // 1: the caller alone.
  explicit PoolWorkers(int threads) : threads_(threads) {}

  int count() const override { return threads_; }

  void run(int64_t tasks, void (*body)(const void* context, int64_t task), const void* context) override {
    ThreadPool::instance().parallel_for(threads_, tasks, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) body(context, task);
    });
  }

 private:
  int threads_;
};

}  // namespace drivlm::cpu
