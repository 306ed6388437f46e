// Weights as a checkpoint stores them -> a panel (gemm.h): transposed, and rounded or quantised on the way.
#pragma once

#include <cstdint>

#include "kernels/cpu/gemm.h"

namespace drivlm::cpu {

// The 32 rows of a panel where they are stored, k values each, at any address; null: zeros.
struct StoredRows {
  const char* row[kPanelRows] = {};
  bool f32 = false;  // else bf16
  int64_t k = 0;
};

// Fills `panel` [panel_bytes(kind, k)] of kind bf16, s8 or s4 and, of s8, `scales` and `sums` [32]. The bytes are those of quantize_s8 and
// quantize_s4 (packed/formats.h) on every target.
using PackPanel = void(char* panel, float* scales, int32_t* sums, WeightKind kind, const StoredRows& rows);

}  // namespace drivlm::cpu

// One body, compiled for each vector width: packing_*.cpp. Targets of the same width share it.
namespace drivlm::on_avx512 {
cpu::PackPanel pack_panel;
}
namespace drivlm::on_avx2 {
cpu::PackPanel pack_panel;
}
namespace drivlm::on_portable {
cpu::PackPanel pack_panel;
}
