// Times work on the device by CUDA events, each run after the L2 cache was overwritten.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "device/device.h"
#include "kernels/cuda/launch.h"
#include "report.h"

namespace drivlm::gpu {

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct Options {
  bool small = false;                       // shapes and runs that an emulator finishes in seconds
  double seconds = 600;                     // rows that would start later are skipped
  std::string filter;                       // rows and cases whose names contain it
  std::function<void(const Report&)> save;  // called whenever the report has grown
};

class Bench {
 public:
  Bench(const Options& options, Report& report);
  ~Bench();
  Bench(const Bench&) = delete;

  const Options& options() const { return options_; }
  const cuda::DeviceLimits& limits() const { return limits_; }
  cudaStream_t stream() const { return stream_; }
  Report& report() { return report_; }

  void measure_peaks();

  bool wants(const std::string& name) const { return name.find(options_.filter) != std::string::npos; }
  bool late() const { return seconds_since(begin_) > options_.seconds; }

  // Runs `prepare`, which allocates, checks its result and returns what is timed. `flops` and `bytes` are what one run takes at
  // least, `byte_ops` those of its operations that are products of bytes. A failure becomes an entry of the report, and the next row goes on.
  void row(const std::string& name, double flops, double bytes, const std::function<std::function<void()>()>& prepare,
           double byte_ops = 0);

  // Keeps a row, and tells people.
  void add(Row row);

 private:
  // Seconds of each run.
  std::vector<double> times(const std::function<void()>& body, double budget, int most);

  const Options options_;
  Report& report_;
  const Clock::time_point begin_ = Clock::now();
  cuda::DeviceLimits limits_{};
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Memory> flush_;
};

// The kernels at the shapes of InternVL2-1B, or of a small network.
void bench_ops(Bench& bench);

// The whole model with random weights: six views to the first token, and decoding.
void bench_model(Bench& bench);

}  // namespace drivlm::gpu
