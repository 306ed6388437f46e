#define DRIVLM_TIER forms_neon
#define DRIVLM_FORMS kNeonForms
#include "kernels/cpu/tier_forms.h"
