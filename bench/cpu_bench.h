// What the C++ benches of the CPU share: peaks of the machine, rows with their floors, the command line and the files they are written to.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/pool_workers.h"
#include "kernels/cpu/targets.h"

namespace drivlm::cpu {

[[noreturn]] inline void wrong(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

inline bool cpu_clock = false;

inline double now() {
  timespec time;
  clock_gettime(cpu_clock ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// ---- what the machine can do ----

#if defined(__x86_64__)

// Sixteen independent chains of one instruction on registers of zeros.
#define FOUR(op, r, a, b, c, d)                                                                              \
  op " %%" r #a ",%%" r #a ",%%" r #a "\n" op " %%" r #b ",%%" r #b ",%%" r #b "\n" op " %%" r #c ",%%" r #c \
     ",%%" r #c "\n" op " %%" r #d ",%%" r #d ",%%" r #d "\n"
#define CHAINS(name, op, r)                                                                                       \
  inline void name(int64_t times) {                                                                               \
    asm volatile("vzeroall\n1:\n" FOUR(op, r, 0, 1, 2, 3) FOUR(op, r, 4, 5, 6, 7) FOUR(op, r, 8, 9, 10, 11)       \
                     FOUR(op, r, 12, 13, 14, 15) "dec %0\njnz 1b\nvzeroupper"                                     \
                 : "+r"(times)                                                                                    \
                 :                                                                                                \
                 : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                   "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                                  \
  }
CHAINS(fma_512, "vfmadd231ps", "zmm")
CHAINS(fma_256, "vfmadd231ps", "ymm")
CHAINS(bf16_512, "vdpbf16ps", "zmm")
CHAINS(u8s8_512, "vpdpbusd", "zmm")
CHAINS(madd_256, "vpmaddwd", "ymm")
#undef CHAINS
#undef FOUR

// Four chains on the tiles of AMX, sixteen instructions a time as above.
#define FOUR(op) \
  op " %%tmm6,%%tmm4,%%tmm0\n" op " %%tmm7,%%tmm4,%%tmm1\n" op " %%tmm6,%%tmm5,%%tmm2\n" op " %%tmm7,%%tmm5,%%tmm3\n"
#define CHAINS(name, op)                                                                                \
  inline void name(int64_t times) {                                                                     \
    alignas(64) uint8_t config[64] = {1};                                                               \
    for (int tile = 0; tile < 8; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;            \
    asm volatile("ldtilecfg %1\n1:\n" FOUR(op) FOUR(op) FOUR(op) FOUR(op) "dec %0\njnz 1b\ntilerelease" \
                 : "+r"(times)                                                                          \
                 : "m"(config)                                                                          \
                 : "cc");                                                                               \
  }
CHAINS(amx_bf16, "tdpbf16ps")
CHAINS(amx_u8s8, "tdpbusd")
#undef CHAINS
#undef FOUR

struct Chain {
  void (*spin)(int64_t) = nullptr;
  double operations = 0;  // of one instruction
};
struct Chains {
  std::vector<Chain> f32, bf16, u8s8;  // the best of each list counts
};

inline Chains chains() {
  Chains out;
  for (const Target& target : targets()) {
    if (!target.supported) continue;
    const std::string name = target.name;
    if (name == "amx") {
      out.bf16.push_back({amx_bf16, 16 * 16 * 64});
      out.u8s8.push_back({amx_u8s8, 16 * 16 * 128});
    }
    if (name == "avx512bf16") out.bf16.push_back({bf16_512, 64});
    if (name == "avx512") {
      out.f32.push_back({fma_512, 32});
      out.u8s8.push_back({u8s8_512, 128});
    }
    if (name == "avx2") {
      out.f32.push_back({fma_256, 16});
      out.u8s8.push_back({madd_256, 32});
    }
  }
  // bf16 may be multiplied as f32: what matters is how soon the product is there.
  out.bf16.insert(out.bf16.end(), out.f32.begin(), out.f32.end());
  return out;
}

#else

struct Chain {
  void (*spin)(int64_t) = nullptr;
  double operations = 0;
};
struct Chains {
  std::vector<Chain> f32, bf16, u8s8;
};
inline Chains chains() { return {}; }

#endif

struct Peaks {
  double f32 = 0, bf16 = 0, u8s8 = 0, read = 0;  // G a second, all threads
};

inline Peaks better(const Peaks& a, const Peaks& b) {
  return {std::max(a.f32, b.f32), std::max(a.bf16, b.bf16), std::max(a.u8s8, b.u8s8), std::max(a.read, b.read)};
}

inline double rate(const std::vector<Chain>& chains, Workers& workers) {
  double best = 0;
  for (const Chain& chain : chains) {
    constexpr int64_t kTimes = 400000;
    std::vector<double> seconds(workers.count());
    run(workers, workers.count(), [&](int64_t task) {
      const double start = now();
      chain.spin(kTimes);
      seconds[task] = now() - start;
    });
    double sum = 0;
    for (double s : seconds) sum += kTimes * 16 * chain.operations / s / 1e9;
    best = std::max(best, sum);
  }
  return best;
}

// Reads all of `memory` once, each thread its own part.
inline double read_rate(const std::vector<uint64_t>& memory, Workers& workers) {
  const int64_t parts = workers.count() * 4, lines = static_cast<int64_t>(memory.size() / 8);
  std::vector<uint64_t> sums(parts);
  const double start = now();
  run(workers, parts, [&](int64_t part) {
    typedef uint64_t Words __attribute__((vector_size(64), aligned(8), may_alias));
    Words a = {}, b = {};
    for (int64_t i = lines * part / parts; i + 1 < lines * (part + 1) / parts; i += 2) {
      const Words* p = reinterpret_cast<const Words*>(memory.data() + i * 8);
      __builtin_prefetch(reinterpret_cast<const char*>(p) + 4096);
      __builtin_prefetch(reinterpret_cast<const char*>(p) + 4160);
      a ^= p[0];
      b ^= p[1];
    }
    a ^= b;
    sums[part] = a[0] ^ a[3];
  });
  const double seconds = now() - start;
  volatile uint64_t kept = 0;
  for (uint64_t sum : sums) kept = kept ^ sum;
  return static_cast<double>(memory.size()) * 8 / seconds / 1e9;
}

// ---- rows ----

struct Row {
  std::string name;
  double seconds = 0, low = 0, high = 0;  // median, 10th and 90th percentile
  double operations = 0, bytes = 0;       // G
  const char* unit = "bf16";              // whose peak bounds it
  double floor = 0;                       // seconds, by the peaks just before and after
};

class Bench {
 public:
  Bench(int threads, std::string only) : workers_(threads), only_(std::move(only)), tier_(chosen_target()) {
    ThreadPool::instance().grow(threads);
  }

  const KernelTable& kernels() const { return *tier_.kernels; }
  Workers& workers() { return workers_; }
  const std::vector<Row>& rows() const { return rows_; }
  const Peaks& peaks() const { return peaks_; }
  const char* target() const { return tier_.name; }
  bool wants(const std::string& name) const { return name.find(only_) != std::string::npos; }

  void measure_peaks() {
    if (memory_.empty()) memory_.assign((size_t{768} << 20) / 8, 1);
    const Chains all = chains();
    latest_ = {};
    for (int i = 0; i < 3; ++i) {
      latest_ = better(latest_, {rate(all.f32, workers_), rate(all.bf16, workers_), rate(all.u8s8, workers_),
                                 read_rate(memory_, workers_)});
    }
    peaks_ = better(peaks_, latest_);
  }

  // At least `least` runs.
  void time(const std::string& name, const char* unit, double operations, double bytes,
            const std::function<void()>& body, size_t least = 5) {
    if (!wants(name)) return;
    body();
    std::vector<double> runs;
    for (const double start = now(); runs.size() < least || (now() - start < 0.7 && runs.size() < 200);) {
      const double before = now();
      body();
      runs.push_back(now() - before);
    }
    std::sort(runs.begin(), runs.end());
    Row row{name,        median(runs), runs[runs.size() / 10], runs[runs.size() * 9 / 10], operations / 1e9,
            bytes / 1e9, unit};
    const Peaks before = latest_;
    measure_peaks();
    row.floor = floor(row, better(before, latest_));
    rows_.push_back(row);
  }

 private:
  static double floor(const Row& row, const Peaks& peaks) {
    const double peak = std::strcmp(row.unit, "u8s8") == 0  ? peaks.u8s8
                        : std::strcmp(row.unit, "f32") == 0 ? peaks.f32
                                                            : peaks.bf16;
    return std::max(peak > 0 ? row.operations / peak : 0.0, peaks.read > 0 ? row.bytes / peaks.read : 0.0);
  }

  PoolWorkers workers_;
  std::string only_;
  const Target& tier_;
  std::vector<uint64_t> memory_;
  Peaks peaks_, latest_;
  std::vector<Row> rows_;
};

inline std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

// The whole program: `measure` adds its rows.
inline int bench_main(int argc, char** argv, const std::function<void(Bench&)>& measure) {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::string only, json;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (i + 1 == argc)
      wrong("Expected a value after " + name + ". Options: --threads N, --only TEXT, --json FILE, --clock wall|cpu.");
    const char* value = argv[++i];
    if (name == "--threads") {
      threads = std::atoi(value);
      if (threads < 1 || threads > 1024) wrong("Expected 1 to 1024 for --threads, found '" + std::string(value) + "'.");
    } else if (name == "--only") {
      only = value;
    } else if (name == "--clock") {
      cpu_clock = std::strcmp(value, "cpu") == 0;
      if (!cpu_clock && std::strcmp(value, "wall") != 0)
        wrong("Expected wall or cpu for --clock, found '" + std::string(value) + "'.");
    } else if (name == "--json") {
      json = value;
    } else {
      wrong("Unknown option " + name + ". Options: --threads N, --only TEXT, --json FILE, --clock wall|cpu.");
    }
  }
  if (cpu_clock && threads != 1) wrong("--clock cpu counts one thread: pass --threads 1 with it.");
  try {
    Bench bench(threads, only);
    bench.measure_peaks();
    measure(bench);

    const Peaks& peaks = bench.peaks();
    const std::string device = text("%s, %d thread%s%s, target %s", cpu_name().c_str(), threads,
                                    threads == 1 ? "" : "s", cpu_clock ? " by its own time" : "", bench.target());
    std::printf("%s\npeaks: f32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, u8s8 %.0f GOP/s, read %.1f GB/s\n\n", device.c_str(),
                peaks.f32, peaks.bf16, peaks.u8s8, peaks.read);
    std::printf("%-46s %12s %12s %12s %10s %8s %7s\n", "", "us", "p10", "p90", "GOP/s", "GB/s", "share");
    for (const Row& row : bench.rows()) {
      std::printf("%-46s %12.1f %12.1f %12.1f %10.1f %8.1f %6.1f%%\n", row.name.c_str(), row.seconds * 1e6,
                  row.low * 1e6, row.high * 1e6, row.operations / row.seconds, row.bytes / row.seconds,
                  100 * row.floor / row.seconds);
    }
    if (!json.empty()) {
      std::ofstream file(json);
      file << "{\"device\": \"" << device << "\", \"peaks\": {\"bf16_gflops\": " << peaks.bf16
           << ", \"u8s8_gops\": " << peaks.u8s8 << ", \"f32_gflops\": " << peaks.f32 << ", \"read_gbs\": " << peaks.read
           << "}, \"rows\": [";
      const char* comma = "";
      for (const Row& row : bench.rows()) {
        file << comma << "\n  {\"name\": \"" << row.name << "\", \"value\": " << row.seconds * 1e6
             << ", \"unit\": \"us\", \"p10\": " << row.low * 1e6 << ", \"p90\": " << row.high * 1e6
             << ", \"floor\": " << row.floor * 1e6 << ", \"share\": " << row.floor / row.seconds
             << ", \"gops\": " << row.operations / row.seconds << ", \"gbs\": " << row.bytes / row.seconds << "}";
        comma = ",";
      }
      file << "\n]}\n";
      if (!file.flush()) wrong("Could not write " + json + ".");
    }
  } catch (const std::exception& error) {
    wrong(error.what());
  }
  return 0;
}

}  // namespace drivlm::cpu
