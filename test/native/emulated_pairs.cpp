// The target of vdpbf16ps' layout that every CPU can run; for cpu_training_ops_test.cpp.
#define DRIVLM_CPU_TARGET on_emulated_pairs
#define DRIVLM_EMULATED_PAIRS
#define DRIVLM_PACKING on_portable
#define DRIVLM_TABLE kEmulatedPairs
#include "kernels/cpu/kernel_table.h"

namespace drivlm::cpu {
extern const KernelTable kEmulatedPairs;
}
#include "kernels/cpu/target_table.h"
