// A target's table. The file that includes this defines DRIVLM_CPU_TARGET, the target's namespace, and DRIVLM_TABLE, the name of its table,
// and is compiled for the target. DRIVLM_PACKING is the namespace of what packs for its vectors (packing.h).
#include "kernels/cpu/attention_kernels.h"
#if defined(__AVXVNNI__) || defined(__ARM_FEATURE_DOTPROD) || (defined(__AVX512VNNI__) && !defined(__AMX_BF16__))
#include "kernels/cpu/attention_bytes.h"
#elif defined(__AVX2__) && !defined(__AVX512F__)
#include "kernels/cpu/attention_integers.h"
#endif
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/gemm_stream.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/training_kernels.h"

namespace drivlm::cpu {

const KernelTable DRIVLM_TABLE = {DRIVLM_CPU_TARGET::kGemm, DRIVLM_CPU_TARGET::kAttention, DRIVLM_CPU_TARGET::kRows,
                                  DRIVLM_CPU_TARGET::kTraining, DRIVLM_PACKING::pack_panel};

}  // namespace drivlm::cpu
