#define DRIVLM_CPU_TARGET on_portable
#include "kernels/cpu/packing_kernels.h"
