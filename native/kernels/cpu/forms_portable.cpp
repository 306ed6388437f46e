#define DRIVLM_TIER forms_portable
#include "kernels/cpu/attention_forms.h"
#include "kernels/cpu/gemm_forms.h"
#include "kernels/cpu/row_forms.h"

namespace drivlm::cpu {

const Forms kPortableForms = {
    .tile_rows = forms_portable::kTileRows,
    .gemm = forms_portable::gemm,
    .gemm_scratch = forms_portable::gemm_scratch,
    .pack_panel = forms_portable::pack_panel,
    .attend = forms_portable::attend,
    .attend_scratch = forms_portable::attend_scratch,
    .merge = forms_portable::merge,
    .append = forms_portable::append,
    .layer_norm = forms_portable::layer_norm,
    .rms_norm = forms_portable::rms_norm,
    .scale_add = forms_portable::scale_add,
    .rope = forms_portable::rope,
    .log_sum_exp = forms_portable::log_sum_exp,
};

}  // namespace drivlm::cpu
