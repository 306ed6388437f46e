// Times the CPU kernels at the shapes of InternVL2-1B, beside what this machine could do at best in the same run.
//
//   drivlm_bench [--threads N] [--only TEXT] [--json FILE] [--clock wall|cpu]
//
// On a machine that others use too, `--threads 1 --clock cpu` counts the time this thread had a core.
//
// Answers are checked first. A row is the median of its runs; its floor is the larger of its operations at the measured
// peak and its bytes at the measured bandwidth; the share is floor / time. Peaks are measured before, between and after
// the rows, the largest counts. Targets as of DRIVLM_CPU.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/numeric.h"
#include "device/ops.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/pack_s4.h"
#include "kernels/cpu/packed_attention.h"
#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/thread_pool.h"
#include "packed/formats.h"

using namespace drivlm;
using namespace drivlm::cpu;

namespace {

bool cpu_clock = false;

double now() {
  timespec time;
  clock_gettime(cpu_clock ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class PoolWorkers : public Workers {
 public:
  explicit PoolWorkers(int threads) : threads_(threads) { ThreadPool::instance().grow(threads); }
  int count() const override { return threads_; }
  void run(int64_t tasks, void (*body)(const void*, int64_t), const void* context) override {
    ThreadPool::instance().parallel_for(threads_, tasks, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) body(context, task);
    });
  }

 private:
  int threads_;
};

// ---- what the machine can do ----

#if defined(__x86_64__)

// Sixteen independent chains of one instruction on registers of zeros.
#define FOUR(op, r, a, b, c, d)                                                                              \
  op " %%" r #a ",%%" r #a ",%%" r #a "\n" op " %%" r #b ",%%" r #b ",%%" r #b "\n" op " %%" r #c ",%%" r #c \
     ",%%" r #c "\n" op " %%" r #d ",%%" r #d ",%%" r #d "\n"
#define CHAINS(name, op, r)                                                                                       \
  void name(int64_t times) {                                                                                      \
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

struct Chain {
  void (*spin)(int64_t) = nullptr;
  double operations = 0;  // of one instruction
};
struct Chains {
  std::vector<Chain> f32, bf16, u8s8;  // the best of each list counts
};

Chains chains() {
  Chains out;
  for (const Target& target : targets()) {
    if (!target.supported) continue;
    const std::string name = target.name;
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
Chains chains() { return {}; }

#endif

struct Peaks {
  double f32 = 0, bf16 = 0, u8s8 = 0, read = 0;  // G a second, all threads
};

Peaks better(const Peaks& a, const Peaks& b) {
  return {std::max(a.f32, b.f32), std::max(a.bf16, b.bf16), std::max(a.u8s8, b.u8s8), std::max(a.read, b.read)};
}

double rate(const std::vector<Chain>& chains, Workers& workers) {
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
double read_rate(const std::vector<uint64_t>& memory, Workers& workers) {
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
  Bench(int threads, std::string only) : workers_(threads), only_(std::move(only)), tier_(chosen_target()) {}

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

  void time(const std::string& name, const char* unit, double operations, double bytes,
            const std::function<void()>& body) {
    if (!wants(name)) return;
    body();
    std::vector<double> runs;
    for (const double start = now(); runs.size() < 5 || (now() - start < 0.7 && runs.size() < 200);) {
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

std::vector<uint16_t> noise(int64_t count, float size) {
  std::vector<uint16_t> out(count);
  uint32_t state = 1;
  for (uint16_t& v : out) {
    state = state * 1664525u + 1013904223u;
    v = from_float<bf16>(static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f * size).bits;
  }
  return out;
}

[[noreturn]] void wrong(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

const char* kind_name(WeightKind kind) {
  return kind == WeightKind::bf16 ? "bf16" : kind == WeightKind::s8 ? "int8" : kind == WeightKind::s4 ? "int4" : "f32";
}

// A product with random weights, packed from the values that the check knows.
struct Product {
  Product(const KernelTable& kernels, WeightKind kind, int64_t m, int64_t n, int64_t k, bool x_int8)
      : x(noise(m * k, 1)), out(m * n), packed(packed_bytes(kind, n, k), "Packed weights", true) {
    const auto wide = noise(kPanelRows * k, 0.1f);  // the same for every panel: what is timed does not depend on values
    std::vector<float> rows(kPanelRows * k);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = to_float(bf16{wide[i]});
    scales.assign(panel_count(n) * kPanelRows, 0);
    sums.assign(panel_count(n) * kPanelRows, 0);
    std::vector<int8_t> q(kPanelRows * k);
    const void* pointers[kPanelRows];
    const float* floats[kPanelRows];
    for (int64_t i = 0; i < kPanelRows; ++i) {
      pointers[i] = wide.data() + i * k;
      floats[i] = rows.data() + i * k;
      if (kind != WeightKind::s8) continue;
      pointers[i] = q.data() + i * k;
      const float scale = quantize_s8(q.data() + i * k, floats[i], k);
      int32_t sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += q[i * k + j];
      for (int64_t panel = 0; panel < panel_count(n); ++panel) {
        scales[panel * kPanelRows + i] = scale;
        sums[panel * kPanelRows + i] = sum;
      }
    }
    char* first = static_cast<char*>(packed.data);
    for (int64_t panel = 0; panel < panel_count(n); ++panel) {
      char* to = first + panel * panel_bytes(kind, k);
      if (panel > 0) {
        std::memcpy(to, first, panel_bytes(kind, k));
      } else if (kind == WeightKind::s4) {
        pack_s4_panel(to, floats, k);
      } else {
        kernels.pack_panel(to, kind, pointers, k);
      }
    }
    job.x = x.data();
    job.x_stride = k;
    job.x_int8 = x_int8;
    job.w = packed.data;
    job.kind = kind;
    job.w_scale = scales.data();
    job.w_sum = sums.data();
    job.m = m, job.n = n, job.k = k;
    job.out = out.data();
    job.out_stride = n;
    weights = rows;
  }

  // Some values against sums in double; quantised weights are off by a share of the values' size.
  void check(const std::string& name) const {
    const double allowed = job.kind == WeightKind::s4 ? 0.5 : job.kind == WeightKind::s8 ? 0.08 : 0.01;
    const double size = 0.1 * std::sqrt(static_cast<double>(job.k)) / 3;
    for (int64_t i = 0; i < 64; ++i) {
      const int64_t row = i * 7919 % job.m, column = i * 104729 % job.n;
      double y = 0;
      for (int64_t j = 0; j < job.k; ++j)
        y += static_cast<double>(to_float(bf16{x[row * job.k + j]})) * weights[column % kPanelRows * job.k + j];
      const double found = to_float(bf16{out[row * job.n + column]});
      if (!(std::fabs(found - y) <= allowed * (size + std::fabs(y)))) {
        wrong(text("%s: at %d, %d expected %g, found %g", name.c_str(), static_cast<int>(row), static_cast<int>(column),
                   y, found));
      }
    }
  }

  std::vector<uint16_t> x, out;
  HostMemory packed;
  std::vector<float> scales, weights;
  std::vector<int32_t> sums;
  GemmJob job;
};

void products(Bench& bench) {
  struct Shape {
    const char* name;
    int64_t m, n, k;
  };
  const Shape shapes[] = {{"vit_qkv", 1025, 3072, 1024},     {"vit_proj", 1025, 1024, 1024},
                          {"vit_fc1", 1025, 4096, 1024},     {"vit_fc2", 1025, 1024, 4096},
                          {"prefill_qkv", 512, 1152, 896},   {"prefill_out", 512, 896, 896},
                          {"prefill_gated", 512, 9728, 896}, {"prefill_down", 512, 896, 4864}};
  for (const bool int8 : {false, true}) {
    for (const Shape& s : shapes) {
      const std::string name = std::string(s.name) + (int8 ? "_int8" : "_bf16");
      if (!bench.wants(name)) continue;
      const WeightKind kind = int8 ? WeightKind::s8 : WeightKind::bf16;
      Product product(bench.kernels(), kind, s.m, s.n, s.k, int8);
      gemm(bench.kernels(), product.job, bench.workers());
      product.check(name);
      if (std::strcmp(s.name, "vit_fc1") == 0) product.job.after = Epilogue::gelu;
      if (std::strcmp(s.name, "prefill_gated") == 0) {
        product.job.after = Epilogue::gated;
        product.job.out_stride = s.n / 2;
      }
      if (std::strcmp(s.name, "vit_fc2") == 0 || std::strcmp(s.name, "prefill_down") == 0)
        product.job.after = Epilogue::add;
      bench.time(name, int8 ? "u8s8" : "bf16", 2.0 * s.m * s.n * s.k, static_cast<double>(packed_bytes(kind, s.n, s.k)),
                 [&] { gemm(bench.kernels(), product.job, bench.workers()); });
    }
  }
}

// All matrices of one decoder step, each read once: 24 layers and the head. The head stays in 8 bits with int4.
void decode_weights(Bench& bench) {
  for (const WeightKind kind : {WeightKind::bf16, WeightKind::s8, WeightKind::s4}) {
    for (const int64_t rows : {1, 8}) {
      const std::string name = text("decode_weights_%s_rows_%d", kind_name(kind), static_cast<int>(rows));
      if (!bench.wants(name)) continue;
      std::vector<std::unique_ptr<Product>> all;
      double bytes = 0, operations = 0;
      const auto add = [&](WeightKind of, int64_t n, int64_t k, Epilogue after) {
        all.push_back(std::make_unique<Product>(bench.kernels(), of, rows, n, k, false));
        gemm(bench.kernels(), all.back()->job, bench.workers());
        all.back()->check(name);
        all.back()->job.after = after;
        if (after == Epilogue::gated) all.back()->job.out_stride = n / 2;
        bytes += static_cast<double>(packed_bytes(of, n, k));
        operations += 2.0 * rows * n * k;
      };
      for (int layer = 0; layer < 24; ++layer) {
        add(kind, 1152, 896, Epilogue::store);
        add(kind, 896, 896, Epilogue::add);
        add(kind, 9728, 896, Epilogue::gated);
        add(kind, 896, 4864, Epilogue::add);
      }
      add(kind == WeightKind::s4 ? WeightKind::s8 : kind, 151655, 896, Epilogue::store);
      bench.time(name, "bf16", operations, bytes, [&] {
        for (const auto& product : all) gemm(bench.kernels(), product->job, bench.workers());
      });
    }
  }
}

void attentions(Bench& bench) {
  {
    const int64_t positions = 1025, heads = 16, dim = 64;
    const auto qkv = noise(positions * 3 * heads * dim, 2);
    std::vector<uint16_t> out(positions * heads * dim);
    bench.time("vit_attention", "bf16", 4.0 * positions * positions * heads * dim, 0,
               [&] { attention(bench.kernels(), out.data(), qkv.data(), 1, positions, heads, dim, bench.workers()); });
  }
  const int64_t heads = 14, kv_heads = 2, dim = 64, page_tokens = 64, layers = 24, pages = 80;
  const KvLayout layout{layers, kv_heads, dim, page_tokens};
  const HostMemory kv(static_cast<size_t>(layout.page_bytes() * pages), "The cache", true);
  const auto tokens = noise(page_tokens * dim, 1);
  for (int64_t page = 0; page < pages; ++page) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (int64_t head = 0; head < kv_heads; ++head) {
        bench.kernels().append(static_cast<char*>(kv.data) + layout.block_offset(page, layer, head), layout,
                               tokens.data(), tokens.data(), dim, 0, page_tokens);
      }
    }
  }
  struct Case {
    const char* name;
    int64_t sequences, past, rows;
  };
  for (const Case& c : {Case{"prefill_attention_512", 1, 0, 512},
                        {"prefill_attention_3328", 1, 2816, 512},
                        {"decode_attention_512", 1, 512, 1},
                        {"decode_attention_3500", 1, 3500, 1},
                        {"decode_attention_3500_shared_by_8", 8, 3500, 1}}) {
    Batch batch;
    for (int64_t s = 0; s < c.sequences; ++s) {
      batch.segments.push_back({batch.rows, c.rows, c.past, static_cast<int64_t>(batch.pages.size())});
      batch.rows += c.rows;
      const int64_t needed = (c.past + c.rows + page_tokens - 1) / page_tokens;
      for (int64_t p = 0; p < needed; ++p) batch.pages.push_back(static_cast<int32_t>(p + 1 < needed ? p : p + s));
    }
    const auto qkv = noise(batch.rows * (heads + 2 * kv_heads) * dim, 2);
    std::vector<uint16_t> out(batch.rows * heads * dim);
    AttentionPlan plan;
    plan.make(batch, page_tokens, heads, kv_heads, dim, bench.kernels().tile_rows, bench.workers().count());
    const double seen = c.sequences * c.rows * (c.past + (c.rows + 1) / 2.0);
    const double bytes = static_cast<double>(c.past + c.rows) * kv_heads * dim * 4 * layers;
    bench.time(std::string(c.name) + "_24_layers", "bf16", 4.0 * seen * heads * dim * layers, bytes, [&] {
      for (int64_t layer = 0; layer < layers; ++layer) {
        plan.run(bench.kernels(), out.data(), qkv.data(), kv.data, layout, layer, heads, bench.workers());
      }
    });
  }
}

void row_kernels(Bench& bench) {
  const int64_t rows = 1025, dim = 1024;
  const auto x = noise(rows * dim, 1);
  std::vector<uint16_t> out(x.size());
  const std::vector<float> ones(dim, 1.0f);
  const auto split = [&](const std::function<void(int64_t, int64_t)>& body) {
    run(bench.workers(), 16, [&](int64_t task) { body(rows * task / 16, rows * (task + 1) / 16); });
  };
  bench.time("vit_layer_norm", "f32", 0, 4.0 * rows * dim, [&] {
    split([&](int64_t first, int64_t last) {
      bench.kernels().layer_norm(out.data() + first * dim, x.data() + first * dim, last - first, dim, ones.data(),
                                 ones.data(), 1e-6f);
    });
  });
  bench.time("rms_norm", "f32", 0, 4.0 * rows * dim, [&] {
    split([&](int64_t first, int64_t last) {
      bench.kernels().rms_norm(out.data() + first * dim, x.data() + first * dim, last - first, dim, dim, ones.data(),
                               1e-6f);
    });
  });
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

}  // namespace

int main(int argc, char** argv) {
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
    products(bench);
    decode_weights(bench);
    attentions(bench);
    row_kernels(bench);

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
