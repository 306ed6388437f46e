// What the ops check before they launch, in words, and where things lie in the paged cache.
#pragma once

#include "device/ops.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/kernels.h"

namespace drivlm::cuda {

inline const CudaMatrix& ours(const Matrix& matrix) { return static_cast<const CudaMatrix&>(matrix); }

inline void expect_bf16(const char* op, const char* name, const Tensor& tensor) {
  if (tensor.dtype != DType::bf16) {
    throw Error(Code::internal, text("%s: %s: expected bf16, found %s", op, name, describe(tensor).c_str()));
  }
}

// f32 parameters of `size` values; null where the tensor is empty.
inline const float* parameters(const char* op, const char* name, const Tensor& tensor, int64_t size) {
  if (!tensor) return nullptr;
  if (tensor.dtype != DType::f32 || tensor.count() != size) {
    throw Error(Code::internal, text("%s: %s: expected f32 [%lld], found %s", op, name, static_cast<long long>(size),
                                     describe(tensor).c_str()));
  }
  return tensor.as<float>();
}

// Keys of one layer; the values follow them. All layers are [pages, kv_heads] blocks twice.
inline int64_t kv_page_bytes(const KvShape& s) { return s.kv_heads * kv_block_bytes(s.head_dim, s.format); }
inline void* layer_keys(const Kv& kv, int64_t layer) {
  return static_cast<char*>(kv.data) + 2 * layer * kv.shape.pages * kv_page_bytes(kv.shape);
}
inline void* layer_values_of(const Kv& kv, int64_t layer) {
  return static_cast<char*>(layer_keys(kv, layer)) + kv.shape.pages * kv_page_bytes(kv.shape);
}

inline void expect_kv(const char* op, const Kv& kv, int64_t layer) {
  if (!kv.data || kv.shape.page_tokens != kPageTokens || layer < 0 || layer >= kv.shape.layers) {
    throw Error(Code::internal, text("%s: expected pages of %d tokens and a layer below %lld, found %lld and %lld", op,
                                     kPageTokens, static_cast<long long>(kv.shape.layers),
                                     static_cast<long long>(kv.shape.page_tokens), static_cast<long long>(layer)));
  }
}

}  // namespace drivlm::cuda
