// One small pool a process. The calling thread works too; a region that finds the pool busy runs on its caller alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>

namespace drivlm {

class ThreadPool {
 public:
  // Never destroyed: threads may outlive static destructors at process exit.
  static ThreadPool& instance();

  // Makes sure that `threads` can work at once, the caller included.
  void grow(int threads);

  // body(first, last) over pieces of [0, count) of about `grain`, on at most `threads` threads. What a body throws first is thrown here, once
  // no thread works any more; pieces that were not begun by then are left out.
  template <class Body>
  void parallel_for(int threads, int64_t count, int64_t grain, const Body& body) {
    if (count <= 0) return;
    if (threads <= 1 || count <= grain) return body(int64_t{0}, count);
    run({[](const void* b, int64_t first, int64_t last) { (*static_cast<const Body*>(b))(first, last); }, &body, count,
         grain, threads});
  }

 private:
  struct Region {
    void (*call)(const void* body, int64_t first, int64_t last);
    const void* body;
    int64_t count, grain;
    int threads;
  };

  ThreadPool() = default;
  void run(const Region& region);
  void work(const Region& region);
  void keep_error();
  void worker(int index);

  std::mutex grow_mutex_;
  std::mutex region_mutex_;  // held by the thread whose region runs
  int workers_ = 0;

  // epoch << 32 | open << 31 | workers inside. A worker enters a region only while it is open.
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  Region region_{};
  std::mutex error_mutex_;
  std::exception_ptr error_;  // of the region that runs
  std::atomic<int> sleepers_{0};
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
};

}  // namespace drivlm
