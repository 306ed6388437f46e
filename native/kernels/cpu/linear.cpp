// Plain matrix products: one weight row at a time, widened once, against every row of x.
//
//   out[r, n] = act(sum_k x[r, k] * w[n, k] + bias[n])
//
// x f32 | bf16 [rows, k], w as stored [n, k], out f32 | bf16 [rows, n]. Sums in f32.

#include <cmath>
#include <type_traits>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/training_ops.h"

namespace drivlm {

namespace {

float gelu(float v) { return v * 0.5f * (1.0f + std::erf(v * 0.70710678118654752f)); }

float silu(float v) { return v / (1.0f + std::exp(-v)); }

const MappedMatrix& mapped(const char* op, const Matrix& w) {
  const auto* matrix = dynamic_cast<const MappedMatrix*>(&w);
  if (!matrix) throw Error(Code::internal, std::string(op) + ": not a reference CPU matrix");
  return *matrix;
}

// x [rows, k] as f32; a view of it when it is already.
const float* as_f32(Tensor x, std::vector<float>& storage) {
  if (x.dtype == DType::f32) return x.as<float>();
  storage.resize(x.count());
  widen_row(storage.data(), x.as<bf16>(), x.count());
  return storage.data();
}

constexpr int64_t kGradientRows = 8;  // rows a task of a gradient takes

constexpr int64_t kColumns = 8;  // weight rows a task widens at a time

// Rows gathered before a table's pages are given back. Each maps up to 64 KiB around it (Linux' fault-around): without this the process would
// come to hold the whole table, a seventh of InternVL2-1B, which lies in the page cache anyway.
constexpr int64_t kKeptRows = 256;

}  // namespace

void ReferenceOps::linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) {
  linear_of(out, {}, x, w, bias, after);
}

void ReferenceOps::linear_gelu(Tensor out, Tensor before, Tensor x, const Matrix& w, Tensor bias) {
  linear_of(out, before, x, w, bias, Epilogue::gelu);
}

void ReferenceOps::linear_of(Tensor out, Tensor before, Tensor x, const Matrix& w, Tensor bias, Epilogue after) {
  const MappedMatrix& matrix = mapped("linear", w);
  const int64_t rows = x.shape[0], k = w.cols, n = w.rows;
  expect_shape("linear", "x", x, {rows, k});
  expect_shape("linear", "out", out, {rows, n});
  if (bias) expect_shape("linear", "bias", bias, {n});
  if (before) expect_shape("linear", "before", before, {rows, n});
  float* kept = before.as<float>();
  static thread_local std::vector<float> storage;
  const float* in = as_f32(x, storage);
  with_activation("linear", out.dtype, [&](auto type) {
    using T = decltype(type);
    T* to = out.as<T>();
    parallel(n, kColumns, [&](int64_t first, int64_t last) {
      float* weight = thread_buffer(0, k);
      for (int64_t column = first; column < last; ++column) {
        matrix.row(column, weight);
        const float b = bias ? bias.as<float>()[column] : 0.0f;
        for (int64_t row = 0; row < rows; ++row) {
          const float sum = dot(in + row * k, weight, k) + b;
          if (kept) kept[row * n + column] = sum;
          to[row * n + column] = from_float<T>(after == Epilogue::gelu ? gelu(to_float(from_float<T>(sum))) : sum);
        }
      }
    });
  });
}

void ReferenceOps::linear_gated(Tensor out, Tensor x, const Matrix& gate_up) { linear_gated_from(out, {}, x, gate_up); }

void ReferenceOps::linear_gated_from(Tensor out, Tensor before, Tensor x, const Matrix& gate_up) {
  const auto* matrix = dynamic_cast<const MappedGated*>(&gate_up);
  if (!matrix) throw Error(Code::internal, "linear_gated: not a reference CPU matrix");
  const int64_t rows = x.shape[0], k = matrix->cols, n = matrix->gate.rows;
  expect_shape("linear_gated", "x", x, {rows, k});
  expect_shape("linear_gated", "out", out, {rows, n});
  if (before) expect_shape("linear_gated", "before", before, {rows, 2 * n});
  float* kept = before.as<float>();
  static thread_local std::vector<float> storage;
  const float* in = as_f32(x, storage);
  with_activation("linear_gated", out.dtype, [&](auto type) {
    using T = decltype(type);
    T* to = out.as<T>();
    parallel(n, kColumns, [&](int64_t first, int64_t last) {
      float* gate = thread_buffer(0, k);
      float* up = thread_buffer(1, k);
      for (int64_t column = first; column < last; ++column) {
        matrix->gate.row(column, gate);
        matrix->up.row(column, up);
        for (int64_t row = 0; row < rows; ++row) {
          const float* from = in + row * k;
          const float g = dot(from, gate, k), u = dot(from, up, k);
          if (kept) kept[row * 2 * n + column] = g, kept[row * 2 * n + n + column] = u;
          to[row * n + column] = from_float<T>(silu(g) * u);
        }
      }
    });
  });
}

