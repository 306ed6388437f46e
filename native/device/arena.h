// Scratch memory of one owner, taken front to back at load and then reused for ever. Over no memory it only measures.
#pragma once

#include "base/tensor.h"

namespace drivlm {

class Arena {
 public:
  Arena() = default;  // measures
  Arena(void* base, size_t bytes) : base_(static_cast<char*>(base)), bytes_(bytes) {}

  Tensor take(DType dtype, std::initializer_list<int64_t> dims) {
    static char nowhere;
    Tensor tensor(base_ ? base_ + used_ : &nowhere, dtype, dims);
    used_ += (static_cast<size_t>(tensor.bytes()) + kAlign - 1) / kAlign * kAlign;
    if (base_ && used_ > bytes_) throw Error(Code::internal, "Arena: the plan was too small");
    return tensor;
  }

  bool measures() const { return base_ == nullptr; }
  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlign = 256;
  char* base_ = nullptr;
  size_t bytes_ = 0, used_ = 0;
};

}  // namespace drivlm
