#include "kernels/cuda/cuda_memory.h"

#include <algorithm>
#include <cstring>

#include "base/numeric.h"

namespace drivlm::cuda {

namespace {
double gib(size_t bytes) { return double(bytes) / double(1 << 30); }
}  // namespace

DeviceMemory::DeviceMemory(size_t size, const char* what) {
  bytes = size;
  if (size == 0) return;
  const cudaError_t error = cudaMalloc(&data, size);
  if (error == cudaSuccess) return;
  cudaGetLastError();
  data = nullptr;
  if (error != cudaErrorMemoryAllocation) throw_cuda_error(error, what);
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  const size_t missing = size > free_bytes ? size - free_bytes : 0;
  throw Error(
      Code::out_of_memory,
      text("%s: %.2f GiB do not fit into the GPU's memory: %.2f of %.2f GiB are free%s. Lower kvMemory, maxContext or "
           "maxBatch, or load a smaller model.",
           what, gib(size), gib(free_bytes), gib(total_bytes),
           missing ? text(", %.2f GiB are missing", gib(missing)).c_str() : ", but not in one piece"));
}

DeviceMemory::~DeviceMemory() { cudaFree(data); }

RegisteredMemory::RegisteredMemory(const void* host, size_t size) : host(host) {
  void* address = const_cast<void*>(host);
  if (cudaHostRegister(address, size, cudaHostRegisterMapped | cudaHostRegisterReadOnly) != cudaSuccess) {
    cudaGetLastError();  // not on this system, or not for mapped files
    return;
  }
  bytes = size;
  if (cudaHostGetDevicePointer(&data, address, 0) == cudaSuccess) return;
  cudaGetLastError();
  data = nullptr;
}

RegisteredMemory::~RegisteredMemory() {
  if (bytes) cudaHostUnregister(const_cast<void*>(host));
}

Staging::Staging(cudaStream_t stream) : stream_(stream) {
  for (int i = 0; i < kBuffers; ++i) {
    check(cudaMallocHost(&buffers_[i], kBytes), "reserving pinned memory");
    check(cudaEventCreateWithFlags(&sent_[i], cudaEventDisableTiming), "making an event");
  }
}

Staging::~Staging() {
  for (int i = 0; i < kBuffers; ++i) {
    if (used_[i]) cudaEventSynchronize(sent_[i]);
    if (sent_[i]) cudaEventDestroy(sent_[i]);
    cudaFreeHost(buffers_[i]);
  }
}

void* Staging::next() {
  current_ = (current_ + 1) % kBuffers;
  if (used_[current_]) check(cudaEventSynchronize(sent_[current_]), "waiting for a copy to the GPU");
  return buffers_[current_];
}

void Staging::send(void* to, size_t bytes) {
  check(cudaMemcpyAsync(to, buffers_[current_], bytes, cudaMemcpyHostToDevice, stream_), "copying to the GPU");
  check(cudaEventRecord(sent_[current_], stream_), "copying to the GPU");
  used_[current_] = true;
}

void Staging::copy(void* to, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes; done += kBytes) {
    const size_t piece = std::min(kBytes, bytes - done);
    std::memcpy(next(), static_cast<const char*>(from) + done, piece);
    send(static_cast<char*>(to) + done, piece);
  }
}

void WeightBlock::reserve(size_t bytes) { block_ = std::make_unique<DeviceMemory>(bytes, "The weights"); }

void* WeightBlock::take(size_t bytes, const std::string& what) {
  bytes = size_t(round_up(int64_t(bytes), kAlign));
  if (!block_) {
    pieces_.push_back(std::make_unique<DeviceMemory>(bytes, what.c_str()));
    return pieces_.back()->data;
  }
  if (bytes > block_->bytes - used_) throw Error(Code::internal, what + ": the plan of the weights was too small.");
  void* out = static_cast<char*>(block_->data) + used_;
  used_ += bytes;
  return out;
}

RowReader::RowReader(const HostTensor& source) : source_(source) {}

const char* RowReader::locate(int64_t row) {
  if (row < first_) run_ = 0, first_ = 0;
  while (row - first_ >= source_.runs[run_].rows) first_ += source_.runs[run_++].rows;
  return static_cast<const char*>(source_.runs[run_].data) + (row - first_) * source_.cols * dtype_bytes(source_.dtype);
}

void RowReader::read_bf16(int64_t row, uint16_t* out) {
  const char* from = locate(row);
  if (source_.dtype == DType::bf16) {
    std::memcpy(out, from, source_.cols * 2);
    return;
  }
  for (int64_t i = 0; i < source_.cols; ++i) {
    float value;
    if (source_.dtype == DType::f32) {
      std::memcpy(&value, from + 4 * i, 4);
    } else {
      f16 half;
      std::memcpy(&half, from + 2 * i, 2);
      value = to_float(half);
    }
    out[i] = from_float<drivlm::bf16>(value).bits;
  }
}

void RowReader::read_f32(int64_t row, float* out) {
  const char* from = locate(row);
  for (int64_t i = 0; i < source_.cols; ++i) {
    if (source_.dtype == DType::f32) {
      std::memcpy(out + i, from + 4 * i, 4);
    } else {
      uint16_t bits;
      std::memcpy(&bits, from + 2 * i, 2);
      out[i] = source_.dtype == DType::bf16 ? to_float(drivlm::bf16{bits}) : to_float(f16{bits});
    }
  }
}

}  // namespace drivlm::cuda
