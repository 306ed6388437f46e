// What a body throws comes out of parallel_for, on whichever thread it was thrown.
#include <atomic>
#include <new>
#include <thread>

#include "check.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"

namespace drivlm::test {
namespace {

TEST(a_body_that_throws_on_any_thread_throws_in_the_caller) {
  ThreadPool& pool = ThreadPool::instance();
  pool.grow(4);
  for (int round = 0; round < 200; ++round) {
    const bool by_worker = round % 2 == 1;
    std::atomic<int> begun{0};
    std::atomic<bool> worker_came{false};
    const auto caller = std::this_thread::get_id();
    bool caught = false;
    try {
      pool.parallel_for(4, 64, 1, [&](int64_t, int64_t) {
        ++begun;
        if (std::this_thread::get_id() != caller) worker_came = true;
        if (by_worker ? std::this_thread::get_id() != caller : begun > 8) throw std::bad_alloc();
        while (by_worker && !worker_came) std::this_thread::yield();
      });
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    CHECK(caught);
    std::atomic<int64_t> sum{0};
    pool.parallel_for(4, 100, 3, [&](int64_t first, int64_t last) { sum += last - first; });
    CHECK_EQ(sum.load(), int64_t{100});
  }
}

TEST(scratch_that_cannot_be_had_is_an_error_on_every_thread) {
  ThreadPool& pool = ThreadPool::instance();
  pool.grow(4);
  CHECK_ERROR(Code::out_of_memory,
              pool.parallel_for(4, 16, 1, [&](int64_t, int64_t) { cpu::thread_scratch(SIZE_MAX / 2); }));
  pool.parallel_for(4, 16, 1, [&](int64_t, int64_t) { CHECK(cpu::thread_scratch(4096) != nullptr); });
}

}  // namespace
}  // namespace drivlm::test
