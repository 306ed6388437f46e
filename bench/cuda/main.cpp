// Checks and times the CUDA backend on the card at hand, without Node. scripts/gpu-check builds and runs it.
//
//   drivlm_gpu_check [--ops] [--bench] [--model] [--peaks] [--small] [--in-process] [--filter TEXT] [--seconds S] [--commit HASH]
//                    [--json FILE]
//
//   --ops       every case of the kernels, of the wrappers around instructions, and a small model, against the CPU
//   --bench     the kernels at the shapes of InternVL2-1B, beside the copy bandwidth and matrix rates of this card
//   --model     the whole model at those shapes: six views to the first token, and decoding
//   --peaks     the copy bandwidth and matrix rates alone
//   --small     small shapes and few runs, and of the cases only the quick ones: for sanitizers and the emulator
//   --in-process  the cases in this process, for tools that watch one
//   --filter    only cases and rows whose names contain TEXT
//   --seconds   what would start later is skipped, and said to be
//
// Without --ops, --bench, --model or --peaks it does all of it. Another card than the first: CUDA_VISIBLE_DEVICES. Ends with 0 if nothing failed,
// 1 if something did, 2 for wrong arguments, 3 if there is no GPU to run on.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "bench.h"
#include "isolated.h"
#include "kernels/cuda/driver.h"

using namespace drivlm;
using namespace drivlm::gpu;

namespace {

constexpr double kCaseSeconds = 60;
constexpr int kNoGpu = 3;

struct Arguments {
  bool ops = false, bench = false, model = false, peaks = false, small = false, in_process = false;
  std::string filter, json, commit;
  double seconds = 600;
};

[[noreturn]] void refuse(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(2);
}

Arguments parse(int argc, char** argv) {
  Arguments out;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&] {
      if (i + 1 == argc) refuse("Expected a value after " + flag + ".");
      return std::string(argv[++i]);
    };
    if (flag == "--ops") {
      out.ops = true;
    } else if (flag == "--bench") {
      out.bench = true;
    } else if (flag == "--model") {
      out.model = true;
    } else if (flag == "--peaks") {
      out.peaks = true;
    } else if (flag == "--small") {
      out.small = true;
    } else if (flag == "--in-process") {
      out.in_process = true;
    } else if (flag == "--filter") {
      out.filter = value();
    } else if (flag == "--json") {
      out.json = value();
    } else if (flag == "--commit") {
      out.commit = value();
    } else if (flag == "--seconds") {
      const std::string text = value();
      char* end = nullptr;
      out.seconds = std::strtod(text.c_str(), &end);
      if (end == text.c_str() || *end != 0 || !(out.seconds > 0))
        refuse("Expected a number above 0 after --seconds, received '" + text + "'.");
    } else {
      refuse(
          "Expected --ops, --bench, --model, --peaks, --small, --in-process, --filter TEXT, --seconds S, --commit HASH or --json FILE, received '" +
          flag + "'.");
    }
  }
  if (!out.ops && !out.bench && !out.model && !out.peaks) out.ops = out.bench = out.model = true;
  return out;
}

// Why no GPU can be used, or empty. Touches CUDA.
std::string problem() {
  std::string why = cuda::driver_problem();
  return why.empty() ? cuda::device_problem(0) : why;
}

bool usable() {
  const std::string why = problem();
  if (!why.empty()) std::fprintf(stderr, "There is no GPU to check: %s.\n", why.c_str());
  return why.empty();
}

