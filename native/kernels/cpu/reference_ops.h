// The reference ops of the CPU backend: f32 loops over f32 or bf16 storage. In f32 they are the oracle of every other kernel.
#pragma once

#include "device/ops.h"

namespace drivlm {

class ReferenceOps : public Ops {
 public:
  ReferenceOps(Device& device, int threads);

  void patchify(Tensor patches, Tensor tiles, int64_t patch, const std::array<float, 3>& mean,
                const std::array<float, 3>& std) override;
  void assemble_tiles(Tensor x, Tensor patches, Tensor class_embedding, Tensor positions) override;
  void attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) override;
  void pixel_shuffle(Tensor out, Tensor x, int64_t grid, int version) override;

  void linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) override;
  void scale_add(Tensor x, Tensor y, Tensor scale) override;
  void norm(Tensor out, Tensor x, const Norm& norm) override;
  void norm_columns(Tensor x, int64_t first, int64_t width, Tensor weight, float eps) override;
  void copy_rows(Tensor to, Tensor from) override;

  void gather(Tensor out, const int32_t* ids, int64_t count, const Matrix& table) override;
  void linear_gated(Tensor out, Tensor x, const Matrix& gate_up) override;
  void linear_gelu(Tensor out, Tensor before, Tensor x, const Matrix& w, Tensor bias) override;
  void linear_gated_from(Tensor out, Tensor gate_up, Tensor x, const Matrix& w) override;
  void scale_groups(Tensor x, const float* factors, int64_t rows) override;
  void begin_batch(const Batch& batch) override;
  void rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv, int64_t layer,
                   int64_t heads, const Batch& batch) override;
  void attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) override;
  void copy_page(Kv kv, int32_t from, int32_t to) override;
  void read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) override;
  void sample(Sample* samples, Tensor logits, const SampleParams* params, int64_t count) override;

 protected:
  // body(first, last) over pieces of [0, count).
  template <class Body>
  void parallel(int64_t count, int64_t grain, const Body& body) const;

  // Of logits, NaNs ignored.
  virtual double log_sum_exp(const float* logits, int64_t count) const;

  int threads_;

 private:
  // `before`, f32 and kept when given: what the activation gets.
  void linear_of(Tensor out, Tensor before, Tensor x, const Matrix& w, Tensor bias, Epilogue after);

  int64_t gathered_ = 0;  // rows since a table's pages were given back
};

}  // namespace drivlm
