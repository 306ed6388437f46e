#define DRIVLM_CPU_TARGET on_avxvnni
#define DRIVLM_PACKING on_avx2
#define DRIVLM_TABLE kAvxVnniKernels
#include "kernels/cpu/target_table.h"
