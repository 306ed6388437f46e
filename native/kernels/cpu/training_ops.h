// The forward pass of training on the CPU: f32 activations, weights read where the masters are, products on the target's matrix form. What is not
// overridden is ReferenceOps' plain form.
#pragma once

#include <atomic>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/pool_workers.h"
#include "kernels/cpu/products.h"

namespace drivlm {

namespace cpu {

// Memory of attention on one thread, kept for the next task.
struct AttentionSpace {
  ProductSpace product;
  std::vector<float> scores;
  std::vector<float> packed;  // keys and values that several blocks of queries meet
};

}  // namespace cpu

// Rows of masters.
class TrainedMatrix : public Matrix {
 public:
  TrainedMatrix(const float* values, int64_t n, int64_t k) : data(values) { rows = n, cols = k; }
  const float* data;
};

class TrainingOps : public ReferenceOps {
 public:
  TrainingOps(Device& device, int threads, const cpu::KernelTable& kernels, DType products);

  void linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) override;
  void linear_gated(Tensor out, Tensor x, const Matrix& gate_up) override;
  void linear_gelu(Tensor out, Tensor before, Tensor x, const Matrix& w, Tensor bias) override;
  void linear_gated_from(Tensor out, Tensor gate_up, Tensor x, const Matrix& w) override;
  void attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) override;
  void attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) override;

 private:
  // out [rows, w.rows] = x * w^T + bias.
  void multiply(const char* op, Tensor out, Tensor x, const Matrix& w, Tensor bias);

  // body(space, task): a space has one thread at a time; tasks are dealt as spaces come free.
  template <class Body>
  void deal(int64_t tasks, const Body& body) {
    std::atomic<int64_t> next{0};
    parallel(std::min<int64_t>(threads_, tasks), 1, [&](int64_t first, int64_t last) {
      for (int64_t slot = first; slot < last; ++slot) {
        for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(attention_[slot], task);
      }
    });
  }

  const cpu::KernelTable& kernels_;
  cpu::PoolWorkers pool_;
  cpu::ProductSpace space_;
  std::vector<float> gate_up_;                  // of linear_gated
  std::vector<cpu::AttentionSpace> attention_;  // one a thread
};

// For native/train: matrices are views of f32 rows in one piece, gate and up of a layer under each other, as ParameterValues keeps them.
class TrainingCpuDevice : public CpuDevice {
 public:
  // `products`: f32, or bf16 where that is faster (products.h).
  TrainingCpuDevice(int threads, const cpu::KernelTable& kernels, DType products = DType::f32);

  std::unique_ptr<Matrix> load_matrix(const HostTensor& source) override;
  std::unique_ptr<Matrix> load_gated(const HostTensor& gate, const HostTensor& up) override;
};

}  // namespace drivlm
