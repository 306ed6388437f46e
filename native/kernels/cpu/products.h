// Matrix products of training: factors stand by rows or by columns, and are packed for each product anew.
//
//   c[i, j] = sum over p of a(i, p) * b(j, p)
//
// f32 goes through the target's matrix form (gemm.h), with factors rounded to bf16 if the space asks for it; f64, the oracle, through plain loops.
// A sum is cut into pieces, so that a panel of b stays in L2. Where it is cut does not depend on the threads.
#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "kernels/cpu/gemm.h"

namespace drivlm::cpu {

// By rows: element (i, p) at data[i * stride + p]; else at data[p * stride + i].
template <class T>
struct Factor {
  const T* data;
  int64_t stride;
  bool by_rows = true;
};

// A factor b [n, k] that several products meet, packed once: the same panels, and so the same sums, that each would pack.
struct PackedFactor {
  const float* panels = nullptr;  // a line of 16 floats begins here
  int64_t n = 0, k = 0;
};

// Memory of one product, kept for the next.
struct ProductSpace {
  WeightKind kind = WeightKind::f32;  // what factors are multiplied as: f32 or bf16
  std::vector<float> panels;
};

// The kind for products in `precision`. bf16 is worth its rounding only where two of them are multiplied at once; elsewhere f32 is as fast.
WeightKind product_kind(const KernelTable& kernels, DType precision);

// c [m, n] with rows `stride` apart, plus bias [n] if there is one. add: to what is there. f32: on the threads of `workers`; `space` grows where
// it must.
template <class T>
void product(const KernelTable& kernels, Workers& workers, ProductSpace& space, T* c, int64_t stride, Factor<T> a,
             Factor<T> b, int64_t m, int64_t n, int64_t k, bool add, const T* bias = nullptr);

// Floats that a packed factor takes; pack_factor writes them to `to`, which begins a line of 64 bytes, as `aligned` gives one.
float* aligned(std::vector<float>& memory);  // its first line; 16 floats more are wanted
int64_t packed_floats(WeightKind kind, int64_t n, int64_t k);
PackedFactor pack_factor(const KernelTable& kernels, WeightKind kind, float* to, Factor<float> b, int64_t n, int64_t k);

// product() with the first n <= b.n rows of a packed factor, in all of its depth, on the calling thread.
void product(const KernelTable& kernels, WeightKind kind, float* c, int64_t stride, Factor<float> a,
             const PackedFactor& b, int64_t m, int64_t n, bool add);

// Room for products of up to these sizes, so that one inside of a threads' region allocates nothing.
void reserve(ProductSpace& space, int64_t n, int64_t k);

}  // namespace drivlm::cpu
