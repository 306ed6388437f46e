// LayerNorm, RMS norm, residual adds.
//
//   layer:  out = (x - mean) * rstd * weight + bias      variance of the centred values
//   rms:    out = T(x * rsqrt(mean(x^2) + eps)) * weight   rounded to T before the weight, as the reference

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/reference.h"

namespace drivlm {

namespace {

// The sum of value(i) for i in [0, count), in eight lanes: one sum alone waits for each of its additions.
template <class Sum, class Value>
Sum sum_in_lanes(int64_t count, const Value& value) {
  constexpr int64_t kLanes = 8;
  Sum lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += value(i + lane);
  }
  for (; i < count; ++i) lanes[i % kLanes] += value(i);
  Sum sum = 0;
  for (const Sum lane : lanes) sum += lane;
  return sum;
}

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
  const double sum = sum_in_lanes<double>(dim, [&](int64_t i) { return row[i]; });
  const float mean = static_cast<float>(sum / dim);
  for (int64_t i = 0; i < dim; ++i) row[i] -= mean;
  const float rstd = 1.0f / std::sqrt(dot(row, row, dim) / static_cast<float>(dim) + eps);
  for (int64_t i = 0; i < dim; ++i) out[i] = from_float<T>(row[i] * rstd * weight[i] + bias[i]);
}

constexpr int64_t kRows = 16;

// Of one row, with n = (x - mean) * rstd (rms: mean 0) and g = dy * weight:
//   dx = rstd * (g - mean(g) - n * mean(g * n))       rms: without mean(g)
//   d_weight += dy * n        d_bias += dy
// add: to dx; dx may then not be dy. d_weight and d_bias may be null.
template <class T>
void norm_gradient(T* dx, T* d_weight, T* d_bias, const T* dy, const T* x, const T* weight, int64_t dim, double eps,
                   bool layer, bool add) {
  T mean = 0;
  if (layer) mean = static_cast<T>(sum_in_lanes<double>(dim, [&](int64_t i) { return x[i]; }) / dim);
  const T squares = sum_in_lanes<T>(dim, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const T rstd = T(1) / std::sqrt(squares / static_cast<T>(dim) + static_cast<T>(eps));
  const auto n = [&](int64_t i) { return (x[i] - mean) * rstd; };
  const auto g = [&](int64_t i) { return dy[i] * weight[i]; };
  const T mean_g = layer ? sum_in_lanes<T>(dim, g) / static_cast<T>(dim) : T(0);
  const T mean_gn = sum_in_lanes<T>(dim, [&](int64_t i) { return g(i) * n(i); }) / static_cast<T>(dim);
  for (int64_t i = 0; i < dim && d_weight; ++i) d_weight[i] += dy[i] * n(i);
  for (int64_t i = 0; i < dim && d_bias; ++i) d_bias[i] += dy[i];
  const auto slope = [&](int64_t i) { return rstd * (g(i) - mean_g - n(i) * mean_gn); };
  if (add) {
    for (int64_t i = 0; i < dim; ++i) dx[i] += slope(i);
  } else {
    for (int64_t i = 0; i < dim; ++i) dx[i] = slope(i);
  }
}

}  // namespace

