// The CPU backend. Precision f32 is the oracle: plain loops over weights as they are mapped. Precision bf16 keeps activations in bf16.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "device/device.h"
#include "kernels/cpu/reference_ops.h"

namespace drivlm {

// Anonymous memory, in large pages where the system has them: weights and caches are read whole for every token, and large
// pages save a third of the time that small ones lose to address translation. Costs nothing until touched; `whole` says
// that all of it will be.
class HostMemory : public Memory {
 public:
  HostMemory(size_t size, const std::string& what, bool whole);
  ~HostMemory() override;
};

// A matrix read where the file is mapped, in whatever type it is stored.
class MappedMatrix : public Matrix {
 public:
  explicit MappedMatrix(const HostTensor& source);

  // Row `index` [cols] as f32, or rounded to bf16. The stored bytes may be unaligned.
  void row(int64_t index, float* out) const;
  void row(int64_t index, bf16* out) const;

  // Rows [first, first + count) as they are stored, dtype() [count, cols], at any address; a file is read, none of it is mapped.
  void read(int64_t first, int64_t count, char* out) const;
  // Rows that were read as f32.
  void widen(const char* stored, int64_t count, float* out) const;
  DType dtype() const { return dtype_; }

  // Gives back the memory of rows [first, first + count); who reads them again maps them again.
  void drop(int64_t first, int64_t count) const;

 private:
  const char* stored_row(int64_t index) const;

  DType dtype_;
  std::vector<HostRows> runs_;
  std::vector<int64_t> first_;  // first row of each run
};

// gate and up of a gated MLP, read where they are mapped.
class MappedGated : public Matrix {
 public:
  MappedGated(const HostTensor& gate, const HostTensor& up);
  MappedMatrix gate, up;
};

class CpuDevice : public Device {
 public:
  CpuDevice(DType precision, int threads);

  std::string name() const override { return "cpu"; }
  DType activation() const override { return activation_; }
  Ops& ops() override { return *ops_; }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override;
  std::unique_ptr<Matrix> load_matrix(const HostTensor& source) override;
  std::unique_ptr<Matrix> load_gated(const HostTensor& gate, const HostTensor& up) override;
  std::unique_ptr<Matrix> load_table(const HostTensor& source) override;
  Tensor load_vector(const HostTensor& source) override;
  bool keeps_mapping(const Matrix& matrix) const override;
  size_t matrix_bytes(int64_t rows, int64_t cols, Use use, DType stored) const override;
  size_t table_bytes(int64_t rows, int64_t cols, DType stored) const override;
  int64_t vision_rows() const override { return 1100; }
  int64_t prefill_rows() const override { return 512; }
  size_t kv_bytes(const KvShape& shape) const override;
  void upload(Tensor to, const void* from) override;
  void download(void* to, Tensor from) override;
  void synchronize() override {}

 protected:
  // With other ops than the plain ones.
  CpuDevice(DType precision, int threads, const std::function<std::unique_ptr<ReferenceOps>(Device&)>& make_ops);

 private:
  // Room for one more vector; it lives as long as the device.
  float* vector_room(int64_t count);

  DType activation_;
  std::unique_ptr<ReferenceOps> ops_;
  std::vector<std::unique_ptr<HostMemory>> vectors_;  // each has one vector after the other
  size_t vectors_used_ = 0;                           // bytes of the last of them
  std::vector<std::unique_ptr<float[]>> alone_;       // under AddressSanitizer
};

}  // namespace drivlm
