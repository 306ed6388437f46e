#define DRIVLM_TIER forms_avx512bf16
#include "kernels/cpu/attention_forms.h"
#include "kernels/cpu/gemm_forms.h"
#include "kernels/cpu/row_forms.h"

namespace drivlm::cpu {

const Forms kAvx512Bf16Forms = {
    .tile_rows = forms_avx512bf16::kTileRows,
    .gemm = forms_avx512bf16::gemm,
    .gemm_scratch = forms_avx512bf16::gemm_scratch,
    .pack_panel = forms_avx512bf16::pack_panel,
    .attend = forms_avx512bf16::attend,
    .attend_scratch = forms_avx512bf16::attend_scratch,
    .merge = forms_avx512bf16::merge,
    .append = forms_avx512bf16::append,
    .layer_norm = forms_avx512bf16::layer_norm,
    .rms_norm = forms_avx512bf16::rms_norm,
    .scale_add = forms_avx512bf16::scale_add,
    .rope = forms_avx512bf16::rope,
    .log_sum_exp = forms_avx512bf16::log_sum_exp,
};

}  // namespace drivlm::cpu
