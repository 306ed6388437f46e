#define DRIVLM_TIER forms_avxvnni
#include "kernels/cpu/attention_forms.h"
#include "kernels/cpu/gemm_forms.h"
#include "kernels/cpu/row_forms.h"

namespace drivlm::cpu {

const Forms kAvxVnniForms = {
    .tile_rows = forms_avxvnni::kTileRows,
    .gemm = forms_avxvnni::gemm,
    .gemm_scratch = forms_avxvnni::gemm_scratch,
    .pack_panel = forms_avxvnni::pack_panel,
    .attend = forms_avxvnni::attend,
    .attend_scratch = forms_avxvnni::attend_scratch,
    .merge = forms_avxvnni::merge,
    .append = forms_avxvnni::append,
    .layer_norm = forms_avxvnni::layer_norm,
    .rms_norm = forms_avxvnni::rms_norm,
    .scale_add = forms_avxvnni::scale_add,
    .rope = forms_avxvnni::rope,
    .log_sum_exp = forms_avxvnni::log_sum_exp,
};

}  // namespace drivlm::cpu
