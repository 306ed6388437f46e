// LayerNorm, RMS norm, residual adds.
//
//   layer:  out = (x - mean) * rstd * weight + bias      variance of the centred values
//   rms:    out = T(x * rsqrt(mean(x^2) + eps)) * weight   rounded to T before the weight, as the reference

#include <cmath>
#include <cstring>

#include "kernels/cpu/plain.h"

namespace drivlm {

namespace {

template <class T>
void rms_row(T* out, const T* x, int64_t dim, const float* weight, float eps) {
  float* row = thread_buffer(0, dim);
  widen_row(row, x, dim);
  const float rstd = 1.0f / std::sqrt(dot(row, row, dim) / static_cast<float>(dim) + eps);
  for (int64_t i = 0; i < dim; ++i) out[i] = from_float<T>(to_float(from_float<T>(row[i] * rstd)) * weight[i]);
}

template <class T>
void layer_row(T* out, const T* x, int64_t dim, const float* weight, const float* bias, float eps) {
  float* row = thread_buffer(0, dim);
  widen_row(row, x, dim);
  double sum = 0;
  for (int64_t i = 0; i < dim; ++i) sum += row[i];
  const float mean = static_cast<float>(sum / dim);
  for (int64_t i = 0; i < dim; ++i) row[i] -= mean;
  const float rstd = 1.0f / std::sqrt(dot(row, row, dim) / static_cast<float>(dim) + eps);
  for (int64_t i = 0; i < dim; ++i) out[i] = from_float<T>(row[i] * rstd * weight[i] + bias[i]);
}

constexpr int64_t kRows = 16;

}  // namespace

void CpuOps::norm(Tensor out, Tensor x, const Norm& norm) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("norm", "out", out, {rows, dim});
  expect_shape("norm", "weight", norm.weight, {dim});
  if (norm.layer) expect_shape("norm", "bias", norm.bias, {dim});
  with_activation("norm", x.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(rows, kRows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const T* from = x.as<T>() + row * dim;
        T* to = out.as<T>() + row * dim;
        if (norm.layer) {
          layer_row(to, from, dim, norm.weight.as<float>(), norm.bias.as<float>(), norm.eps);
        } else {
          rms_row(to, from, dim, norm.weight.as<float>(), norm.eps);
        }
      }
    });
  });
}

void CpuOps::norm_columns(Tensor x, int64_t first_column, int64_t width, Tensor weight, float eps) {
  const int64_t rows = x.shape[0], stride = x.shape[1];
  expect_shape("norm_columns", "weight", weight, {width});
  with_activation("norm_columns", x.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(rows, kRows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        T* part = x.as<T>() + row * stride + first_column;
        rms_row(part, part, width, weight.as<float>(), eps);
      }
    });
  });
}

void CpuOps::scale_add(Tensor x, Tensor y, Tensor scale) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("scale_add", "y", y, {rows, dim});
  if (scale) expect_shape("scale_add", "scale", scale, {dim});
  with_activation("scale_add", x.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(rows, kRows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        T* to = x.as<T>() + row * dim;
        const T* from = y.as<T>() + row * dim;
        for (int64_t i = 0; i < dim; ++i) {
          const float add = scale ? to_float(from[i]) * scale.as<float>()[i] : to_float(from[i]);
          to[i] = from_float<T>(to_float(to[i]) + add);
        }
      }
    });
  });
}

void CpuOps::copy_rows(Tensor to, Tensor from) {
  expect_shape("copy_rows", "to", to, {from.shape[0], from.shape[1]});
  std::memcpy(to.data, from.data, from.bytes());
}

}  // namespace drivlm
