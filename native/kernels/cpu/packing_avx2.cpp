#define DRIVLM_CPU_TARGET on_avx2
#include "kernels/cpu/packing_kernels.h"
