#include "kernels/cuda/cuda_device.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <tuple>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/driver.h"

namespace drivlm::cuda {

namespace {

[[noreturn]] void unavailable(int index, const std::string& why) {
  throw Error(Code::device_unavailable, text("device 'cuda%s' was asked for, but %s. To run on the CPU pass { device: 'cpu' }.",
                                             index ? (":" + std::to_string(index)).c_str() : "", why.c_str()));
}

// The stream outlives everything that uses it.
struct Stream {
  Stream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream"); }
  ~Stream() { cudaStreamDestroy(stream); }
  Stream(const Stream&) = delete;
  cudaStream_t stream = nullptr;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index) {
    check(cudaSetDevice(index), "choosing the GPU");
    check(cudaGetDeviceProperties(&properties_, index), "asking what the GPU can do");
    stream_ = std::make_unique<Stream>();
    staging_ = std::make_unique<Staging>(stream_->stream);
    const DeviceLimits limits{properties_.multiProcessorCount, int(properties_.sharedMemPerBlockOptin),
                              int(properties_.sharedMemPerMultiprocessor)};
    ops_ = std::make_unique<CudaOps>(*this, Context{index, stream_->stream, limits, staging_.get()});
  }

  ~CudaDevice() override {
    cudaSetDevice(index_);
    cudaStreamSynchronize(stream_->stream);
  }

  std::string name() const override { return properties_.name; }
  DType activation() const override { return DType::bf16; }
  Ops& ops() override { return *ops_; }

  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override {
    use();
    return std::make_unique<DeviceMemory>(bytes, what);
  }

  std::unique_ptr<Matrix> load_matrix(const HostTensor& source) override {
    auto out = std::make_unique<CudaMatrix>();
    out->rows = source.rows, out->cols = source.cols, out->stride = round_up(source.cols, 8);
    // A tied head is the embedding table once more.
    const auto key = std::make_tuple(source.runs[0].data, source.rows, source.cols);
    if (const auto found = loaded_.find(key); found != loaded_.end()) {
      out->data = found->second;
    } else {
      out->data = load_rows(*out, source.name, {source});
      loaded_[key] = out->data;
    }
    return out;
  }

  std::unique_ptr<Matrix> load_table(const HostTensor& source) override { return load_matrix(source); }

  std::unique_ptr<Matrix> load_gated(const HostTensor& gate, const HostTensor& up) override {
    if (gate.rows != up.rows || gate.cols != up.cols) {
      throw Error(Code::bad_weights, gate.name + " and " + up.name + ": expected the same shape.");
    }
    auto out = std::make_unique<CudaMatrix>();
    out->rows = 2 * gate.rows, out->cols = gate.cols, out->stride = round_up(gate.cols, 8), out->gated = true;
    out->data = load_rows(*out, gate.name, {gate, up});
    return out;
  }

  Tensor load_vector(const HostTensor& source) override {
    use();
    const int64_t count = source.rows * source.cols;
    std::vector<float> values(count);
    RowReader reader(source);
    for (int64_t row = 0; row < source.rows; ++row) reader.read_f32(row, values.data() + row * source.cols);
    Tensor out(weights_.take(count * sizeof(float), source.name), DType::f32, {count});
    staging_->copy(out.data, values.data(), count * sizeof(float));
    return out;
  }

  bool keeps_mapping(const Matrix&) const override { return false; }
  size_t matrix_bytes(int64_t rows, int64_t cols, DType) const override {
    return size_t(round_up(rows * round_up(cols, 8) * int64_t(sizeof(bf16)), 256));
  }
  size_t table_bytes(int64_t rows, int64_t cols, DType stored) const override { return matrix_bytes(rows, cols, stored); }

  // All 13 tiles of a scene where the scratch memory for them does not matter.
  int64_t vision_rows() const override { return properties_.totalGlobalMem >= size_t(12) << 30 ? 13 * 1025 : 4 * 1025; }
  int64_t prefill_rows() const override { return properties_.multiProcessorCount >= 40 ? 2048 : 1024; }

  size_t kv_bytes(const KvShape& s) const override {
    return size_t(2 * s.layers * s.pages * s.kv_heads * kPageTokens * s.head_dim) * sizeof(bf16);
  }

