#include "bench.h"

#include <algorithm>
#include <cstdio>

#include "kernels/cuda/cuda_memory.h"
#include "rates.h"

namespace drivlm::gpu {

using cuda::check;

namespace {

struct Event {
  Event() { check(cudaEventCreate(&event), "making an event"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  cudaEvent_t event = nullptr;
};

struct Pinned {
  explicit Pinned(size_t bytes) { check(cudaMallocHost(&data, bytes), "reserving pinned memory"); }
  ~Pinned() { cudaFreeHost(data); }
  Pinned(const Pinned&) = delete;
  void* data = nullptr;
};

}  // namespace

Bench::Bench(const Options& options, Report& report) : options_(options), report_(report) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, 0), "asking what the GPU can do");
  limits_ = {p.multiProcessorCount, static_cast<int>(p.sharedMemPerBlockOptin),
             static_cast<int>(p.sharedMemPerMultiprocessor)};
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  const size_t l2 = static_cast<size_t>(p.l2CacheSize);
  flush_ = std::make_unique<cuda::DeviceMemory>(options.small ? size_t{1} << 20 : std::max(2 * l2, size_t{64} << 20),
                                                "flushing L2");
}

Bench::~Bench() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

std::vector<double> Bench::times(const std::function<void()>& body, double budget, int most) {
  const auto timed = [&](int runs) {
    std::vector<std::unique_ptr<Event>> events;
    for (int run = 0; run < runs; ++run) {
      // While this runs, what follows is enqueued: launching is not part of the time.
      check(cudaMemsetAsync(flush_->data, run & 0xff, flush_->bytes, stream_), "flushing L2");
      events.push_back(std::make_unique<Event>());
      check(cudaEventRecord(events.back()->event, stream_), "timing");
      body();
      events.push_back(std::make_unique<Event>());
      check(cudaEventRecord(events.back()->event, stream_), "timing");
    }
    check(cudaStreamSynchronize(stream_), "timing");
    std::vector<double> seconds;
    for (int run = 0; run < runs; ++run) {
      float ms = 0;
      check(cudaEventElapsedTime(&ms, events[2 * run]->event, events[2 * run + 1]->event), "timing");
      seconds.push_back(ms / 1e3);
    }
    return seconds;
  };
  const double warm = timed(2).back();
  return timed(std::clamp(static_cast<int>(budget / std::max(warm, 1e-6)), std::min(most, 5), most));
}

void Bench::measure_peaks() {
  const size_t bytes = size_t{options_.small ? 1u : 256u} << 20;
  const int runs = options_.small ? 2 : 20;
  const auto best = [&](const std::function<void()>& body) {
    const std::vector<double> all = times(body, 1, runs);
    return *std::min_element(all.begin(), all.end());
  };
  cuda::DeviceMemory from(bytes, "measuring copies"), to(bytes, "measuring copies");
  check(cudaMemsetAsync(from.data, 1, bytes, stream_), "measuring copies");
  Pinned pinned(bytes);
  const auto copy = [&](void* out, const void* in, cudaMemcpyKind kind) {
    return static_cast<double>(bytes) / 1e9 /
           best([&] { check(cudaMemcpyAsync(out, in, bytes, kind, stream_), "measuring copies"); });
  };
  Peaks& peaks = report_.peaks;
  peaks.copy_gbs = std::max(peaks.copy_gbs, 2 * copy(to.data, from.data, cudaMemcpyDeviceToDevice));
  peaks.to_device_gbs = std::max(peaks.to_device_gbs, copy(to.data, pinned.data, cudaMemcpyHostToDevice));
  peaks.from_device_gbs = std::max(peaks.from_device_gbs, copy(pinned.data, from.data, cudaMemcpyDeviceToHost));
  const int blocks = (options_.small ? 1 : 8) * limits_.multiprocessors, turns = options_.small ? 4 : 4096;
  for (const bool of_bytes : {false, true}) {
    const double seconds = best([&] { run_products(static_cast<float*>(to.data), of_bytes, blocks, turns, stream_); });
    double& rate = of_bytes ? peaks.byte_tops : peaks.matrix_tflops;
    rate = std::max(rate, product_flops(of_bytes, blocks, turns) / seconds / 1e12);
  }
  if (options_.save) options_.save(report_);
}

void Bench::row(const std::string& name, double flops, double bytes,
                const std::function<std::function<void()>()>& prepare, double byte_ops) {
  if (!wants(name)) return;
  Row out{name, "us", {}, 0, 0, {flops, bytes, byte_ops}, {}};
  if (late()) {
    out.skipped = "out of time";
    report_.skipped.push_back(name + ": out of time");
    return add(std::move(out));
  }
  try {
    const std::function<void()> body = prepare();
    for (const double one : times(body, 0.25, options_.small ? 2 : 50)) out.values.push_back(one * 1e6);
    out.seconds = median(out.values) / 1e6;
  } catch (const std::exception& error) {
    out.values.clear();
    out.skipped = error.what();
    report_.failed.push_back(name + ": " + error.what());
  }
  add(std::move(out));
}

void Bench::add(Row row) {
  if (row.values.empty()) {
    std::printf("  %-42s skipped: %s\n", row.name.c_str(), row.skipped.c_str());
  } else {
    std::printf("  %-42s %10.4g %s\n", row.name.c_str(), median(row.values), row.unit.c_str());
  }
  std::fflush(stdout);
  report_.rows.push_back(std::move(row));
  if (options_.save) options_.save(report_);
}

}  // namespace drivlm::gpu
