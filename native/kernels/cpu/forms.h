// The fast forms of one tier of CPUs: plain functions on pointers, one thread each. Every tier fills the same table
// from the same sources, compiled for it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/packed_attention.h"

namespace drivlm::cpu {

struct Forms {
  int tile_rows;  // rows of the largest register tile

  // Rows [row0, row1) and panels [panel0, panel1) of a product. scratch: gemm_scratch bytes, 64-byte aligned.
  void (*gemm)(const GemmJob& job, int64_t row0, int64_t row1, int64_t panel0, int64_t panel1, void* scratch);
  size_t (*gemm_scratch)(int64_t rows, int64_t k);

  // One panel from 32 rows of bf16, f32 or s8 at `rows` (null: zeros), k values each. s4: pack_s4.h.
  void (*pack_panel)(void* panel, WeightKind kind, const void* const* rows, int64_t k);

  // packed_attention.h: queries over tokens [token0, token1), token0 at the start of a chunk; parts of one query to its
  // result; rows to a block.
  void (*attend)(const AttendJob& job, const AttendRow* rows, int64_t count, int64_t token0, int64_t token1,
                 void* scratch);
  size_t (*attend_scratch)();
  void (*merge)(uint16_t* out, const float* parts, int64_t stride, const int64_t* slots, int64_t count, int64_t dim);
  void (*append)(char* block, const KvLayout& layout, const uint16_t* keys, const uint16_t* values, int64_t stride,
                 int64_t first, int64_t tokens);

  // row_forms.h: bf16 rows.
  void (*layer_norm)(uint16_t* out, const uint16_t* x, int64_t rows, int64_t dim, const float* weight,
                     const float* bias, float eps);
  void (*rms_norm)(uint16_t* out, const uint16_t* x, int64_t rows, int64_t stride, int64_t dim, const float* weight,
                   float eps);
  void (*scale_add)(uint16_t* x, const uint16_t* y, int64_t rows, int64_t dim, const float* scale);
  void (*rope)(uint16_t* x, int64_t heads, int64_t head_dim, const float* weight, float eps, const float* cos_sin);

  // ln sum exp of `count` logits, NaNs ignored, to 1e-6.
  double (*log_sum_exp)(const float* logits, int64_t count);
};

extern const Forms kPortableForms;
#if defined(__x86_64__)
extern const Forms kAvx2Forms;
extern const Forms kAvxVnniForms;
extern const Forms kAvx512Forms;
extern const Forms kAvx512Bf16Forms;
#elif defined(__aarch64__)
extern const Forms kNeonForms;
#endif

}  // namespace drivlm::cpu
