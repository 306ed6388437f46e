// Runs the cases on the emulator: all of them, or those whose names contain an argument.
#include "control.h"
#include "testing.h"

int main(int argc, char** argv) {
  using namespace drivlm;
  return test::run_cases(argc, argv, "emulator", cuda::testing::run_case, [] {
    const emu::Stats& stats = emu::stats;
    return text(": %llu launches, %llu blocks, %.3gM products, %.3gM accesses, %llu bank conflicts", stats.launches,
                stats.blocks, stats.matrix_products * 1e-6, stats.accesses * 1e-6, stats.ldmatrix_conflicts);
  });
}