void ReferenceOps::norm(Tensor out, Tensor x, const Norm& norm) {
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

void ReferenceOps::norm_columns(Tensor x, int64_t first_column, int64_t width, Tensor weight, float eps) {
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

void ReferenceOps::scale_add(Tensor x, Tensor y, Tensor scale) {
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

void ReferenceOps::scale_groups(Tensor x, const float* factors, int64_t rows) {
  const int64_t dim = x.shape[1];
  if (x.shape[0] % rows != 0) throw Error(Code::internal, "scale_groups: a group in part");
  with_activation("scale_groups", x.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(x.shape[0], kRows, [&](int64_t first, int64_t last) {
      for (int64_t i = first * dim; i < last * dim; ++i) {
        T& value = x.as<T>()[i];
        value = from_float<T>(to_float(value) * factors[i / dim / rows]);
      }
    });
  });
}

void ReferenceOps::copy_rows(Tensor to, Tensor from) {
  expect_shape("copy_rows", "to", to, {from.shape[0], from.shape[1]});
  std::memcpy(to.data, from.data, from.bytes());
}

// ---- gradients ----

void CpuGradients::norm(Tensor dx, Tensor d_weight, Tensor d_bias, Tensor dy, Tensor x, const Norm& norm) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("norm gradient", "dy", dy, {rows, dim});
  expect_shape("norm gradient", "dx", dx, {rows, dim});
  expect_shape("norm gradient", "weight", norm.weight, {dim});
  if (d_weight) expect_shape("norm gradient", "d_weight", d_weight, {dim});
  if (d_bias) expect_shape("norm gradient", "d_bias", d_bias, {dim});
  with_real("norm gradient", x.dtype, [&](auto type) {
    using T = decltype(type);
    T* parts = memory<T>(1, 2 * dim);
    std::fill(parts, parts + 2 * dim, T{0});
    sum_rows<T>(parts, rows, 2 * dim, [&](T* sums, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        norm_gradient(dx.as<T>() + row * dim, d_weight ? sums : nullptr, d_bias ? sums + dim : nullptr,
                      dy.as<T>() + row * dim, x.as<T>() + row * dim, norm.weight.as<T>(), dim, norm.eps, norm.layer,
                      true);
      }
    });
    for (int64_t i = 0; i < dim && d_weight; ++i) d_weight.as<T>()[i] += parts[i];
    for (int64_t i = 0; i < dim && d_bias; ++i) d_bias.as<T>()[i] += parts[dim + i];
  });
}

void CpuGradients::norm_columns(Tensor d, Tensor d_weight, Tensor x, int64_t first_column, int64_t width, Tensor weight,
                                double eps) {
  const int64_t rows = x.shape[0], stride = x.shape[1];
  expect_shape("norm_columns gradient", "d", d, {rows, stride});
  expect_shape("norm_columns gradient", "weight", weight, {width});
  if (d_weight) expect_shape("norm_columns gradient", "d_weight", d_weight, {width});
  with_real("norm_columns gradient", x.dtype, [&](auto type) {
    using T = decltype(type);
    sum_rows<T>(d_weight ? d_weight.as<T>() : nullptr, rows, width, [&](T* sums, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        T* part = d.as<T>() + row * stride + first_column;
        norm_gradient(part, d_weight ? sums : nullptr, static_cast<T*>(nullptr), part,
                      x.as<T>() + row * stride + first_column, weight.as<T>(), width, eps, false, false);
      }
    });
  });
}

void CpuGradients::scale_add(Tensor dy, Tensor d_scale, Tensor dx, Tensor y, Tensor scale) {
  const int64_t rows = dx.shape[0], dim = dx.shape[1];
  expect_shape("scale_add gradient", "dy", dy, {rows, dim});
  if (scale) expect_shape("scale_add gradient", "scale", scale, {dim});
  if (d_scale) expect_shape("scale_add gradient", "y", y, {rows, dim});
  with_real("scale_add gradient", dx.dtype, [&](auto type) {
    using T = decltype(type);
    if (d_scale) {
      sum_rows<T>(d_scale.as<T>(), rows, dim, [&](T* sums, int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
          const T *a = dx.as<T>() + row * dim, *b = y.as<T>() + row * dim;
          for (int64_t i = 0; i < dim; ++i) sums[i] += a[i] * b[i];
        }
      });
    }
    parallel(rows, kRows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        T* to = dy.as<T>() + row * dim;
        const T* from = dx.as<T>() + row * dim;
        for (int64_t i = 0; i < dim; ++i) to[i] = scale ? from[i] * scale.as<T>()[i] : from[i];
      }
    });
  });
}

}  // namespace drivlm
