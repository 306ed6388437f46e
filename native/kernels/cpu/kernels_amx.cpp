#define DRIVLM_CPU_TARGET on_amx
#define DRIVLM_PACKING on_avx512
#define DRIVLM_TABLE kAmxKernels
#include "kernels/cpu/target_table.h"
