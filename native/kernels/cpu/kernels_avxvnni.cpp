#define DRIVLM_CPU_TARGET on_avxvnni
#define DRIVLM_TABLE kAvxVnniKernels
#include "kernels/cpu/target_table.h"