void ReferenceOps::gather(Tensor out, const int32_t* ids, int64_t count, const Matrix& table) {
  const MappedMatrix& matrix = mapped("gather", table);
  expect_shape("gather", "out", out, {count, table.cols});
  with_activation("gather", out.dtype, [&](auto type) {
    using T = decltype(type);
    float* row = thread_buffer(0, table.cols);
    for (int64_t i = 0; i < count; ++i) {
      if (ids[i] < 0 || ids[i] >= table.rows) throw Error(Code::internal, "gather: id out of range");
      matrix.row(ids[i], row);
      narrow_row(out.as<T>() + i * table.cols, row, table.cols);
    }
  });
  gathered_ += count;
  if (gathered_ < kKeptRows) return;
  gathered_ = 0;
  matrix.drop(0, matrix.rows);
}

// ---- training's forward pass: products in the target's matrix form, activations in vectors ----

void TrainingOps::multiply(const char* op, Tensor out, Tensor x, const Matrix& w, Tensor bias) {
  const auto* matrix = dynamic_cast<const TrainedMatrix*>(&w);
  if (!matrix) throw Error(Code::internal, std::string(op) + ": not a matrix in training");
  const int64_t rows = x.shape[0], k = w.cols, n = w.rows;
  expect_shape(op, "x", x, {rows, k});
  expect_shape(op, "out", out, {rows, n});
  if (bias) expect_shape(op, "bias", bias, {n});
  if (x.dtype != DType::f32 || out.dtype != DType::f32) throw Error(Code::internal, std::string(op) + ": expected f32");
  cpu::product<float>(kernels_, pool_, space_, out.as<float>(), n, {x.as<float>(), k}, {matrix->data, k}, rows, n, k,
                      false, bias.as<float>());
}

void TrainingOps::linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) {
  if (after == Epilogue::gelu) return linear_gelu(out, out, x, w, bias);
  multiply("linear", out, x, w, bias);
}

void TrainingOps::linear_gelu(Tensor out, Tensor before, Tensor x, const Matrix& w, Tensor bias) {
  multiply("linear_gelu", before, x, w, bias);
  const int64_t rows = out.shape[0], n = out.shape[1];
  expect_shape("linear_gelu", "out", out, {x.shape[0], w.rows});
  parallel(rows, kGradientRows, [&](int64_t first, int64_t last) {
    kernels_.gelu(out.as<float>() + first * n, before.as<float>() + first * n, (last - first) * n);
  });
}

void TrainingOps::linear_gated(Tensor out, Tensor x, const Matrix& gate_up) {
  const int64_t rows = x.shape[0];
  if (static_cast<int64_t>(gate_up_.size()) < rows * gate_up.rows) gate_up_.resize(rows * gate_up.rows);
  linear_gated_from(out, Tensor(gate_up_.data(), DType::f32, {rows, gate_up.rows}), x, gate_up);
}

void TrainingOps::linear_gated_from(Tensor out, Tensor gate_up, Tensor x, const Matrix& w) {
  const int64_t rows = x.shape[0], n = w.rows / 2;
  expect_shape("linear_gated", "out", out, {rows, n});
  multiply("linear_gated", gate_up, x, w, {});
  parallel(rows, kGradientRows, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float* gate = gate_up.as<float>() + row * 2 * n;
      kernels_.gated(out.as<float>() + row * n, gate, gate + n, n);
    }
  });
}

// ---- gradients ----
//
//   dx = dy W          dW += dy^T x          dbias += sum of dy's rows
//   gelu:  du = dy * (Phi(u) + u phi(u))
//   gated: y = silu(g) u    dg = dy u sigma(g) (1 + g (1 - sigma(g)))    du = dy silu(g)

