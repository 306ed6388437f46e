// Linear layers of more than 8 rows over weights in 8 bits, with activations in 8 bits: linear.cu's kernel on m16n8k32 of bytes. Weights in 4 bits
// are made bytes before each product, by a kernel that reads them once.
//
//   q[r, :]   = round(x[r, :] / scale + zero), 0 to 255, by rounding.cuh
//   y[r, n]   = (q[r, :] * W[n, :] - zero sum(W[n, :])) scale w_scale[n]        then bias and the epilogues of linear.cu
//
//   x   [rows, k]       bf16
//   q   [rows, stride]  u8      in the order of S8Rows: two bytes of four are exchanged, as the order of k is free if both sides agree
//
// Tiling    Rounding: a row a warp, or four of them past 1024 values; the row is read twice, the second time from L1. The product: tiles of
//           linear.cu, whose steps of 32 values of k are 64 bytes here.
// Traffic   rounding reads x once and writes half of it: 13 tiles before proj are 27 MB and 14 MB, 12 us at 3.35 TB/s, 200 us at 205 GB/s. Where x is
//           what a norm gives, norm.cu writes q and there is no rounding here. Where it is what an activation or attention gives, the ends of
//           a row are known when its last block is done: then a kernel of its own.
//           4-bit weights to bytes: 0.5625 bytes read and one written a weight, and read again by the product; beside the arithmetic of many
//           rows that is little, of 9 to 64 rows it is three times what a product of 4-bit weights with x in bf16 would read.
//           The product reads half the bytes of bf16's, at twice its rate.
// Numerics  sums are exact in 32 bits for k up to 66 000; as the CPU computes it, fused multiply-add included, bit for bit but for the order of
//           the last f32 products.
// Needs     k a multiple of 8.
// Checked   test/emulator/linear_test.cpp, linear_int8, linear_int4_bytes.

#include "kernels/cuda/linear_kernel.cuh"
#include "kernels/cuda/rounding.cuh"

namespace drivlm::cuda {

namespace {

// kWarps warps share a row.
template <int kWarps>
__global__ void __launch_bounds__(128)
    round_rows_kernel(uint8_t* out, InputScale* scales, const bf16* x, int rows, int k, int stride) {
  constexpr int kLanes = 32 * kWarps;
  SHARED_ARRAY(float, s_most, [2][kWarps]);
  const int lane = threadIdx.x % kLanes, row = blockIdx.x * (4 / kWarps) + threadIdx.x / kLanes;
  if (row >= rows) return;  // whole warps, or the whole block
  const bf16* from = x + size_t(row) * k;
  float ends[2] = {0, 0};
  for (int c = lane * 8; c < k; c += kLanes * 8) {
    float values[8];
    unpack8(values, load16(from + c));
    widen_ends(ends, values);
  }
  const Rounding rounding = rounding_of_row<kWarps>(ends, s_most, scales + row, lane == 0);
  for (int c = lane * 8; c < stride; c += kLanes * 8) {
    uint2 bytes = make_uint2(0, 0);
    if (c < k) {
      float values[8];
      unpack8(values, load16(from + c));
      bytes = rounding.eight(values);
    }
    *reinterpret_cast<uint2*>(out + size_t(row) * stride + c) = bytes;
  }
}

// A warp a row.
__global__ void __launch_bounds__(128)
    bytes_of_s4_kernel(uint8_t* out, RowScale* scales, WeightView w, int rows, int stride) {
  const int lane = threadIdx.x % 32, row = blockIdx.x * 4 + threadIdx.x / 32;
  if (row >= rows) return;  // whole warps
  const uint16_t* groups = static_cast<const uint16_t*>(w.scales) + size_t(row) * w.row_scales;
  const auto scale_of = [&](int group) { return bf16_low(groups[group]); };
  float top = 0;
  for (int group = lane; group < w.row_scales; group += 32) top = fmaxf(top, fabsf(scale_of(group)));
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, flip));
  const float inverse = top > 0 ? (127.f / 8) / top : 0.f;
  int sum = 0;
  for (int k = lane * 8; k < stride; k += 32 * 8) {
    const uint32_t word =
        *reinterpret_cast<const uint32_t*>(w.data + size_t(row) * w.row_bytes + S4Groups::byte_of_eight(k));
    const float factor = scale_of(k / int(kS4Group)) * inverse;
    uint32_t halves[2] = {};
#pragma unroll
    for (
        int i = 0; i < 8;
        ++i) {  // value 2 i of the word is nibble i, 2 i + 1 nibble i + 4; to the nearest, in the low bits of 1.5 * 2^23
      const float q = float(int(word >> (i % 2 * 16 + i / 2 * 4) & 15) - 8);
      const int byte = int(__float_as_uint(fmaf(q, factor, 12582912.f)) - 0x4b400000u);
      sum += byte;
      constexpr int kPlace[] = {0, 2, 1, 3};
      halves[i / 4] |= (uint32_t(byte) & 0xff) << (8 * kPlace[i % 4]);
    }
    *reinterpret_cast<uint2*>(out + size_t(row) * stride + k) = make_uint2(halves[0], halves[1]);
  }
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(kAllLanes, sum, flip);
  if (lane == 0) scales[row] = {top * (8.f / 127), sum};
}

}  // namespace

void bytes_of_s4(uint8_t* out, RowScale* scales, const Weights& w, int64_t n, cudaStream_t stream) {
  if (w.encoding != Encoding::s4) throw Error(Code::internal, "bytes_of_s4: expected weights in 4 bits");
  launch(bytes_of_s4_kernel, dim3(unsigned(ceil_div(n, 4))), 128, 0, stream, out, scales, view_of(w), int(n),
         int(w.stride));
}

void round_rows(uint8_t* out, InputScale* scales, const bf16* x, int64_t rows, int64_t k, int64_t stride,
                cudaStream_t stream) {
  if (k % 8 != 0 || stride % 16 != 0) throw Error(Code::internal, "round_rows: k a multiple of 8, rows of 16 bytes");
  const auto run = [&](auto kernel, int64_t rows_per_block) {
    launch(kernel, dim3(unsigned(ceil_div(rows, rows_per_block))), 128, 0, stream, out, scales, x, int(rows), int(k),
           int(stride));
  };
  k <= 1024 ? run(round_rows_kernel<1>, 4) : run(round_rows_kernel<4>, 1);
}

void linear_int8(const Linear& job, LinearTile tile, cudaStream_t stream) {
  if (job.w.encoding != Encoding::s8) throw Error(Code::internal, "linear: x in 8 bits needs weights in 8 bits");
  if (job.splits > 1) {
    if (job.rows > kSplitRows) throw Error(Code::internal, "linear: k of x in 8 bits is split for few rows only");
    return tile == LinearTile::t16x64 ? run_linear<Tile16x64, S8Bytes, Epilogue::store, int32_t>(job, stream)
                                      : run_linear<Tile64x64, S8Bytes, Epilogue::store, int32_t>(job, stream);
  }
  switch (tile) {
    case LinearTile::t128x128x4: return run_linear_tile<Tile128x128x4, S8Bytes>(job, stream);
    case LinearTile::t128x128x3: return run_linear_tile<Tile128x128x3, S8Bytes>(job, stream);
    case LinearTile::t64x128: return run_linear_tile<Tile64x128, S8Bytes>(job, stream);
    case LinearTile::t64x64: return run_linear_tile<Tile64x64, S8Bytes>(job, stream);
    case LinearTile::t16x64: return run_linear_tile<Tile16x64, S8Bytes>(job, stream);
  }
}

}  // namespace drivlm::cuda
