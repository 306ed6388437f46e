#define DRIVLM_CPU_TARGET on_portable
#define DRIVLM_PACKING on_portable
#define DRIVLM_TABLE kPortableKernels
#include "kernels/cpu/target_table.h"
