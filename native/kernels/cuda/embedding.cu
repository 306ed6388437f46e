// Embedding lookup. Image slots are spliced by writing the projector's output into the same rows.
//
//   out[i, :] = table[ids[i], :]
//
//   table  [vocab, table_stride]  bf16
//   ids    [count]                i32    in range, the caller has checked
//   out    [count, dim]           bf16
//
// Tiling    a thread moves 16 bytes. Traffic: two passes over count x dim; microseconds.
// Needs     dim a multiple of 8; rows 16-byte aligned.
// Checked   test/emulator/vision_test.cpp, gather.

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

namespace {

__global__ void __launch_bounds__(128)
    gather_kernel(bf16* out, const int32_t* ids, const bf16* table, int64_t table_stride, int dim) {
  const int64_t i = blockIdx.x;
  const bf16* from = table + ids[i] * table_stride;
  for (int c = threadIdx.x * 8; c < dim; c += 128 * 8) store16(out + i * dim + c, load16(from + c));
}

}  // namespace

void gather(bf16* out, const int32_t* ids, int64_t count, const bf16* table, int64_t table_stride, int64_t dim,
            cudaStream_t stream) {
  launch(gather_kernel, dim3(unsigned(count)), 128, 0, stream, out, ids, table, table_stride, int(dim));
}

void CudaOps::gather(Tensor out, const int32_t* ids, int64_t count, const Matrix& table) {
  expect_shape("gather", "out", out, {count, table.cols});
  expect_bf16("gather", "out", out);
  if (count == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= table.rows) {
      throw Error(Code::internal,
                  text("gather: id %d is not in a table of %lld rows", ids[i], static_cast<long long>(table.rows)));
    }
  }
  const cudaStream_t on = stream();
  id_lists_.clear();
  id_lists_.add(ids, size_t(count));
  send(id_lists_);
  cuda::gather(out.as<bf16>(), id_lists_.at<int32_t>(0), count, static_cast<const bf16*>(ours(table).weights.data),
               ours(table).weights.stride, table.cols, on);
}

}  // namespace drivlm::cuda
