#define DRIVLM_TIER forms_neon
#include "kernels/cpu/attention_forms.h"
#include "kernels/cpu/gemm_forms.h"
#include "kernels/cpu/row_forms.h"

namespace drivlm::cpu {

const Forms kNeonForms = {
    .tile_rows = forms_neon::kTileRows,
    .gemm = forms_neon::gemm,
    .gemm_scratch = forms_neon::gemm_scratch,
    .pack_panel = forms_neon::pack_panel,
    .attend = forms_neon::attend,
    .attend_scratch = forms_neon::attend_scratch,
    .merge = forms_neon::merge,
    .append = forms_neon::append,
    .layer_norm = forms_neon::layer_norm,
    .rms_norm = forms_neon::rms_norm,
    .scale_add = forms_neon::scale_add,
    .rope = forms_neon::rope,
    .log_sum_exp = forms_neon::log_sum_exp,
};

}  // namespace drivlm::cpu
