#define DRIVLM_CPU_TARGET on_amx
#define DRIVLM_TABLE kAmxKernels
#include "kernels/cpu/target_table.h"
