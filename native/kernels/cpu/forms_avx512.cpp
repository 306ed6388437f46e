#define DRIVLM_TIER forms_avx512
#include "kernels/cpu/attention_forms.h"
#include "kernels/cpu/gemm_forms.h"
#include "kernels/cpu/row_forms.h"

namespace drivlm::cpu {

const Forms kAvx512Forms = {
    .tile_rows = forms_avx512::kTileRows,
    .gemm = forms_avx512::gemm,
    .gemm_scratch = forms_avx512::gemm_scratch,
    .pack_panel = forms_avx512::pack_panel,
    .attend = forms_avx512::attend,
    .attend_scratch = forms_avx512::attend_scratch,
    .merge = forms_avx512::merge,
    .append = forms_avx512::append,
    .layer_norm = forms_avx512::layer_norm,
    .rms_norm = forms_avx512::rms_norm,
    .scale_add = forms_avx512::scale_add,
    .rope = forms_avx512::rope,
    .log_sum_exp = forms_avx512::log_sum_exp,
};

}  // namespace drivlm::cpu
