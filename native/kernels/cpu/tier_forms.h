// A tier's table of forms. The file that includes this defines DRIVLM_TIER, the tier's namespace, and DRIVLM_FORMS, the name of its table, and is
// compiled for the tier.
#include "kernels/cpu/attention_forms.h"
#include "kernels/cpu/gemm_forms.h"
#include "kernels/cpu/row_forms.h"

namespace drivlm::cpu {

const Forms DRIVLM_FORMS = {
    .tile_rows = DRIVLM_TIER::kTileRows,
    .gemm = DRIVLM_TIER::gemm,
    .gemm_scratch = DRIVLM_TIER::gemm_scratch,
    .pack_panel = DRIVLM_TIER::pack_panel,
    .attend = DRIVLM_TIER::attend,
    .attend_scratch = DRIVLM_TIER::attend_scratch,
    .merge = DRIVLM_TIER::merge,
    .append = DRIVLM_TIER::append,
    .layer_norm = DRIVLM_TIER::layer_norm,
    .rms_norm = DRIVLM_TIER::rms_norm,
    .scale_add = DRIVLM_TIER::scale_add,
    .rope = DRIVLM_TIER::rope,
    .log_sum_exp = DRIVLM_TIER::log_sum_exp,
};

}  // namespace drivlm::cpu
