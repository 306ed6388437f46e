// Panels as gemm.h and packed/formats.h describe them, in plain loops: what the kernels read in tests, and what packing is held to.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/numeric.h"
#include "kernels/cpu/gemm.h"
#include "packed/formats.h"

namespace drivlm::cpu {

// One panel of kind bf16, f32 or s8 from rows of such values [k] (null: zeros).
inline void pack_plain(char* panel, WeightKind kind, const void* const* rows, int64_t k) {
  const int64_t value_bytes = 4 / unit_depth(kind);
  std::memset(panel, 0, panel_bytes(kind, k));
  for (int64_t r = 0; r < kPanelRows; ++r) {
    for (int64_t i = 0; rows[r] && i < k; ++i) {
      const int64_t unit = i / unit_depth(kind), place = i % unit_depth(kind);
      std::memcpy(panel + unit * kUnitBytes + r * 4 + place * value_bytes,
                  static_cast<const char*>(rows[r]) + i * value_bytes, value_bytes);
    }
  }
}

// One panel of s4 from rows of f32 [k] (null: zeros).
inline void pack_plain_s4(char* panel, const float* const* rows, int64_t k) {
  for (int64_t first = 0; first < k; first += kS4Group, panel += kGroupBytes) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      int8_t q[kS4Group] = {};
      bf16 scale{};
      if (rows[r]) quantize_s4(q, &scale, rows[r] + first, std::min(kS4Group, k - first));
      for (int64_t u = 0; u < 4; ++u) {
        uint32_t word = 0;
        for (int64_t j = 0; j < 4; ++j) {
          const int8_t* pair = q + u * 8 + j * 2;
          word |= static_cast<uint32_t>(pair[0] + 8) << (4 * j) | static_cast<uint32_t>(pair[1] + 8) << (4 * j + 16);
        }
        std::memcpy(panel + u * kUnitBytes + r * 4, &word, 4);
      }
      std::memcpy(panel + 4 * kUnitBytes + r * 2, &scale, 2);
    }
  }
}

}  // namespace drivlm::cpu
