#include "kernels/cpu/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/numeric.h"

namespace drivlm::cpu {

namespace {

constexpr int64_t kDepth = kGroupDepth;

// q - 8 of each value for a grid of step 1 / inverse.
void round_group(int8_t* q, const float* w, float inverse) {
  for (int64_t i = 0; i < kDepth; ++i)
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyintf(w[i] * inverse), -8.0f, 7.0f));
}

// The scale and q - 8 with the least squared error among grids whose far end (-8) lies at, or a little to either side
// of, the largest value. For fixed q the best scale is sum(w q) / sum(q q), and leaves sum(w w) - sum(w q)^2 / sum(q
// q).
float quantize_group(int8_t* best, const float* w) {
  float top = 0;
  for (int64_t i = 0; i < kDepth; ++i) {
    if (std::fabs(w[i]) > std::fabs(top)) top = w[i];
  }
  std::fill(best, best + kDepth, int8_t{0});
  if (top == 0) return 0;
  float most = -1, scale = 0;
  for (int step = -6; step <= 6; ++step) {
    int8_t q[kDepth];
    round_group(q, w, -(8.0f + 0.15f * static_cast<float>(step)) / top);
    float wq = 0, qq = 0;
    for (int64_t i = 0; i < kDepth; ++i) {
      wq += w[i] * q[i];
      qq += static_cast<float>(q[i] * q[i]);
    }
    if (qq == 0 || wq * wq <= most * qq) continue;
    most = wq * wq / qq;
    scale = wq / qq;
    std::copy(q, q + kDepth, best);
  }
  return scale;
}

}  // namespace

float quantize_s8(int8_t* q, const float* w, int64_t k) {
  float top = 0;
  for (int64_t i = 0; i < k; ++i) top = std::max(top, std::fabs(w[i]));
  const float inverse = top > 0 ? 127.0f / top : 0.0f;
  for (int64_t i = 0; i < k; ++i)
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyintf(w[i] * inverse), -127.0f, 127.0f));
  return top / 127.0f;
}

void pack_s4_panel(void* panel, const float* const* rows, int64_t k) {
  char* group = static_cast<char*>(panel);
  for (int64_t first = 0; first < k; first += kDepth, group += kGroupBytes) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      float w[kDepth] = {};
      if (rows[r]) std::copy(rows[r] + first, rows[r] + std::min(first + kDepth, k), w);
      int8_t q[kDepth];
      const bf16 scale = from_float<bf16>(quantize_group(q, w));
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
