#define DRIVLM_CPU_TARGET on_avx2
#define DRIVLM_PACKING on_avx2
#define DRIVLM_TABLE kAvx2Kernels
#include "kernels/cpu/target_table.h"
