// Linear layers of more than 8 rows over weights in 8 and 4 bits, with activations in bf16: linear.cu's kernel, with the weights widened to bf16
// between global and shared memory.
//
// Traffic   W once in its own bytes; the products and what they cost are those of bf16.
// Numerics  int8: q is exact in bf16, the row's scale is applied to the f32 sum. int4: q times its group's scale, rounded to bf16.
// Checked   test/emulator/linear_test.cpp, linear_quantised.

#include "kernels/cuda/linear_kernel.cuh"

namespace drivlm::cuda {

namespace {

// Steps of 32: with 64, what a thread holds of the weights on their way spills on sm_90.
using Tile64x64x32 = Tile<64, 64, 32, 4, 2, 2>;

template <class Format>
void run(const Linear& job, LinearTile tile, cudaStream_t stream) {
  switch (tile) {
    case LinearTile::t64x128: return run_linear_tile<Tile64x128, Format>(job, stream);
    case LinearTile::t64x64: return run_linear_tile<Tile64x64x32, Format>(job, stream);
    case LinearTile::t16x64: return run_linear_tile<Tile16x64, Format>(job, stream);
    default: throw Error(Code::internal, text("linear: no tile %s for weights in 8 or 4 bits", linear_tile_name(tile)));
  }
}

}  // namespace

void linear_quantised(const Linear& job, LinearTile tile, cudaStream_t stream) {
  if (job.k % 8 != 0) throw Error(Code::internal, "linear: weights in 8 or 4 bits need k to be a multiple of 8");
  if (job.w.encoding == Encoding::s8) return run<S8Rows>(job, tile, stream);
  run<S4Groups>(job, tile, stream);
}

}  // namespace drivlm::cuda
