// The gradients of the CPU's ops, each in the file of its op. f32 for training; f64 is the oracle, from the same text.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "device/gradients.h"
#include "kernels/cpu/pool_workers.h"
#include "kernels/cpu/products.h"

namespace drivlm {

class CpuGradients : public Gradients {
 public:
  // `products`: f32, or bf16 where that is faster (products.h).
  CpuGradients(int threads, const cpu::KernelTable& kernels, DType products = DType::f32);
  ~CpuGradients() override;

  void linear_input(Tensor dx, Tensor dy, Tensor w) override;
  void linear_weight(Tensor d_weight, Tensor d_bias, Tensor dy, Tensor x) override;
  void norm(Tensor dx, Tensor d_weight, Tensor d_bias, Tensor dy, Tensor x, const Norm& norm) override;
  void norm_columns(Tensor d, Tensor d_weight, Tensor x, int64_t first, int64_t width, Tensor weight,
                    double eps) override;
  void scale_add(Tensor dy, Tensor d_scale, Tensor dx, Tensor y, Tensor scale) override;
  void gelu(Tensor du, Tensor dy, Tensor u) override;
  void gated(Tensor d_gate_up, Tensor dy, Tensor gate_up) override;
  void attention(Tensor d_qkv, Tensor d_out, Tensor qkv, int64_t heads, int64_t kv_heads, int64_t head_dim,
                 const std::vector<AttentionSpan>& spans, bool causal) override;
  void rope(Tensor d_qkv, Tensor d_q_norm, Tensor d_k_norm, Tensor qkv, Tensor q_norm, Tensor k_norm, double eps,
            Tensor cos_sin, const Batch& batch, int64_t heads, int64_t kv_heads) override;
  void pixel_shuffle(Tensor dx, Tensor dy, int64_t grid, int version) override;
  void assemble_tiles(Tensor d_patches, Tensor d_class, Tensor d_positions, Tensor dx) override;
  void gather(Tensor d_table, const int32_t* ids, int64_t count, Tensor dx) override;
  void resize_positions(Tensor d_from, int64_t from, Tensor d_to, int64_t to) override;
  void cross_entropy(Tensor d_logits, double* losses, Tensor logits, const int32_t* labels,
                     const double* weights) override;
  double sum_of_squares(Tensor x) override;
  void adamw(Tensor parameter, Tensor m, Tensor v, Tensor gradient, const AdamW& options) override;

 private:
  template <class T>
  void attention_of(Tensor d_qkv, Tensor d_out, Tensor qkv, int64_t heads, int64_t kv_heads, int64_t head_dim,
                    const std::vector<AttentionSpan>& spans, bool causal);

  // body(first, last) over pieces of [0, count).
  template <class Body>
  void parallel(int64_t count, int64_t grain, const Body& body) const {
    ThreadPool::instance().parallel_for(threads_, count, grain, body);
  }

  // body(slot, task): a slot has memory of its own and one thread at a time; tasks are dealt as slots come free.
  template <class Body>
  void deal(int64_t tasks, const Body& body) const {
    std::atomic<int64_t> next{0};
    parallel(std::min<int64_t>(threads_, tasks), 1, [&](int64_t first, int64_t last) {
      for (int64_t slot = first; slot < last; ++slot) {
        for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(slot, task);
      }
    });
  }

  // Sums over rows: body(sums [width], first, last) adds rows of one piece, pieces are kSumRows rows, and are added up in order to `out`.
  template <class T, class Body>
  void sum_rows(T* out, int64_t rows, int64_t width, const Body& body);
  static constexpr int64_t kSumRows = 128;

  // Memory of sum_rows and attention, kept for the next call.
  template <class T>
  T* memory(int which, int64_t count);

  int threads_;
  const cpu::KernelTable& kernels_;
  cpu::PoolWorkers pool_;
  cpu::PoolWorkers alone_{1};
  cpu::ProductSpace space_;
  std::vector<cpu::ProductSpace> slots_;  // of products inside of deal()
  std::vector<char> memory_[4];
};

// body(T{}) with T = float or double.
template <class Body>
void with_real(const char* op, DType dtype, const Body& body) {
  if (dtype == DType::f32) return body(float{});
  if (dtype == DType::f64) return body(double{});
  throw Error(Code::internal, std::string(op) + ": gradients are f32 or f64, found " + dtype_name(dtype));
}

template <class T>
T* CpuGradients::memory(int which, int64_t count) {
  std::vector<char>& held = memory_[which];
  const size_t bytes = static_cast<size_t>(count) * sizeof(T) + 64;
  if (held.size() < bytes) held.resize(bytes);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(held.data()) + 63) / 64 * 64);
}

template <class T, class Body>
void CpuGradients::sum_rows(T* out, int64_t rows, int64_t width, const Body& body) {
  const int64_t pieces = (rows + kSumRows - 1) / kSumRows;
  T* parts = memory<T>(0, pieces * width);
  parallel(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      T* sums = parts + piece * width;
      std::fill(sums, sums + width, T{0});
      body(sums, piece * kSumRows, std::min(rows, (piece + 1) * kSumRows));
    }
  });
  if (out == nullptr) return;
  parallel(width, 1024, [&](int64_t first, int64_t last) {
    for (int64_t piece = 0; piece < pieces; ++piece) {
      for (int64_t i = first; i < last; ++i) out[i] += parts[piece * width + i];
    }
  });
}

}  // namespace drivlm
