#define DRIVLM_CPU_TARGET on_neon
#define DRIVLM_PACKING on_portable
#define DRIVLM_TABLE kNeonKernels
#include "kernels/cpu/target_table.h"
