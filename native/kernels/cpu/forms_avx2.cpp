#define DRIVLM_TIER forms_avx2
#define DRIVLM_FORMS kAvx2Forms
#include "kernels/cpu/tier_forms.h"
