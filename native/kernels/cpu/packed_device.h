// The fast CPU backend: weights packed at this load or an earlier one, activations and cache in bf16, kernels for this CPU's instruction set.
// Ops that it does not do faster it inherits from the reference backend, which tests hold it to.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_attention.h"
#include "kernels/cpu/pool_workers.h"

namespace drivlm {

struct CpuFormat {
  WeightFormat weights = WeightFormat::bf16;
  bool int8_activations = false;  // of matrices in 8 bits, when there are many rows: vision and prefill
};

// A matrix in panels (gemm.h).
class PackedMatrix : public Matrix {
 public:
  // Takes over bytes(kind, rows, cols) of memory, 64-byte aligned: the panels and, of s8, a scale and a sum for each of their rows.
  PackedMatrix(cpu::WeightKind kind, int64_t rows, int64_t cols, bool gated, std::unique_ptr<Memory> memory);

  static size_t bytes(cpu::WeightKind kind, int64_t rows, int64_t cols);

  char* panels() const { return static_cast<char*>(memory_->data); }
  // Of s8 only.
  float* scales() const { return reinterpret_cast<float*>(panels() + cpu::packed_bytes(kind, rows, cols)); }
  int32_t* sums() const { return reinterpret_cast<int32_t*>(scales() + cpu::panel_count(rows) * cpu::kPanelRows); }

  const cpu::WeightKind kind;
  const bool gated;

 private:
  std::unique_ptr<Memory> memory_;
};

class PackedCpuOps : public ReferenceOps {
 public:
  PackedCpuOps(Device& device, int threads, const cpu::KernelTable& kernels, bool int8_activations);

  void attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) override;
  void linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) override;
  void linear_add(Tensor x, Tensor in, const Matrix& w, Tensor bias, Tensor scale, Tensor scratch) override;
  void linear_gated(Tensor out, Tensor x, const Matrix& gate_up) override;
  void scale_add(Tensor x, Tensor y, Tensor scale) override;
  void norm(Tensor out, Tensor x, const Norm& norm) override;
  void norm_columns(Tensor x, int64_t first, int64_t width, Tensor weight, float eps) override;
  void begin_batch(const Batch& batch) override;
  void rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv, int64_t layer,
                   int64_t heads, const Batch& batch) override;
  void attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) override;
  void copy_page(Kv kv, int32_t from, int32_t to) override;
  void read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) override;

 private:
  double log_sum_exp(const float* logits, int64_t count) const override;
  void multiply(Tensor out, Tensor x, const Matrix& w, cpu::GemmJob job);

  const cpu::KernelTable& kernels_;
  const bool int8_activations_;
  cpu::PoolWorkers pool_;
  cpu::AttentionPlan plan_;
  bool planned_ = false;  // plan_ is of the batch that began last
};

class PackedCpuDevice : public CpuDevice {
 public:
  PackedCpuDevice(int threads, const cpu::KernelTable& kernels, CpuFormat format = {});

  std::unique_ptr<Matrix> load_matrix(const HostTensor& source) override;
  std::unique_ptr<Matrix> load_gated(const HostTensor& gate, const HostTensor& up) override;
  bool keeps_mapping(const Matrix& matrix) const override;
  size_t matrix_bytes(int64_t rows, int64_t cols, Use use, DType stored) const override;
  size_t kv_bytes(const KvShape& shape) const override;

 private:
  cpu::WeightKind kind_of(Use use) const;

  // `source` from its cache if it is there, else from the rows that row_of(panel, i) names.
  template <class RowOf>
  std::unique_ptr<Matrix> packed(const HostTensor& source, int64_t rows, bool gated, const RowOf& row_of) const;

  const cpu::KernelTable& kernels_;
  const CpuFormat format_;
  int threads_;
};

}  // namespace drivlm