// The same asked in another process: this one may still fork.
bool usable_elsewhere() {
  const pid_t pid = fork();
  if (pid == 0) _exit(usable() ? 0 : kNoGpu);
  int status = 0;
  return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string describe_device(const std::string& commit) {
  cudaDeviceProp p;
  int driver = 0, runtime = 0;
  cuda::check(cudaGetDeviceProperties(&p, 0), "asking what the GPU can do");
  cudaDriverGetVersion(&driver), cudaRuntimeGetVersion(&runtime);
  const auto version = [](int v) { return text("%d.%d", v / 1000, v % 1000 / 10); };
  std::string out =
      "{\"name\": " + quoted(p.name) + ", \"compute_capability\": " + quoted(text("%d.%d", p.major, p.minor));
  out += text(", \"multiprocessors\": %d, \"memory_bytes\": %zu, \"l2_bytes\": %d, \"integrated\": %s",
              p.multiProcessorCount, p.totalGlobalMem, p.l2CacheSize, p.integrated ? "true" : "false");
  out += ", \"driver_cuda\": " + quoted(version(driver)) + ", \"runtime_cuda\": " + quoted(version(runtime));
  out += ", \"compiler\": " + quoted(__VERSION__) + ", \"commit\": " + (commit.empty() ? "null" : quoted(commit));
#if defined(DRIVLM_EMULATED)
  out += ", \"emulated\": true";
#endif
  return out + "}";
}

// Cases that a sanitizer or an emulator takes long over.
bool is_quick(const std::string& name) {
  for (const char* part : {"_tower", "_splits", "_shared_prefix", "_sizes", "_copies", "_groups", "_conflicts"}) {
    if (name.find(part) != std::string::npos) return false;
  }
  return true;
}

void run_cases(const Arguments& arguments, Report& report, const std::function<void(const Report&)>& save) {
  std::vector<test::Case> cases;
  for (const test::Case& one : test::cases()) {
    const std::string name = one.name;
    if (name.find(arguments.filter) == std::string::npos || (arguments.small && !is_quick(name))) continue;
    cases.push_back(one);
  }
  const Clock::time_point begin = Clock::now();
  const auto told = [&](test::CaseOutcome outcome) {
    std::printf("  %-4s %s (%.2f s)\n", outcome.failures.empty() ? "ok" : "FAIL", outcome.name.c_str(),
                outcome.seconds);
    for (const std::string& failure : outcome.failures) std::printf("       %s\n", failure.c_str());
    std::fflush(stdout);
    if (!outcome.failures.empty()) report.failed.push_back(outcome.name + ": " + outcome.failures.front());
    report.cases.push_back(std::move(outcome));
    save(report);
  };
  std::printf("%zu cases\n", cases.size());
  std::fflush(stdout);
  if (!arguments.in_process) {
    run_isolated(cases, kCaseSeconds, told);
  } else {
    for (size_t i = 0; i < cases.size(); ++i) {
      if (seconds_since(begin) > arguments.seconds) {
        report.skipped.push_back(text("%zu cases: out of time", cases.size() - i));
        break;
      }
      told(cuda::testing::run_case(cases[i]));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  if (!(arguments.in_process ? usable() : usable_elsewhere())) return kNoGpu;
  Report report;
  report.small = arguments.small;
  report.device_json = "null";
  const auto save = [&](const Report& now) {
    if (!arguments.json.empty()) std::ofstream(arguments.json) << now.json();
  };
  try {
    if (arguments.ops) run_cases(arguments, report, save);  // before this process touches CUDA
    report.device_json = describe_device(arguments.commit);
    std::printf("%s\n", report.device_json.c_str());
    if (arguments.bench || arguments.model || arguments.peaks) {
      Options options;
      options.small = arguments.small, options.seconds = arguments.seconds, options.filter = arguments.filter,
      options.save = save;
      Bench bench(options, report);
      bench.measure_peaks();
      if (arguments.bench) bench_ops(bench);
      if (arguments.model) bench_model(bench);
      bench.measure_peaks();  // the better of before and after counts: others only take from it
      const Peaks& peaks = report.peaks;
      std::printf(
          "copy %.4g GB/s, matrices %.4g TFLOP/s, of bytes %.4g TOP/s, to the device %.4g GB/s, from it %.4g GB/s\n%s",
          peaks.copy_gbs, peaks.matrix_tflops, peaks.byte_tops, peaks.to_device_gbs, peaks.from_device_gbs,
          report.table().c_str());
    }
  } catch (const std::exception& error) {
    report.failed.push_back(error.what());
  }
  save(report);
  if (!arguments.json.empty() && !std::ifstream(arguments.json))
    report.failed.push_back(arguments.json + ": cannot be written");
  for (const std::string& one : report.skipped) std::printf("skipped: %s\n", one.c_str());
  for (const std::string& one : report.failed) std::printf("FAILED: %s\n", one.c_str());
  std::printf("%zu cases, %zu rows, %zu failed\n", report.cases.size(), report.rows.size(), report.failed.size());
  return report.failed.empty() ? 0 : 1;
}
