#define DRIVLM_TIER forms_avx512
#define DRIVLM_FORMS kAvx512Forms
#include "kernels/cpu/tier_forms.h"
