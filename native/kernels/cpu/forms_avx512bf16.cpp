#define DRIVLM_TIER forms_avx512bf16
#define DRIVLM_FORMS kAvx512Bf16Forms
#include "kernels/cpu/tier_forms.h"
