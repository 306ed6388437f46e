// Linear layers of 9 to 64 rows whose tiles are fewer than the multiprocessors: k is split, and the parts are added up.
//
//   part[s]   = x * W^T over the s-th part of k            the kernel of linear.cu, linear_quantised.cu or linear_int8.cu
//   out       = epilogue(part[0] + part[1] + ... + bias)   the epilogues of linear.cu
//
//   part  [splits, rows, n]  f32; of x in 8 bits s32, the sums before scales and zero points
//
// Tiling    A tile has as many rows as x, so that W is read once: 16 x 64 up to 16 rows, else 64 x 64. As many parts as fill the
//           multiprocessors twice, of at least 256 values of k. Adding up: a thread two neighbouring columns of a row.
// Traffic   W once, and the parts written and read: for 64 rows of the 0.5B decoder's down (896 x 4864) on 16 multiprocessors 8.7 MB of W and 0.9
//           MB of parts.
// Numerics  parts are added in the order of k: the same result every time. Of x in 8 bits the sums are exact: the bits of the product in one part.
// Needs     as linear.cu.
// Checked   test/emulator/linear_test.cpp, linear_split.

#include <algorithm>

#include "kernels/cuda/linear_kernel.cuh"

namespace drivlm::cuda {

namespace {

struct CombineArgs {
  const void* part;
  const InputScale* x_scales;
  WeightView w;
  const float* bias;
  const float* scale;
  void* out;
  int splits, rows, n;
};

// Sum: of a part. Integers become numbers by the scales of S8Bytes.
template <class Sum, Epilogue kEpilogue, class Out>
__global__ void __launch_bounds__(256) combine_kernel(CombineArgs p) {
  const int pairs = (p.n + 1) / 2, i = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (i >= p.rows * pairs) return;
  const int m = i / pairs, n = i % pairs * 2;
  const bool second = n + 1 < p.n;
  Sum sum0 = 0, sum1 = 0;
  for (int split = 0; split < p.splits; ++split) {
    const Sum* part = static_cast<const Sum*>(p.part) + (size_t(split) * p.rows + m) * p.n + n;
    sum0 += part[0];
    if (second) sum1 += part[1];
  }
  const float bias0 = p.bias ? p.bias[n] : 0.f, bias1 = p.bias && second ? p.bias[n + 1] : 0.f;
  float y0, y1;
  if constexpr (std::is_same_v<Sum, int32_t>) {
    y0 = S8Bytes::value(sum0, S8Bytes::column(p.w, n), p.x_scales, m, bias0);
    y1 = S8Bytes::value(sum1, S8Bytes::column(p.w, second ? n + 1 : n), p.x_scales, m, bias1);
  } else {
    y0 = sum0 + bias0, y1 = sum1 + bias1;
  }
  float scale0 = 1, scale1 = 1;
  if (kEpilogue == Epilogue::add && p.scale) scale0 = p.scale[n], scale1 = second ? p.scale[n + 1] : 1.f;
  finish<kEpilogue, Out>(p.out, p.n, m, n, y0, y1, scale0, scale1);
}

template <class Sum, Epilogue kEpilogue, class Out>
void combine(const CombineArgs& args, cudaStream_t stream) {
  const int64_t threads = int64_t(args.rows) * ((args.n + 1) / 2);
  launch(combine_kernel<Sum, kEpilogue, Out>, dim3(unsigned(ceil_div(threads, 256))), 256, 0, stream, args);
}

template <class Sum>
void combine(const CombineArgs& args, const Linear& job, cudaStream_t stream) {
  switch (job.after) {
    case Epilogue::store:
      return job.out_f32 ? combine<Sum, Epilogue::store, float>(args, stream)
                         : combine<Sum, Epilogue::store, bf16>(args, stream);
    case Epilogue::gelu: return combine<Sum, Epilogue::gelu, bf16>(args, stream);
    case Epilogue::add: return combine<Sum, Epilogue::add, bf16>(args, stream);
    case Epilogue::gated: return combine<Sum, Epilogue::gated, bf16>(args, stream);
  }
}

}  // namespace

int choose_linear_splits(int64_t rows, int64_t n, int64_t k, const DeviceLimits& limits) {
  constexpr int64_t kLeast = 256;  // values of k in a part
  const int64_t tiles = ceil_div(n, 64);
  if (rows > kSplitRows || k % 8 != 0 || tiles >= limits.multiprocessors) return 1;
  const int64_t room = kPartialBytes / int64_t(sizeof(float)) / (rows * n);
  return int(std::max<int64_t>(1, std::min({2 * limits.multiprocessors / tiles, k / kLeast, room})));
}

void linear_split(const Linear& job, int splits, float* partial, cudaStream_t stream) {
  if (job.rows == 0 || job.n == 0) return;
  Linear part = job;
  part.out = partial, part.out_f32 = true, part.after = Epilogue::store, part.splits = splits;
  part.bias = part.scale = nullptr;
  linear(part, job.rows <= 16 ? LinearTile::t16x64 : LinearTile::t64x64, stream);
  const CombineArgs args{partial, job.x_scales, view_of(job.w), job.bias,  job.scale,
                         job.out, splits,       int(job.rows),  int(job.n)};
  job.x_scales ? combine<int32_t>(args, job, stream) : combine<float>(args, job, stream);
}

}  // namespace drivlm::cuda