void CpuGradients::linear_input(Tensor dx, Tensor dy, Tensor w) {
  const int64_t rows = dy.shape[0], n = w.shape[0], k = w.shape[1];
  expect_shape("linear_input", "dy", dy, {rows, n});
  expect_shape("linear_input", "dx", dx, {rows, k});
  with_real("linear_input", dy.dtype, [&](auto type) {
    using T = decltype(type);
    const cpu::Factor<T> from{dy.as<T>(), n}, weight{w.as<T>(), k, false};
    cpu::product<T>(kernels_, pool_, space_, dx.as<T>(), k, from, weight, rows, k, n, false);
  });
}

void CpuGradients::linear_weight(Tensor d_weight, Tensor d_bias, Tensor dy, Tensor x) {
  const int64_t rows = dy.shape[0], n = dy.shape[1], k = x.shape[1];
  expect_shape("linear_weight", "x", x, {rows, k});
  if (d_weight) expect_shape("linear_weight", "d_weight", d_weight, {n, k});
  if (d_bias) expect_shape("linear_weight", "d_bias", d_bias, {n});
  with_real("linear_weight", dy.dtype, [&](auto type) {
    using T = decltype(type);
    if (d_weight) {
      const cpu::Factor<T> left{dy.as<T>(), n, false}, right{x.as<T>(), k, false};
      cpu::product<T>(kernels_, pool_, space_, d_weight.as<T>(), k, left, right, n, k, rows, true);
    }
    if (!d_bias) return;
    sum_rows<T>(d_bias.as<T>(), rows, n, [&](T* sums, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const T* from = dy.as<T>() + row * n;
        for (int64_t i = 0; i < n; ++i) sums[i] += from[i];
      }
    });
  });
}

void CpuGradients::gelu(Tensor du, Tensor dy, Tensor u) {
  const int64_t rows = u.shape[0], n = u.shape[1];
  expect_shape("gelu", "dy", dy, {rows, n});
  expect_shape("gelu", "du", du, {rows, n});
  with_real("gelu", u.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(rows, kGradientRows, [&](int64_t first, int64_t last) {
      if constexpr (std::is_same_v<T, float>) {
        return kernels_.gelu_gradient(du.as<T>() + first * n, dy.as<T>() + first * n, u.as<T>() + first * n,
                                      (last - first) * n);
      }
      for (int64_t i = first * n; i < last * n; ++i) {
        const T v = u.as<T>()[i];
        const T cdf = T(0.5) * (T(1) + std::erf(v * T(0.70710678118654752440)));
        const T density = std::exp(T(-0.5) * v * v) * T(0.39894228040143267794);
        du.as<T>()[i] = dy.as<T>()[i] * (cdf + v * density);
      }
    });
  });
}

void CpuGradients::gated(Tensor d_gate_up, Tensor dy, Tensor gate_up) {
  const int64_t rows = dy.shape[0], n = dy.shape[1];
  expect_shape("gated", "gate_up", gate_up, {rows, 2 * n});
  expect_shape("gated", "d_gate_up", d_gate_up, {rows, 2 * n});
  with_real("gated", dy.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(rows, kGradientRows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const T* gate = gate_up.as<T>() + row * 2 * n;
        const T* from = dy.as<T>() + row * n;
        T* to = d_gate_up.as<T>() + row * 2 * n;
        if constexpr (std::is_same_v<T, float>) {
          kernels_.gated_gradient(to, to + n, from, gate, gate + n, n);
          continue;
        }
        for (int64_t i = 0; i < n; ++i) {
          const T g = gate[i], up = gate[n + i], sigma = T(1) / (T(1) + std::exp(-g));
          to[i] = from[i] * up * sigma * (T(1) + g * (T(1) - sigma));
          to[n + i] = from[i] * g * sigma;
        }
      }
    });
  });
}

void CpuGradients::gather(Tensor d_table, const int32_t* ids, int64_t count, Tensor dx) {
  const int64_t dim = dx.shape[1];
  expect_shape("gather", "dx", dx, {count, dim});
  expect_shape("gather", "d_table", d_table, {d_table.shape[0], dim});
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= d_table.shape[0]) throw Error(Code::internal, "gather: id out of range");
  }
  with_real("gather", dx.dtype, [&](auto type) {
    using T = decltype(type);
    // Columns are dealt, so that the rows of an id that stands twice are added in order.
    parallel(dim, 64, [&](int64_t first, int64_t last) {
      for (int64_t i = 0; i < count; ++i) {
        if (ids[i] < 0) continue;
        T* to = d_table.as<T>() + ids[i] * dim;
        const T* from = dx.as<T>() + i * dim;
        for (int64_t d = first; d < last; ++d) to[d] += from[d];
      }
    });
  });
}

}  // namespace drivlm
