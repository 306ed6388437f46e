// device/ops.h on a CUDA device. Each op is defined in the file of its kernels: what it computes, what it checks, which kernel it picks,
// and the launch on the device's stream. cuda_ops.cpp holds what a pass needs before and after.
#pragma once

#include <array>
#include <optional>

#include "device/ops.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/staged_lists.h"
#include "kernels/cuda/step_graphs.h"

namespace drivlm::cuda {

// What ops need of their device.
struct Context {
  int index;
  cudaStream_t stream;
  DeviceLimits limits;
  Staging* staging;
  bool int8_activations = false, int4_weights = false;
};

struct RoundedRows {
  uint8_t* bytes;
  InputScale* scales;
};

class CudaOps : public Ops {
 public:
  CudaOps(Device& device, const Context& context);
  ~CudaOps() override;

  void reserve(const PassLimits& limits) override;

  void patchify(Tensor patches, Tensor tiles, int64_t patch, const std::array<float, 3>& mean,
                const std::array<float, 3>& std) override;
  void assemble_tiles(Tensor x, Tensor patches, Tensor class_embedding, Tensor positions) override;
  void attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) override;
  void pixel_shuffle(Tensor out, Tensor x, int64_t grid, int version) override;
  void pixel_shuffle_norm(Tensor out, Tensor x, int64_t grid, int version, const Norm& norm) override;

  void linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) override;
  void linear_add(Tensor x, Tensor in, const Matrix& w, Tensor bias, Tensor scale, Tensor scratch) override;
  void scale_add(Tensor x, Tensor y, Tensor scale) override;
  void norm(Tensor out, Tensor x, const Norm& norm) override;
  void norm_linear(Tensor out, Tensor normed, Tensor x, const Norm& norm, const Matrix& w, Tensor bias,
                   Epilogue after) override;
  void norm_columns(Tensor x, int64_t first, int64_t width, Tensor weight, float eps) override;
  void copy_rows(Tensor to, Tensor from) override;

  void gather(Tensor out, const int32_t* ids, int64_t count, const Matrix& table) override;
  void linear_gated(Tensor out, Tensor x, const Matrix& gate_up) override;
  void begin_batch(const Batch& batch) override;
  bool replay_step(Kv kv, int64_t heads, const Batch& batch) override;
  void end_step() override;
  void rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv, int64_t layer,
                   int64_t heads, const Batch& batch) override;
  void attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) override;
  void copy_page(Kv kv, int32_t from, int32_t to) override;
  void read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) override;
  void sample(Sample* samples, Tensor logits, const SampleParams* params, int64_t count) override;

  // Gives up a recording that an error left open. The device calls it before it waits or copies.
  void abandon_recording() { graphs_.abandon(); }

  // Device memory held from the start.
  size_t own_bytes() const;

 private:
  static constexpr int64_t kMaxSamples = 256;  // of one round trip; more take several

  cudaStream_t stream();  // with our device current on this thread
  void run_linear(Linear job);
  void linear_of(const char* op, Linear job, Tensor out, const Matrix& w, Tensor bias, Epilogue after);
  // Whether products of so many rows take x in 8 bits, and room for it: [rows, stride], the scales after it.
  bool rounds(int64_t rows, const Weights& w) const;
  RoundedRows rounded_rows(int64_t rows, int64_t stride);
  void* rounded_room(int64_t bytes);
  // Weights that meet x in 8 bits: those in 4 bits made bytes.
  Weights as_bytes(const Weights& w, int64_t n);
  void* grown(std::optional<DeviceMemory>& memory, int64_t bytes, const char* what);
  const AttentionPlan& plan(const Batch& batch, int64_t heads, int64_t kv_heads, int64_t head_dim, bool padded = false);
  void send(StagedLists& lists);

  Context context_;
  StagedLists batch_lists_, plan_lists_, id_lists_, sample_lists_;
  StepGraphs graphs_;
  std::optional<AttentionPlan> plan_;     // of the pass begun last
  DeviceMemory partial_;                  // parts of split attention, and of split products
  DeviceMemory results_;                  // [kMaxSamples]
  std::optional<DeviceMemory> rounded_;   // x of a product in 8 bits
  std::optional<DeviceMemory> expanded_;  // its weights, if they are kept in 4
  SampleResult* pinned_results_ = nullptr;
};

}  // namespace drivlm::cuda
