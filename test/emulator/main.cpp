// Runs the cases on the emulator. Arguments: name prefixes of those to run; none runs all.
#include <cstdio>

#include "control.h"
#include "testing.h"

int main(int argc, char** argv) {
  using namespace drivlm::cuda::testing;
  int run = 0, failed = 0;
  for (const std::string& name : case_names()) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted |= name.rfind(argv[i], 0) == 0;
    if (!wanted) continue;
    ++run;
    const Outcome outcome = run_case(name);
    const emu::Stats& stats = emu::stats;
    for (const std::string& failure : outcome.failures) std::printf("  %s\n", failure.c_str());
    std::printf("%-4s %-28s %5llu launches %8llu blocks %.3gM products %.3gM accesses, %llu bank conflicts\n",
                outcome.failures.empty() ? "ok" : "FAIL", name.c_str(), stats.launches, stats.blocks,
                stats.matrix_products * 1e-6, stats.accesses * 1e-6, stats.ldmatrix_conflicts);
    std::fflush(stdout);
    failed += !outcome.failures.empty();
  }
  std::printf("%d cases, %d failed\n", run, failed);
  return failed > 0 || run == 0;
}
