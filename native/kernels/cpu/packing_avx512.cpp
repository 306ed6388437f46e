#define DRIVLM_CPU_TARGET on_avx512
#include "kernels/cpu/packing_kernels.h"
