// A device: where weights, activations and the KV cache live, and the ops that run on them.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/tensor.h"

namespace drivlm {

class Ops;

// What the network uses a parameter for. The precision of a matrix follows from it (packed/formats.h).
enum class Use : uint8_t {
  patches,    // the tower's input: pixels come in here
  tower,      // the rest of the vision tower
  projector,  // between tower and decoder
  decoder,    // the decoder's layers and its last norm
  embedding,  // rows that token ids stand for
  head,       // logits
};

// What weights are kept as on a device. 8 bits: one scale a row. 4 bits: the decoder's in groups with a scale each, the others and the
// head in 8 bits.
enum class WeightFormat { bf16, int8, int4 };

// What keys and values of the cache are kept as: activations as they are, or 8 bits with one scale a token and head.
enum class KvFormat : uint8_t { activation, int8 };

struct DeviceOptions {
  std::string device = "cpu";                 // cpu, cuda, cuda:N
  DType precision = DType::bf16;              // of activations
  int threads = 1;                            // of the CPU backend
  WeightFormat weights = WeightFormat::bf16;  // in precision bf16 only
  bool int8_activations = false;              // of matrices in 8 bits, when there are many rows: vision and prefill
  KvFormat kv = KvFormat::activation;         // int8 in precision bf16 only
};

// Owns bytes on a device; frees them when it goes.
class Memory {
 public:
  virtual ~Memory() = default;
  void* data = nullptr;
  size_t bytes = 0;
};

// How a device recognises packed bytes: by packing, kind, shape and the like. Bytes of another form are not used.
using PackedForm = std::array<int64_t, 5>;

// Where a device finds a matrix that was packed by an earlier load, or leaves it for a later one. Lives while weights are loaded.
class PackedStore {
 public:
  virtual ~PackedStore() = default;

  // The kept bytes of matrix `name`, read-only and 64-byte aligned, valid for as long as the result lives; null unless all is as expected.
  virtual std::unique_ptr<Memory> find(const std::string& name, const PackedForm& form, size_t bytes) = 0;

  // Whether anything is kept: without, neither of the others does anything.
  virtual bool on() const = 0;

  // The bytes of a matrix that was not found; `data` is read when loading is done, and must live until then, by `owner` if by nothing else.
  virtual void add(const std::string& name, const PackedForm& form, const void* data, size_t bytes,
                   std::shared_ptr<const void> owner = nullptr) = 0;
};

// A weight matrix [rows, cols] as the device keeps it: y = x * W^T. Opaque, so that its storage (packed bf16, int8, ...) can change
// without touching the model.
class Matrix {
 public:
  virtual ~Matrix() = default;
  int64_t rows = 0, cols = 0;
};

// A stored tensor's bytes in host memory, in runs of whole rows; the mapping outlives the device.
struct HostRows {
  const void* data;
  int64_t rows;
  const MappedFile* file = nullptr;  // whose bytes these are, if it can read them again after they were dropped
};
struct HostTensor {
  std::string name;
  DType dtype;  // f32, f16 or bf16
  int64_t rows, cols;
  std::vector<HostRows> runs;
  Use use = Use::tower;
  PackedStore* store = nullptr;
};

struct TiedMatrices {
  std::unique_ptr<Matrix> table, head;
};

struct KvShape {
  int64_t layers, kv_heads, head_dim, page_tokens, pages;
  KvFormat format = KvFormat::activation;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual std::string name() const = 0;

  // Element type of activations and the KV cache.
  virtual DType activation() const = 0;

  virtual Ops& ops() = 0;

  // Uninitialised; throws OUT_OF_MEMORY with `what` and how much is missing.
  virtual std::unique_ptr<Memory> allocate(size_t bytes, const char* what) = 0;

  // Weights. After loading, `keeps_mapping` tells whether the returned matrix still reads the host bytes.
  virtual std::unique_ptr<Matrix> load_matrix(const HostTensor& source) = 0;
  // gate and up of a gated MLP, for Ops::linear_gated; rows = 2 * ffn.
  virtual std::unique_ptr<Matrix> load_gated(const HostTensor& gate, const HostTensor& up) = 0;
  // For Ops::gather only.
  virtual std::unique_ptr<Matrix> load_table(const HostTensor& source) = 0;
  // One parameter with two uses: rows that ids stand for, and what logits are made with. A device may keep it once.
  virtual TiedMatrices load_tied(HostTensor source) {
    TiedMatrices out;
    out.table = load_table(source);
    source.use = Use::head;
    out.head = load_matrix(source);
    return out;
  }
  // Biases, norms, scales: f32 on every device, [rows * cols].
  virtual Tensor load_vector(const HostTensor& source) = 0;
  virtual bool keeps_mapping(const Matrix& matrix) const = 0;

  // Bytes the five above will take beyond the mapping, for plans.
  virtual size_t matrix_bytes(int64_t rows, int64_t cols, Use use, DType stored) const = 0;
  virtual size_t table_bytes(int64_t rows, int64_t cols, DType stored) const = 0;
  virtual size_t tied_bytes(int64_t rows, int64_t cols, DType stored) const {
    return table_bytes(rows, cols, stored) + matrix_bytes(rows, cols, Use::head, stored);
  }
  virtual size_t vector_bytes(int64_t count) const { return size_t(count) * sizeof(float); }

  // Lets the device read host memory in place for as long as the result lives: matrices that are stored there as the device wants them then need
  // no copy. Null where the device cannot, or where copies are read faster.
  virtual std::unique_ptr<Memory> share(const void*, size_t) { return nullptr; }

  // Called at most once before the weights are loaded, with the sum of those bytes. A device may keep them in one piece; loading more than was
  // reserved is then INTERNAL. Throws as `allocate` does.
  virtual void reserve_weights(size_t) {}

  // What the device holds for its ops from the start; and what can still be allocated, SIZE_MAX where the system decides.
  virtual size_t own_bytes() const { return 0; }
  virtual size_t free_bytes() const { return SIZE_MAX; }

  // Rows of one vision pass (whole tiles, at least one) and of one prefill chunk that suit the device: they size the arena
  // and bound how long a cancellation waits.
  virtual int64_t vision_rows() const = 0;
  virtual int64_t prefill_rows() const = 0;

  // Bytes of the KV cache; its layout is the device's. Throws BAD_ARGUMENT for a format that it cannot keep such heads in.
  virtual size_t kv_bytes(const KvShape& shape) const = 0;

  // Blocking copies between host and device.
  virtual void upload(Tensor to, const void* from) = 0;
  virtual void download(void* to, Tensor from) = 0;

  // Waits until everything enqueued so far is done; throws DEVICE_LOST if it failed.
  virtual void synchronize() = 0;

  // Times a stage: everything enqueued between the two calls, in milliseconds. The second one waits for it as `synchronize` does. Stages
  // do not nest; one that an error cut short is forgotten by the next.
  virtual void begin_stage() { stage_begin_ = std::chrono::steady_clock::now(); }
  virtual double end_stage() {
    synchronize();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - stage_begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point stage_begin_;
};

}  // namespace drivlm
