// What follows the product y = x * W^T + bias of a linear layer, in the same pass over the sums. Includes nothing: kernels of every
// instruction set know it.
#pragma once

namespace drivlm {

enum class Epilogue : unsigned char {
  store,  // out = y
  gelu,   // out = gelu(y), the erf form
  add,    // out += scale * y
  gated,  // out [rows, n / 2] = silu(gate) * up; W holds the rows of both
};

}  // namespace drivlm
