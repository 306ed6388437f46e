// A Tensor is a view of memory that somebody else owns: dense, slowest dimension first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/error.h"

namespace drivlm {

enum class DType : uint8_t { f32, f16, bf16, i32, u8, f64 };  // f64: oracles alone

constexpr int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::u8: return 1;
    case DType::f64: return 8;
  }
  return 0;
}

const char* dtype_name(DType dtype);

struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;  // host or device address, as the device that made it has it
  DType dtype = DType::f32;
  int rank = 0;
  int64_t shape[kMaxRank] = {};

  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> dims) : data(data), dtype(dtype) {
    for (int64_t dim : dims) shape[rank++] = dim;
  }

  explicit operator bool() const { return data != nullptr; }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }

  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t bytes() const { return count() * dtype_bytes(dtype); }

  // Elements of one entry of the first dimension.
  int64_t row_size() const { return shape[0] == 0 ? 0 : count() / shape[0]; }

  // Entries [first, first + n) of the first dimension.
  Tensor rows(int64_t first, int64_t n) const {
    Tensor part = *this;
    part.data = static_cast<char*>(data) + first * row_size() * dtype_bytes(dtype);
    part.shape[0] = n;
    return part;
  }

  // The same memory under another shape of equal count.
  Tensor reshaped(std::initializer_list<int64_t> dims) const {
    Tensor same(data, dtype, dims);
    if (same.count() != count()) throw Error(Code::internal, "Tensor::reshaped: counts differ");
    return same;
  }
};

// "bf16 [13, 1025, 1024]"
std::string describe(const Tensor& tensor);

// Throws INTERNAL "op: name: expected [..], found [..]" unless the shape is as said. -1 accepts any extent.
void expect_shape(const char* op, const char* name, const Tensor& tensor, std::initializer_list<int64_t> dims);

}  // namespace drivlm
