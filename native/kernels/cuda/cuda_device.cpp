#include "kernels/cuda/cuda_device.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/driver.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"
#include "kernels/cuda/weight_packing.h"

namespace drivlm::cuda {

namespace {

[[noreturn]] void unavailable(int index, const std::string& why) {
  throw Error(Code::device_unavailable,
              text("device 'cuda%s' was asked for, but %s. To run on the CPU pass { device: 'cpu' }.",
                   index ? (":" + std::to_string(index)).c_str() : "", why.c_str()));
}

// Memory of the system that can be had, files in its cache included: cudaMemGetInfo counts those as taken where the GPU has no memory of its own.
size_t system_available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  size_t kib = 0;
  while (file >> name) {
    if (name == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return 0;
}

// A moment on the stream.
struct Event {
  Event() { check(cudaEventCreate(&event), "making an event"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  cudaEvent_t event = nullptr;
};

// The stream outlives everything that uses it.
struct Stream {
  Stream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream"); }
  ~Stream() { cudaStreamDestroy(stream); }
  Stream(const Stream&) = delete;
  cudaStream_t stream = nullptr;
};

// Converts rows for one thread; what it needs is there from the start, so that packing does not throw.
class RowPacker {
 public:
  RowPacker(const WeightLayout& layout, const std::vector<HostTensor>& sources)
      : layout_(layout), readers_(sources.begin(), sources.end()) {
    if (layout.encoding != Encoding::bf16) wide_.resize(size_t(layout.cols)), q_.resize(size_t(layout.stride()));
  }

  void pack(int64_t row, char* bytes, char* scales) {
    RowReader& reader = readers_[size_t(row) % readers_.size()];
    const int64_t from = row / int64_t(readers_.size());
    if (layout_.encoding == Encoding::bf16) {
      uint16_t* to = reinterpret_cast<uint16_t*>(bytes);
      reader.read_bf16(from, to);
      std::fill(to + layout_.cols, to + layout_.stride(), uint16_t(0));
    } else {
      reader.read_f32(from, wide_.data());
      pack_row(layout_, bytes, scales, wide_.data(), q_.data());
    }
  }

 private:
  const WeightLayout layout_;
  std::vector<RowReader> readers_;
  std::vector<float> wide_;
  std::vector<int8_t> q_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, WeightFormat format, bool int8_activations)
      : index_(index), format_(format), expands_(int8_activations && format == WeightFormat::int4) {
    check(cudaSetDevice(index), "choosing the GPU");
    check(cudaGetDeviceProperties(&properties_, index), "asking what the GPU can do");
    stream_ = std::make_unique<Stream>();
    stage_begin_ = std::make_unique<Event>(), stage_end_ = std::make_unique<Event>();
    staging_ = std::make_unique<Staging>(stream_->stream);
    const DeviceLimits limits{properties_.multiProcessorCount, int(properties_.sharedMemPerBlockOptin),
                              int(properties_.sharedMemPerMultiprocessor)};
    ops_ = std::make_unique<CudaOps>(
        *this, Context{index, stream_->stream, limits, staging_.get(), int8_activations, format == WeightFormat::int4});
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
    return load(source, encoding_of(format_, source.use));
  }

  std::unique_ptr<Matrix> load_table(const HostTensor& source) override { return load(source, Encoding::bf16); }

  // Kept once where both are rows in bf16.
  TiedMatrices load_tied(HostTensor source) override {
    TiedMatrices out;
    out.table = load_table(source);
    source.use = Use::head;
    if (encoding_of(format_, Use::head) == Encoding::bf16) {
      out.head = std::make_unique<CudaMatrix>(static_cast<const CudaMatrix&>(*out.table));
    } else {
      out.head = load_matrix(source);
    }
    return out;
  }

  std::unique_ptr<Matrix> load_gated(const HostTensor& gate, const HostTensor& up) override {
    if (gate.rows != up.rows || gate.cols != up.cols) {
      throw Error(Code::bad_weights, gate.name + " and " + up.name + ": expected the same shape.");
    }
    return load_rows({encoding_of(format_, gate.use), 2 * gate.rows, gate.cols}, gate.name, {gate, up});
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

  bool keeps_mapping(const Matrix& matrix) const override { return static_cast<const CudaMatrix&>(matrix).in_place; }

  // Where GPU and CPU have the same memory, a registered file can be as fast as a copy of it, or be read past the GPU's caches: both are timed.
  std::unique_ptr<Memory> share(const void* host, size_t bytes) override {
    if (!properties_.integrated) return nullptr;
    use();
    auto memory = std::make_unique<RegisteredMemory>(host, bytes);
    if (!memory->data || !reads_as_fast(*memory)) return nullptr;
    in_place_.push_back({static_cast<const char*>(host), bytes, static_cast<char*>(memory->data)});
    return memory;
  }

  size_t matrix_bytes(int64_t rows, int64_t cols, Use use, DType) const override {
    return size_t(WeightLayout{encoding_of(format_, use), rows, cols}.bytes());
  }
  size_t vector_bytes(int64_t count) const override {
    return size_t(round_up(count * int64_t(sizeof(float)), WeightBlock::kAlign));
  }
  size_t tied_bytes(int64_t rows, int64_t cols, DType stored) const override {
    const bool once = encoding_of(format_, Use::head) == Encoding::bf16;
    return table_bytes(rows, cols, stored) + (once ? 0 : matrix_bytes(rows, cols, Use::head, stored));
  }
  void reserve_weights(size_t bytes) override {
    use();
    weights_.reserve(bytes);
  }
  size_t own_bytes() const override { return ops_->own_bytes(); }
  size_t free_bytes() const override {
    check(cudaSetDevice(index_), "choosing the GPU");
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    return properties_.integrated ? std::max(free, system_available_bytes()) : free;
  }
  size_t table_bytes(int64_t rows, int64_t cols, DType) const override {
    return size_t(WeightLayout{Encoding::bf16, rows, cols}.bytes());
  }

  // All 13 tiles of a scene where the scratch memory for them does not matter.
  int64_t vision_rows() const override { return roomy() ? 13 * 1025 : 4 * 1025; }
  // Where a pass first makes bytes of 4-bit weights, fewer passes are worth their scratch memory.
  int64_t prefill_rows() const override {
    return properties_.multiProcessorCount >= 40 || (expands_ && roomy()) ? 2048 : 1024;
  }

  size_t kv_bytes(const KvShape& s) const override {
    if (!has_attention(s.head_dim)) {
      throw Error(
          Code::bad_argument,
          text("The CUDA backend has attention for heads of 16, 32, 64, 96 and 128 values; this model's have %lld. "
               "Load it with device 'cpu'.",
               static_cast<long long>(s.head_dim)));
    }
    return size_t(2 * s.layers * s.pages * kv_page_bytes(s));
  }

  void upload(Tensor to, const void* from) override {
    use();
    staging_->copy(to.data, from, size_t(to.bytes()));
  }

  void download(void* to, Tensor from) override {
    use();
    if (from.bytes() == 0) return;
    check(cudaMemcpyAsync(to, from.data, size_t(from.bytes()), cudaMemcpyDeviceToHost, stream_->stream),
          "copying from the GPU");
    check(cudaStreamSynchronize(stream_->stream), "copying from the GPU");
  }

  void synchronize() override {
    use();
    check(cudaStreamSynchronize(stream_->stream), "waiting for the GPU");
  }

  void begin_stage() override {
    use();
    check(cudaEventRecord(stage_begin_->event, stream_->stream), "timing a stage");
  }

  double end_stage() override {
    use();
    check(cudaEventRecord(stage_end_->event, stream_->stream), "timing a stage");
    check(cudaEventSynchronize(stage_end_->event), "waiting for the GPU");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, stage_begin_->event, stage_end_->event), "timing a stage");
    return ms;
  }

 private:
  bool roomy() const { return properties_.totalGlobalMem >= size_t(12) << 30; }

  void use() {
    check(cudaSetDevice(index_), "choosing the GPU");
    ops_->abandon_recording();
  }

  // The rows where they are stored, if the kernels can read them there: bf16, in one piece, 16-byte aligned, without padding.
  bf16* find_in_place(const HostTensor& source) const {
    if (source.dtype != DType::bf16 || source.runs.size() != 1 || source.cols % 8 != 0) return nullptr;
    const char* data = static_cast<const char*>(source.runs[0].data);
    for (const InPlace& one : in_place_) {
      if (data < one.host || data >= one.host + one.bytes) continue;
      char* found = one.device + (data - one.host);
      return reinterpret_cast<uintptr_t>(found) % 16 == 0 ? reinterpret_cast<bf16*>(found) : nullptr;
    }
    return nullptr;
  }

  // The time of a decode step's matrix product, over the first rows in the file and over a copy of them; the best of three each.
  bool reads_as_fast(const RegisteredMemory& memory) {
    constexpr int64_t kCols = 1024, kRowBytes = kCols * int64_t(sizeof(bf16)), kMostRows = 16384;
    constexpr double kAllowance = 1.05;
    const int64_t rows = std::min<int64_t>(kMostRows, int64_t(memory.bytes) / kRowBytes);
    if (rows < 256) return false;
    DeviceMemory copy(size_t(rows * kRowBytes), "Timing shared weights"), x(kRowBytes, "Timing shared weights"),
        y(size_t(rows) * sizeof(float), "Timing shared weights");
    staging_->copy(copy.data, memory.host, copy.bytes);
    check(cudaMemsetAsync(x.data, 0, x.bytes, stream_->stream), "timing shared weights");
    const auto best_ms = [&](const void* weights) {
      double best = 0;
      for (int i = 0; i < 4; ++i) {  // the first warms up
        Linear job{static_cast<const bf16*>(x.data), {weights, kCols}, 1, rows, kCols};
        job.out = y.data;
        job.out_f32 = true;
        begin_stage();
        matvec(job, stream_->stream);
        const double ms = end_stage();
        if (i == 1 || (i > 1 && ms < best)) best = ms;
      }
      return best;
    };
    return best_ms(memory.data) <= kAllowance * best_ms(copy.data);
  }

  std::unique_ptr<Matrix> load(const HostTensor& source, Encoding encoding) {
    if (encoding == Encoding::bf16) {
      if (bf16* found = find_in_place(source)) {
        auto out = std::make_unique<CudaMatrix>();
        out->rows = source.rows, out->cols = source.cols, out->in_place = true;
        out->weights = {found, source.cols};
        return out;
      }
    }
    return load_rows({encoding, source.rows, source.cols}, source.name, {source});
  }

  // Rows of the sources in turn (gate 0, up 0, gate 1, ...), converted in pinned memory by all cores while earlier ones are copied; or as an
  // earlier load has kept them.
  std::unique_ptr<Matrix> load_rows(const WeightLayout& layout, const std::string& name,
                                    const std::vector<HostTensor>& sources) {
    use();
    const bool quantised = layout.encoding != Encoding::bf16;
    if (layout.cols % (quantised ? 8 : 4) != 0) {
      throw Error(Code::bad_weights,
                  text("%s: expected rows of a multiple of %d values on CUDA%s, found %lld. Load it with device 'cpu'.",
                       name.c_str(), quantised ? 8 : 4, quantised ? " in 8 or 4 bits" : "",
                       static_cast<long long>(layout.cols)));
    }
    const int64_t row_bytes = layout.row_bytes(), per_piece = int64_t(Staging::kBytes) / row_bytes;
    if (per_piece == 0) throw Error(Code::bad_weights, name + ": rows are too long.");
    char* const data = static_cast<char*>(weights_.take(size_t(layout.bytes()), name));
    auto out = std::make_unique<CudaMatrix>();
    out->rows = layout.rows, out->cols = layout.cols, out->gated = sources.size() == 2;
    out->weights = layout.at(data);

    PackedStore* const store = quantised && sources[0].store && sources[0].store->on() ? sources[0].store : nullptr;
    const PackedForm form{kPackingVersion, int64_t(layout.encoding), out->gated, layout.rows, layout.cols};
    if (store) {
      if (const auto kept = store->find(name, form, size_t(layout.bytes()))) {
        staging_->copy(data, kept->data, kept->bytes);
        return out;
      }
    }
    const auto whole = std::make_shared<std::vector<char>>(store ? size_t(layout.bytes()) : 0);
    std::vector<char> scales(size_t(layout.rows * layout.row_scale_bytes()));
    std::vector<RowPacker> packers;
    const int64_t most = quantised ? int64_t(std::thread::hardware_concurrency()) : 1;
    for (int64_t i = 0; i < std::max<int64_t>(1, most); ++i) packers.emplace_back(layout, sources);

    for (int64_t first = 0; first < layout.rows; first += per_piece) {
      const int64_t rows = std::min(per_piece, layout.rows - first), workers = int64_t(packers.size());
      char* piece = static_cast<char*>(staging_->next());
      const auto work = [&](int64_t worker) {
        for (int64_t i = rows * worker / workers; i < rows * (worker + 1) / workers; ++i) {
          packers[worker].pack(first + i, piece + i * row_bytes,
                               scales.data() + (first + i) * layout.row_scale_bytes());
        }
      };
      std::vector<std::jthread> threads;
      for (int64_t worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
      work(0);
      threads.clear();  // waits
      if (store) std::memcpy(whole->data() + first * row_bytes, piece, size_t(rows * row_bytes));
      staging_->send(data + first * row_bytes, size_t(rows * row_bytes));
    }
    if (quantised) staging_->copy(data + layout.scales_at(), scales.data(), scales.size());
    if (store) {
      std::memcpy(whole->data() + layout.scales_at(), scales.data(), scales.size());
      store->add(name, form, whole->data(), whole->size(), whole);
    }
    return out;
  }

  struct InPlace {
    const char* host;
    size_t bytes;
    char* device;
  };

  const int index_;
  const WeightFormat format_;
  const bool expands_;  // 4-bit weights become bytes before products with x in 8 bits
  cudaDeviceProp properties_{};
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Event> stage_begin_, stage_end_;
  WeightBlock weights_;
  std::vector<InPlace> in_place_;
  std::unique_ptr<Staging> staging_;
  std::unique_ptr<CudaOps> ops_;
};

}  // namespace

std::unique_ptr<Device> make_device(int index, DType precision, WeightFormat weights, bool int8_activations) {
  if (precision != DType::bf16) {
    throw Error(Code::bad_argument,
                text("Expected 'bf16' for options.precision on CUDA, received '%s'; with device 'cpu' it is computed.",
                     dtype_name(precision)));
  }
  if (const std::string why = driver_problem(); !why.empty()) unavailable(index, why);
  int count = 0;
  check(cudaGetDeviceCount(&count), "counting GPUs");
  if (index < 0 || index >= count) {
    unavailable(index,
                text("this machine has %d, cuda:0%s", count, count > 1 ? text(" to cuda:%d", count - 1).c_str() : ""));
  }
  if (const std::string why = device_problem(index); !why.empty()) unavailable(index, why);
  return std::make_unique<CudaDevice>(index, weights, int8_activations);
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
