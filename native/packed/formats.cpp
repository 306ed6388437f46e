#include "packed/formats.h"

#include <algorithm>
#include <cmath>

namespace drivlm {

namespace {

// To the nearest, ties to even; |v| < 2^22. In a form that compilers do many values of at a time.
float nearest(float v) { return (v + 12582912.0f) - 12582912.0f; }

typedef float Four __attribute__((vector_size(16)));

// The nearest of -8..7; -8 for a NaN.
inline Four on_grid(Four v) {
  const Four q = (v + 12582912.0f) - 12582912.0f, above = q >= -8.0f ? q : Four{} - 8.0f;
  return above > 7.0f ? Four{} + 7.0f : above;
}

// The scale and q with the least squared error among grids whose far end (-8) lies at, or a little to either side of, the largest value.
// For fixed q the best scale is sum(w q) / sum(q q), and leaves sum(w w) - sum(w q)^2 / sum(q q). Grids are tried side by side, each sum in order.
float quantize_group(int8_t* best, const float* w) {
  constexpr int kGrids = 13;
  float top = 0;
  for (int64_t i = 0; i < kS4Group; ++i) {
    if (std::fabs(w[i]) > std::fabs(top)) top = w[i];
  }
  std::fill(best, best + kS4Group, int8_t{0});
  if (top == 0) return 0;
  Four inverse[4] = {}, wq[4] = {}, qq[4] = {};
  for (int grid = 0; grid < kGrids; ++grid) {
    inverse[grid / 4][grid % 4] = -(8.0f + 0.15f * static_cast<float>(grid - 6)) / top;
  }
  for (int64_t i = 0; i < kS4Group; ++i) {
    for (int four = 0; four < 4; ++four) {
      const Four q = on_grid(w[i] * inverse[four]);
      wq[four] += w[i] * q;
      qq[four] += q * q;
    }
  }
  float most = -1, scale = 0, chosen = 0;
  for (int grid = 0; grid < kGrids; ++grid) {
    const float sum = wq[grid / 4][grid % 4], square = qq[grid / 4][grid % 4];
    if (square == 0 || sum * sum <= most * square) continue;
    most = sum * sum / square;
    scale = sum / square;
    chosen = inverse[grid / 4][grid % 4];
  }
  for (int64_t i = 0; i < kS4Group; i += 4) {
    const Four q = on_grid(Four{w[i], w[i + 1], w[i + 2], w[i + 3]} * chosen);
    for (int j = 0; j < 4; ++j) best[i + j] = static_cast<int8_t>(q[j]);
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
    const float v = nearest(w[i] * inverse);
    q[i] = static_cast<int8_t>(v != v ? 0.0f : std::clamp(v, -127.0f, 127.0f));
  }
  return top / 127.0f;
}

void spread_head(float* v, int64_t dim) {
  const auto meet = [&](int64_t low, int64_t high) {
    const float a = v[low], b = v[high];
    v[low] = a + b;
    v[high] = a - b;
  };
  const int64_t half = dim / 2, part = half & -half;
  for (int64_t i = 0; i < half; ++i) meet(i, i + half);
  for (int64_t step = 1; step < part; step *= 2) {
    for (int64_t i = 0; i < dim; ++i) {
      if ((i & step) == 0) meet(i, i + step);
    }
  }
  const float root = 1.0f / std::sqrt(static_cast<float>(2 * part));
  for (int64_t i = 0; i < dim; ++i) v[i] *= root;
}

void quantize_s4(int8_t* q, bf16* scales, const float* w, int64_t k) {
  for (int64_t first = 0; first < k; first += kS4Group) {
    float group[kS4Group] = {};
    std::copy(w + first, w + std::min(first + kS4Group, k), group);
    *scales++ = from_float<bf16>(quantize_group(q + first, group));
  }
}

}  // namespace drivlm
