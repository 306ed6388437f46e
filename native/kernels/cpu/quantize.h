// Weights to 8 and 4 bits, at load. gemm.h has the formats.
#pragma once

#include <cstdint>

#include "kernels/cpu/gemm.h"

namespace drivlm::cpu {

// One row: q [k] and the scale, w = scale * q, the largest |q| 127. Returns the scale.
float quantize_s8(int8_t* q, const float* w, int64_t k);

// One panel of s4 from 32 rows of f32 (null: zeros).
void pack_s4_panel(void* panel, const float* const* rows, int64_t k);

}  // namespace drivlm::cpu
