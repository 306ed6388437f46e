// What is done a row at a time: norms, the residual add, rope. bf16 in and out, f32 between. Rows may be of any length.
//
//   layer norm  out = (x - mean) * rstd * weight + bias      variance of the centred values
//   RMS norm    out = bf16(x * rstd) * weight                rounded before the weight, as the reference
//   log sum exp the largest taken out first, f32 sums of 32 vectors, f64 sums of those
//   rope        (a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of a head; where it `spreads`, spread_head of that before it is rounded
#pragma once

#include <cstdint>

namespace drivlm::cpu {

// A target's part of its table.
struct RowKernels {
  void (*layer_norm)(uint16_t* out, const uint16_t* x, int64_t rows, int64_t dim, const float* weight,
                     const float* bias, float eps);
  void (*rms_norm)(uint16_t* out, const uint16_t* x, int64_t rows, int64_t stride, int64_t dim, const float* weight,
                   float eps);
  void (*scale_add)(uint16_t* x, const uint16_t* y, int64_t rows, int64_t dim, const float* scale);
  void (*rope)(uint16_t* x, int64_t heads, int64_t head_dim, const float* weight, float eps, const float* cos_sin,
               bool spreads);

  // ln sum exp of `count` logits, NaNs ignored, to 1e-6.
  double (*log_sum_exp)(const float* logits, int64_t count);
};

}  // namespace drivlm::cpu

#if defined(DRIVLM_CPU_TARGET)
#include "kernels/cpu/simd.h"
#include "kernels/cpu/spread.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

DRIVLM_INLINE float inverse_root(float v) {
#if defined(__AVX2__)
  return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v)));
#else
  return 1.0f / __builtin_sqrtf(v);
#endif
}

void layer_norm(uint16_t* out, const uint16_t* x, int64_t rows, int64_t dim, const float* weight, const float* bias,
                float eps) {
  for (int64_t r = 0; r < rows; ++r, out += dim, x += dim) {
    F total = F{};
    for (int64_t i = 0; i < dim; i += kWidth) total += load_first(x + i, dim - i);
    const F mean = splat(sum_of(total) / static_cast<float>(dim));
    F squares = F{};
    int64_t i = 0;
    for (; i + kWidth <= dim; i += kWidth) {
      const F v = to_f32(load_half(x + i)) - mean;
      squares += v * v;
    }
    float square = sum_of(squares);
    for (; i < dim; ++i) {
      const float v = scalar_f32(x[i]) - mean[0];
      square += v * v;
    }
    const F rstd = splat(inverse_root(square / static_cast<float>(dim) + eps));
    for (i = 0; i < dim; i += kWidth) {
      const int64_t left = dim - i;
      const F v = (load_first(x + i, left) - mean) * rstd;
      store_first(out + i, v * load_first(weight + i, left) + load_first(bias + i, left), left);
    }
  }
}

DRIVLM_INLINE void rms_row(uint16_t* out, const uint16_t* x, int64_t dim, const float* weight, float eps) {
  F squares = F{};
  for (int64_t i = 0; i < dim; i += kWidth) {
    const F v = load_first(x + i, dim - i);
    squares += v * v;
  }
  const F rstd = splat(inverse_root(sum_of(squares) / static_cast<float>(dim) + eps));
  for (int64_t i = 0; i < dim; i += kWidth) {
    const int64_t left = dim - i;
    store_first(out + i, to_f32(to_bf16(load_first(x + i, left) * rstd)) * load_first(weight + i, left), left);
  }
}

// Rows `stride` apart; out may be x.
void rms_norm(uint16_t* out, const uint16_t* x, int64_t rows, int64_t stride, int64_t dim, const float* weight,
              float eps) {
  for (int64_t r = 0; r < rows; ++r) rms_row(out + r * stride, x + r * stride, dim, weight, eps);
}

// x += scale * y; scale may be null.
void scale_add(uint16_t* x, const uint16_t* y, int64_t rows, int64_t dim, const float* scale) {
  for (int64_t r = 0; r < rows; ++r, x += dim, y += dim) {
    for (int64_t i = 0; i < dim; i += kWidth) {
      const int64_t left = dim - i;
      const F add = scale ? load_first(y + i, left) * load_first(scale + i, left) : load_first(y + i, left);
      store_first(x + i, load_first(x + i, left) + add, left);
    }
  }
}

// `heads` heads of one row in place: RMS norm if there is a weight, then the turn by cos_sin [head_dim]. What is spread are heads of 16, 32 … 128.
void rope(uint16_t* x, int64_t heads, int64_t head_dim, const float* weight, float eps, const float* cos_sin,
          bool spreads) {
  alignas(64) float wide[128];
  const int64_t half = head_dim / 2;
  for (int64_t h = 0; h < heads; ++h, x += head_dim) {
    F rstd = splat(1.0f);
    if (weight) {
      F squares = F{};
      for (int64_t i = 0; i < head_dim; i += kWidth) {
        const F v = load_first(x + i, head_dim - i);
        squares += v * v;
      }
      rstd = splat(inverse_root(sum_of(squares) / static_cast<float>(head_dim) + eps));
    }
    for (int64_t i = 0; i < half; i += kWidth) {
      const int64_t left = half - i;
      F a = load_first(x + i, left), b = load_first(x + half + i, left);
      if (weight) {
        a = to_f32(to_bf16(a * rstd)) * load_first(weight + i, left);
        b = to_f32(to_bf16(b * rstd)) * load_first(weight + half + i, left);
      }
      const F c = load_first(cos_sin + i, left), s = load_first(cos_sin + half + i, left);
      const F low = a * c - b * s, high = b * c + a * s;
      if (spreads) {
        store_first(wide + i, low + high, left);
        store_first(wide + half + i, low - high, left);
      } else {
        store_first(x + i, low, left);
        store_first(x + half + i, high, left);
      }
    }
    if (!spreads) continue;
    spread_halves(wide, head_dim);
    for (int64_t i = 0; i < head_dim; i += kWidth) store_half(x + i, to_bf16(load(wide + i)));
  }
}

double log_sum_exp(const float* logits, int64_t count) {
  constexpr int64_t kBlock = 32 * kWidth;  // values that are summed in f32
  F tops = splat(-__builtin_inff());
  for (int64_t i = 0; i < count; i += kWidth) {
    F v = load_first(logits + i, count - i);
    if (i + kWidth > count) v = first_lanes(v, count - i, -__builtin_inff());
    tops = max(v, tops);  // the second operand where the first is a NaN
  }
  const float top = max_of(tops);
  double sum = 0;
  for (int64_t block = 0; block < count; block += kBlock) {
    const int64_t end = min_of(count, block + kBlock);
    F total = F{};
    for (int64_t i = block; i < end; i += kWidth) {
      const F weight = exp2((load_first(logits + i, end - i) - top) * 1.44269504f);  // 0 for a NaN
      total += i + kWidth > end ? first_lanes(weight, end - i, 0.0f) : weight;
    }
    sum += static_cast<double>(sum_of(total));
  }
  return static_cast<double>(top) + __builtin_log(sum);
}

constexpr cpu::RowKernels kRows = {
    .layer_norm = layer_norm, .rms_norm = rms_norm, .scale_add = scale_add, .rope = rope, .log_sum_exp = log_sum_exp};

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
#endif
