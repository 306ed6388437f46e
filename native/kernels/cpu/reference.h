// What the reference ops share: typed access to f32 or bf16 storage, and sums that the compiler can vectorise without reordering
// anything at random (16 running sums, added in a fixed order).
#pragma once

#include <algorithm>
#include <vector>

#include "base/numeric.h"
#include "base/tensor.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/thread_pool.h"

// ThreadSanitizer looks up every number that a sum reads, which makes it fifty times slower. The innermost loops go without; what an op
// writes is still seen.
#if defined(__SANITIZE_THREAD__)
#define DRIVLM_INNERMOST __attribute__((no_sanitize("thread"), noinline, optimize("O3")))
#else
#define DRIVLM_INNERMOST
#endif

namespace drivlm {

template <class Body>
void ReferenceOps::parallel(int64_t count, int64_t grain, const Body& body) const {
  ThreadPool::instance().parallel_for(threads_, count, std::max<int64_t>(grain, 1), body);
}

// body(T{}) with T = float or bf16.
template <class Body>
void with_activation(const char* op, DType dtype, const Body& body) {
  if (dtype == DType::f32) return body(float{});
  if (dtype == DType::bf16) return body(bf16{});
  throw Error(Code::internal, std::string(op) + ": no plain form for " + dtype_name(dtype));
}

template <class T>
DRIVLM_INNERMOST void widen_row(float* out, const T* in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(in[i]);
}

template <class T>
void narrow_row(T* out, const float* in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = from_float<T>(in[i]);
}

DRIVLM_INNERMOST inline float dot(const float* a, const float* b, int64_t count) {
  constexpr int kLanes = 16;
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < count; ++i) sums[i % kLanes] += a[i] * b[i];
  float sum = 0;
  for (float s : sums) sum += s;
  return sum;
}

// sum += weight * values
DRIVLM_INNERMOST inline void add_scaled(float* sum, float weight, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] += weight * values[i];
}

// A buffer of the calling thread, kept for its next use. `slot` keeps buffers of one function apart.
inline float* thread_buffer(int slot, size_t count) {
  static thread_local std::vector<float> buffers[4];
  if (buffers[slot].size() < count) buffers[slot].resize(count);
  return buffers[slot].data();
}

}  // namespace drivlm
