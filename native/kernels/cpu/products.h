// Matrix products of training: factors stand by rows or by columns, and are packed for each product anew.
//
//   c[i, j] = sum over p of a(i, p) * b(j, p)
//
// f32 goes through the target's matrix form (gemm.h); f64, the oracle, through plain loops. A sum is cut into pieces of kDepth terms: a panel of
// b then stays in L2. Where it is cut does not depend on the threads.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/gemm.h"

namespace drivlm::cpu {

// By rows: element (i, p) at data[i * stride + p]; else at data[p * stride + i].
template <class T>
struct Factor {
  const T* data;
  int64_t stride;
  bool by_rows = true;
};

// Memory of one product, kept for the next.
struct ProductSpace {
  std::vector<float> panels, rows;
};

// c [m, n] with rows `stride` apart, plus bias [n] if there is one. add: to what is there. f32: on the threads of `workers`; space must hold what
// product_space says, which reserve() sees to.
template <class T>
void product(const KernelTable& kernels, Workers& workers, ProductSpace& space, T* c, int64_t stride, Factor<T> a,
             Factor<T> b, int64_t m, int64_t n, int64_t k, bool add, const T* bias = nullptr);

// Room for products of up to these sizes, so that one inside of a threads' region allocates nothing.
void reserve(ProductSpace& space, int64_t m, int64_t n, int64_t k);

}  // namespace drivlm::cpu
