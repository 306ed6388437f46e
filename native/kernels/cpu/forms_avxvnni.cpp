#define DRIVLM_TIER forms_avxvnni
#define DRIVLM_FORMS kAvxVnniForms
#include "kernels/cpu/tier_forms.h"
