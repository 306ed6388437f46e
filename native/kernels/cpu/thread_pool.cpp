#include "kernels/cpu/thread_pool.h"

#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace drivlm {

namespace {

constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kInside = kOpen - 1;
constexpr int kSpins =
    2000;  // about 30 us before a worker sleeps: longer than the gap between two ops, short enough to leave a core to others

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  static ThreadPool* pool = new ThreadPool;
  return *pool;
}

void ThreadPool::grow(int threads) {
  std::lock_guard lock(grow_mutex_);
  for (; workers_ < threads - 1; ++workers_) std::thread([this, index = workers_] { worker(index); }).detach();
}

void ThreadPool::run(const Region& region) {
  std::unique_lock lock(region_mutex_, std::try_to_lock);
  if (!lock) return region.call(region.body, 0, region.count);

  region_ = region;
  next_.store(0, std::memory_order_relaxed);
  const uint64_t epoch = (state_.load(std::memory_order_relaxed) >> 32) + 1;
  state_.store(epoch << 32 | kOpen, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    {
      std::lock_guard sleep(sleep_mutex_);
    }
    wake_.notify_all();
  }
  work(region_);
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  // Every worker has left the region, so nobody else touches error_.
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(const Region& region) {
  for (;;) {
    const int64_t first = next_.fetch_add(region.grain, std::memory_order_relaxed);
    if (first >= region.count) return;
    const int64_t last = first + region.grain < region.count ? first + region.grain : region.count;
    try {
      region.call(region.body, first, last);
    } catch (...) {
      keep_error();
      next_.store(region.count, std::memory_order_relaxed);  // nobody begins another piece
      return;
    }
  }
}

void ThreadPool::keep_error() {
  std::lock_guard lock(error_mutex_);
  if (!error_) error_ = std::current_exception();
}

void ThreadPool::worker(int index) {
  uint64_t seen = 0;  // the last epoch this worker entered or was turned away from
  for (;;) {
    uint64_t state = state_.load(std::memory_order_acquire);
    for (int spins = 0; !(state & kOpen) || (state >> 32) == seen; ++spins) {
      if (spins < kSpins) {
        pause();
        state = state_.load(std::memory_order_acquire);
        continue;
      }
      std::unique_lock lock(sleep_mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] {
        state = state_.load(std::memory_order_seq_cst);
        return (state & kOpen) && (state >> 32) != seen;
      });
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      spins = 0;
    }
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
    seen = state >> 32;
    const Region region = region_;  // stable while we are inside
    if (index < region.threads - 1) work(region);
    state_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace drivlm
