#include "kernels/cpu/cpu_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/large_pages.h"
#include "base/mapped_file.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/thread_pool.h"

namespace drivlm {

namespace {

constexpr int64_t kPieceValues = 16 << 10;  // of a vector, read at a time
constexpr size_t kVectorsBytes = 4 * kLargePage;

template <class T>
DRIVLM_INNERMOST void widen_bytes(float* out, const char* bytes, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    out[i] = to_float(value);
  }
}

}  // namespace

HostMemory::HostMemory(size_t size, const std::string& what, bool whole) {
  bytes = size;
  if (size == 0) return;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (whole ? 0 : MAP_NORESERVE);
  data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) {
    data = nullptr;
    throw Error(Code::out_of_memory,
                text("%s: %zu MiB could not be reserved (%s).", what.c_str(), size >> 20, std::strerror(errno)));
  }
  if (size >= kLargePage) ::madvise(data, size, MADV_HUGEPAGE);
}

HostMemory::~HostMemory() {
  if (data) ::munmap(data, bytes);
}

MappedMatrix::MappedMatrix(const HostTensor& source) : dtype_(source.dtype), runs_(source.runs) {
  rows = source.rows;
  cols = source.cols;
  int64_t first = 0;
  for (const HostRows& run : runs_) {
    first_.push_back(first);
    first += run.rows;
  }
}

const char* MappedMatrix::stored_row(int64_t index) const {
  const size_t run = std::upper_bound(first_.begin(), first_.end(), index) - first_.begin() - 1;
  return static_cast<const char*>(runs_[run].data) + (index - first_[run]) * cols * dtype_bytes(dtype_);
}

void MappedMatrix::read(int64_t first, int64_t count, char* out) const {
  const int64_t row_bytes = cols * static_cast<int64_t>(dtype_bytes(dtype_));
  for (size_t i = 0; i < runs_.size(); ++i) {
    const HostRows& run = runs_[i];
    const int64_t from = std::max(first, first_[i]), to = std::min(first + count, first_[i] + run.rows);
    if (to <= from) continue;
    const char* stored = static_cast<const char*>(run.data) + (from - first_[i]) * row_bytes;
    char* at = out + (from - first) * row_bytes;
    if (run.file) {
      run.file->read(stored - run.file->data(), at, (to - from) * row_bytes);
    } else {
      std::memcpy(at, stored, (to - from) * row_bytes);
    }
  }
}

void MappedMatrix::widen(const char* stored, int64_t count, float* out) const {
  switch (dtype_) {
    case DType::f32: std::memcpy(out, stored, count * cols * sizeof(float)); return;
    case DType::bf16: return widen_bytes<bf16>(out, stored, count * cols);
    case DType::f16: return widen_bytes<f16>(out, stored, count * cols);
    default: throw Error(Code::internal, "MappedMatrix: stored type");
  }
}

void MappedMatrix::row(int64_t index, float* out) const { widen(stored_row(index), 1, out); }

void MappedMatrix::row(int64_t index, bf16* out) const {
  if (dtype_ == DType::bf16) {
    std::memcpy(out, stored_row(index), cols * sizeof(bf16));
    return;
  }
  std::vector<float> wide(cols);
  row(index, wide.data());
  for (int64_t i = 0; i < cols; ++i) out[i] = from_float<bf16>(wide[i]);
}

void MappedMatrix::drop(int64_t first, int64_t count) const {
  const int64_t row_bytes = cols * static_cast<int64_t>(dtype_bytes(dtype_));
  for (size_t i = 0; i < runs_.size(); ++i) {
    const HostRows& run = runs_[i];
    const int64_t from = std::max<int64_t>(first - first_[i], 0), to = std::min(first + count - first_[i], run.rows);
    if (!run.file || to <= from) continue;
    run.file->drop(static_cast<const char*>(run.data) - run.file->data() + from * row_bytes, (to - from) * row_bytes);
  }
}

MappedGated::MappedGated(const HostTensor& gate_source, const HostTensor& up_source)
    : gate(gate_source), up(up_source) {
  rows = gate.rows + up.rows;
  cols = gate.cols;
}

CpuDevice::CpuDevice(DType precision, int threads)
    : CpuDevice(precision, threads,
                [threads](Device& device) { return std::make_unique<ReferenceOps>(device, threads); }) {}

CpuDevice::CpuDevice(DType precision, int threads,
                     const std::function<std::unique_ptr<ReferenceOps>(Device&)>& make_ops)
    : activation_(precision) {
  if (precision != DType::f32 && precision != DType::bf16) throw Error(Code::bad_argument, "The CPU runs f32 or bf16.");
  ThreadPool::instance().grow(threads);
  ops_ = make_ops(*this);
}

std::unique_ptr<Memory> CpuDevice::allocate(size_t bytes, const char* what) {
  return std::make_unique<HostMemory>(bytes, what, false);
}

std::unique_ptr<Matrix> CpuDevice::load_matrix(const HostTensor& source) {
  return std::make_unique<MappedMatrix>(source);
}

std::unique_ptr<Matrix> CpuDevice::load_gated(const HostTensor& gate, const HostTensor& up) {
  return std::make_unique<MappedGated>(gate, up);
}

std::unique_ptr<Matrix> CpuDevice::load_table(const HostTensor& source) {
  return std::make_unique<MappedMatrix>(source);
}

// Vectors are many and small: each in pages of its own cost a load more time in page faults than in reading them. Where AddressSanitizer looks for
// reads past a vector's end, each is an allocation.
float* CpuDevice::vector_room(int64_t count) {
#if defined(__SANITIZE_ADDRESS__)
  alone_.push_back(std::make_unique_for_overwrite<float[]>(count));
  return alone_.back().get();
#else
  const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
  if (vectors_.empty() || vectors_.back()->bytes - vectors_used_ < bytes) {
    vectors_.push_back(std::make_unique<HostMemory>(std::max(bytes, kVectorsBytes), "The vectors", false));
    vectors_used_ = 0;
  }
  float* const room = reinterpret_cast<float*>(static_cast<char*>(vectors_.back()->data) + vectors_used_);
  vectors_used_ += bytes;
  return room;
#endif
}

Tensor CpuDevice::load_vector(const HostTensor& source) {
  const MappedMatrix stored(source);
  const int64_t count = source.rows * source.cols;
  float* out = vector_room(count);
  const int64_t piece = std::max<int64_t>(1, kPieceValues / source.cols);  // rows
  std::vector<char> read(std::min(piece, source.rows) * source.cols * dtype_bytes(source.dtype));
  for (int64_t first = 0; first < source.rows; first += piece) {
    const int64_t rows = std::min(piece, source.rows - first);
    stored.read(first, rows, read.data());
    stored.widen(read.data(), rows, out + first * source.cols);
  }
  return Tensor(out, DType::f32, {count});
}

bool CpuDevice::keeps_mapping(const Matrix&) const { return true; }

size_t CpuDevice::matrix_bytes(int64_t rows, int64_t cols, Use, DType stored) const {
  return rows * cols * dtype_bytes(stored);
}

size_t CpuDevice::table_bytes(int64_t rows, int64_t cols, DType stored) const {
  return rows * cols * dtype_bytes(stored);
}

size_t CpuDevice::kv_bytes(const KvShape& s) const {
  return s.layers * s.pages * 2 * s.kv_heads * s.page_tokens * s.head_dim * dtype_bytes(activation_);
}

void CpuDevice::upload(Tensor to, const void* from) { std::memcpy(to.data, from, to.bytes()); }

void CpuDevice::download(void* to, Tensor from) { std::memcpy(to, from.data, from.bytes()); }

}  // namespace drivlm
