#define DRIVLM_TIER forms_portable
#define DRIVLM_FORMS kPortableForms
#include "kernels/cpu/tier_forms.h"
