// Plain matrix products: one weight row at a time, widened once, against every row of x.
//
//   out[r, n] = act(sum_k x[r, k] * w[n, k] + bias[n])
//
// x f32 | bf16 [rows, k], w as stored [n, k], out f32 | bf16 [rows, n]. Sums in f32.

#include <cmath>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/plain.h"

namespace drivlm {

namespace {

float gelu(float v) { return v * 0.5f * (1.0f + std::erf(v * 0.70710678118654752f)); }

float silu(float v) { return v / (1.0f + std::exp(-v)); }

const MappedMatrix& mapped(const char* op, const Matrix& w) {
  const auto* matrix = dynamic_cast<const MappedMatrix*>(&w);
  if (!matrix) throw Error(Code::internal, std::string(op) + ": not a plain CPU matrix");
  return *matrix;
}

// x [rows, k] as f32; a view of it when it is already.
const float* as_f32(Tensor x, std::vector<float>& storage) {
  if (x.dtype == DType::f32) return x.as<float>();
  storage.resize(x.count());
  widen_row(storage.data(), x.as<bf16>(), x.count());
  return storage.data();
}

constexpr int64_t kColumns = 8;  // weight rows a task widens at a time

// Rows gathered before a table's pages are given back. Each maps up to 64 KiB around it (Linux' fault-around): without this the process would
// come to hold the whole table, a seventh of InternVL2-1B, which lies in the page cache anyway.
constexpr int64_t kKeptRows = 256;

}  // namespace

void CpuOps::linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Act act) {
  const MappedMatrix& matrix = mapped("linear", w);
  const int64_t rows = x.shape[0], k = w.cols, n = w.rows;
  expect_shape("linear", "x", x, {rows, k});
  expect_shape("linear", "out", out, {rows, n});
  if (bias) expect_shape("linear", "bias", bias, {n});
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
          to[row * n + column] = from_float<T>(act == Act::gelu ? gelu(to_float(from_float<T>(sum))) : sum);
        }
      }
    });
  });
}

void CpuOps::linear_gated(Tensor out, Tensor x, const Matrix& gate_up) {
  const auto* matrix = dynamic_cast<const MappedGated*>(&gate_up);
  if (!matrix) throw Error(Code::internal, "linear_gated: not a plain CPU matrix");
  const int64_t rows = x.shape[0], k = matrix->cols, n = matrix->gate.rows;
  expect_shape("linear_gated", "x", x, {rows, k});
  expect_shape("linear_gated", "out", out, {rows, n});
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
          to[row * n + column] = from_float<T>(silu(dot(from, gate, k)) * dot(from, up, k));
        }
      }
    });
  });
}

void CpuOps::gather(Tensor out, const int32_t* ids, int64_t count, const Matrix& table) {
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

}  // namespace drivlm
