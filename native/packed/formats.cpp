#include "packed/formats.h"

#include <algorithm>
#include <cmath>

namespace drivlm {

namespace {

// q of each value for a grid of step 1 / inverse.
void round_group(int8_t* q, const float* w, float inverse) {
  for (int64_t i = 0; i < kS4Group; ++i) {
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyintf(w[i] * inverse), -8.0f, 7.0f));
  }
}

// The scale and q with the least squared error among grids whose far end (-8) lies at, or a little to either side of, the largest value.
// For fixed q the best scale is sum(w q) / sum(q q), and leaves sum(w w) - sum(w q)^2 / sum(q q).
float quantize_group(int8_t* best, const float* w) {
  float top = 0;
  for (int64_t i = 0; i < kS4Group; ++i) {
    if (std::fabs(w[i]) > std::fabs(top)) top = w[i];
  }
  std::fill(best, best + kS4Group, int8_t{0});
  if (top == 0) return 0;
  float most = -1, scale = 0;
  for (int step = -6; step <= 6; ++step) {
    int8_t q[kS4Group];
    round_group(q, w, -(8.0f + 0.15f * static_cast<float>(step)) / top);
    float wq = 0, qq = 0;
    for (int64_t i = 0; i < kS4Group; ++i) {
      wq += w[i] * q[i];
      qq += static_cast<float>(q[i] * q[i]);
    }
    if (qq == 0 || wq * wq <= most * qq) continue;
    most = wq * wq / qq;
    scale = wq / qq;
    std::copy(q, q + kS4Group, best);
  }
  return scale;
}

}  // namespace

Encoding encoding_of(WeightFormat format, Use use) {
  if (format == WeightFormat::bf16 || use == Use::patches) return Encoding::bf16;
  return format == WeightFormat::int4 && use == Use::decoder ? Encoding::s4 : Encoding::s8;
}

float quantize_s8(int8_t* q, const float* w, int64_t k) {
  float top = 0;
  for (int64_t i = 0; i < k; ++i) top = std::max(top, std::fabs(w[i]));
  const float inverse = top > 0 ? 127.0f / top : 0.0f;
  for (int64_t i = 0; i < k; ++i) {
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyintf(w[i] * inverse), -127.0f, 127.0f));
  }
  return top / 127.0f;
}

void quantize_s4(int8_t* q, bf16* scales, const float* w, int64_t k) {
  for (int64_t first = 0; first < k; first += kS4Group) {
    float group[kS4Group] = {};
    std::copy(w + first, w + std::min(first + kS4Group, k), group);
    *scales++ = from_float<bf16>(quantize_group(q + first, group));
  }
}

}  // namespace drivlm
