#include "base/tensor.h"

namespace drivlm {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
    case DType::f64: return "f64";
  }
  return "?";
}

namespace {
std::string brackets(const int64_t* dims, int rank) {
  std::string out = "[";
  for (int i = 0; i < rank; ++i) {
    if (i) out += ", ";
    out += dims[i] < 0 ? "*" : std::to_string(dims[i]);
  }
  return out + "]";
}
}  // namespace

std::string describe(const Tensor& tensor) {
  return std::string(dtype_name(tensor.dtype)) + " " + brackets(tensor.shape, tensor.rank);
}

void expect_shape(const char* op, const char* name, const Tensor& tensor, std::initializer_list<int64_t> dims) {
  bool ok = tensor.data != nullptr && tensor.rank == static_cast<int>(dims.size());
  int i = 0;
  for (int64_t dim : dims) {
    if (ok && dim >= 0 && tensor.shape[i] != dim) ok = false;
    ++i;
  }
  if (!ok) {
    throw Error(Code::internal, std::string(op) + ": " + name + ": expected " +
                                    brackets(dims.begin(), static_cast<int>(dims.size())) + ", found " +
                                    (tensor.data ? describe(tensor) : "nothing"));
  }
}

}  // namespace drivlm
