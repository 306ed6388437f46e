// Weights of 4 bits in panels. gemm.h has the layout, packed/formats.h the rounding.
#pragma once

#include <cstdint>

namespace drivlm::cpu {

// One panel of s4 from kPanelRows rows of f32 [k] (null: zeros).
void pack_s4_panel(void* panel, const float* const* rows, int64_t k);

}  // namespace drivlm::cpu
