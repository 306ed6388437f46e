#define DRIVLM_CPU_TARGET on_avx512bf16
#define DRIVLM_PACKING on_avx512
#define DRIVLM_TABLE kAvx512Bf16Kernels
#include "kernels/cpu/target_table.h"