  void upload(Tensor to, const void* from) override {
    use();
    staging_->copy(to.data, from, size_t(to.bytes()));
  }

  void download(void* to, Tensor from) override {
    use();
    if (from.bytes() == 0) return;
    check(cudaMemcpyAsync(to, from.data, size_t(from.bytes()), cudaMemcpyDeviceToHost, stream_->stream), "copying from the GPU");
    check(cudaStreamSynchronize(stream_->stream), "copying from the GPU");
  }

  void synchronize() override {
    use();
    check(cudaStreamSynchronize(stream_->stream), "waiting for the GPU");
  }

 private:
  void use() {
    check(cudaSetDevice(index_), "choosing the GPU");
    ops_->abandon_recording();
  }

  // Rows of the sources in turn (gate 0, up 0, gate 1, ...), converted in pinned memory while earlier ones are copied.
  bf16* load_rows(const CudaMatrix& matrix, const std::string& name, std::vector<HostTensor> sources) {
    use();
    if (matrix.cols % 4 != 0) {
      throw Error(Code::bad_weights, text("%s: expected rows of a multiple of 4 values on CUDA, found %lld.", name.c_str(),
                                          static_cast<long long>(matrix.cols)));
    }
    const int64_t row_bytes = matrix.stride * int64_t(sizeof(bf16)), per_piece = int64_t(Staging::kBytes) / row_bytes;
    if (per_piece == 0) throw Error(Code::bad_weights, name + ": rows are too long.");
    bf16* data = static_cast<bf16*>(weights_.take(size_t(matrix.rows * row_bytes), name));
    std::vector<RowReader> readers(sources.begin(), sources.end());
    for (int64_t first = 0; first < matrix.rows; first += per_piece) {
      const int64_t rows = std::min(per_piece, matrix.rows - first);
      uint16_t* piece = static_cast<uint16_t*>(staging_->next());
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t from = first + row, count = int64_t(readers.size());
        uint16_t* to = piece + row * matrix.stride;
        readers[from % count].read_bf16(from / count, to);
        std::fill(to + matrix.cols, to + matrix.stride, uint16_t(0));
      }
      staging_->send(data + first * matrix.stride, size_t(rows * row_bytes));
    }
    return data;
  }

  const int index_;
  cudaDeviceProp properties_{};
  std::unique_ptr<Stream> stream_;
  WeightBlock weights_;
  std::unique_ptr<Staging> staging_;
  std::unique_ptr<CudaOps> ops_;
  std::map<std::tuple<const void*, int64_t, int64_t>, bf16*> loaded_;
};

}  // namespace

std::unique_ptr<Device> make_device(int index, DType precision) {
  if (precision != DType::bf16) {
    throw Error(Code::bad_argument, text("Expected 'bf16' for options.precision on CUDA, received '%s'.", dtype_name(precision)));
  }
  if (const std::string why = driver_problem(); !why.empty()) unavailable(index, why);
  int count = 0;
  check(cudaGetDeviceCount(&count), "counting GPUs");
  if (index < 0 || index >= count) {
    unavailable(index, text("this machine has %d, cuda:0%s", count, count > 1 ? text(" to cuda:%d", count - 1).c_str() : ""));
  }
  if (const std::string why = device_problem(index); !why.empty()) unavailable(index, why);
  return std::make_unique<CudaDevice>(index);
}

void describe_system(SystemInfo& info) {
  info.cuda_built = true;
  std::string why = driver_problem();
  info.cuda_reason = why;
  if (!why.empty()) {
    info.cuda_reason[0] = char(std::toupper(info.cuda_reason[0]));
    info.cuda_reason += ".";
    return;
  }
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  bool any = false;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    const std::string problem = device_problem(i);
    info.cuda_devices.push_back({properties.name, text("%d.%d", properties.major, properties.minor),
                                 int64_t(properties.totalGlobalMem), problem.empty()});
    any |= problem.empty();
    if (!problem.empty()) why = problem;
  }
  if (any) {
    info.cuda_reason.clear();
  } else if (!why.empty()) {
    info.cuda_reason = why + ".";
    info.cuda_reason[0] = char(std::toupper(info.cuda_reason[0]));
  }
}

}  // namespace drivlm::cuda
