#include "kernels/cpu/pack_s4.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm.h"
#include "packed/formats.h"

namespace drivlm::cpu {

static_assert(kGroupDepth == kS4Group);

void pack_s4_panel(void* panel, const float* const* rows, int64_t k) {
  char* group = static_cast<char*>(panel);
  for (int64_t first = 0; first < k; first += kGroupDepth, group += kGroupBytes) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      int8_t q[kGroupDepth] = {};
      bf16 scale{};
      if (rows[r]) quantize_s4(q, &scale, rows[r] + first, std::min(kGroupDepth, k - first));
      for (int64_t u = 0; u < 4; ++u) {
        uint32_t word = 0;
        for (int64_t j = 0; j < 4; ++j) {
          const int8_t* pair = q + u * 8 + j * 2;
          word |= static_cast<uint32_t>(pair[0] + 8) << (4 * j) | static_cast<uint32_t>(pair[1] + 8) << (4 * j + 16);
        }
        std::memcpy(group + u * kUnitBytes + r * 4, &word, 4);
      }
      std::memcpy(group + 4 * kUnitBytes + r * 2, &scale, 2);
    }
  }
}

}  // namespace drivlm::cpu
