#define DRIVLM_TIER forms_avx2
#include "kernels/cpu/attention_forms.h"
#include "kernels/cpu/gemm_forms.h"
#include "kernels/cpu/row_forms.h"

namespace drivlm::cpu {

const Forms kAvx2Forms = {
    .tile_rows = forms_avx2::kTileRows,
    .gemm = forms_avx2::gemm,
    .gemm_scratch = forms_avx2::gemm_scratch,
    .pack_panel = forms_avx2::pack_panel,
    .attend = forms_avx2::attend,
    .attend_scratch = forms_avx2::attend_scratch,
    .merge = forms_avx2::merge,
    .append = forms_avx2::append,
    .layer_norm = forms_avx2::layer_norm,
    .rms_norm = forms_avx2::rms_norm,
    .scale_add = forms_avx2::scale_add,
    .rope = forms_avx2::rope,
    .log_sum_exp = forms_avx2::log_sum_exp,
};

}  // namespace drivlm::cpu
