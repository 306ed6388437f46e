// The fast kernels of one target, an instruction set: plain functions on pointers, one thread each. Every target fills the same table from
// the same sources, compiled for it; a family of kernels declares its part of the table in its own header.
#pragma once

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/packed_attention.h"
#include "kernels/cpu/packing.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/training_kernels.h"

namespace drivlm::cpu {

struct KernelTable : GemmKernels, AttentionKernels, RowKernels, TrainingKernels {
  PackPanel* pack_panel;
};

extern const KernelTable kPortableKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvxVnniKernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512Bf16Kernels;
extern const KernelTable kAmxKernels;
#elif defined(__aarch64__)
extern const KernelTable kNeonKernels;
#endif

}  // namespace drivlm::cpu
