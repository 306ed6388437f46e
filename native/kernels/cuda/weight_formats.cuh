// How the weights of a matrix lie on the device, each format a type that matvec.cu and linear_kernel.cuh are written over.
//
//   Bf16      [n, stride] bf16, stride a multiple of 8
//   S8Rows    [n, stride] int8, stride a multiple of 16; RowScale [n]. Of four bytes that follow each other the second and third are
//             exchanged, so that two neighbours are the low bytes of a word's halves.
//   S4Groups  [n, stride] nibbles q + 8, stride a multiple of 128; bf16 scales [n, stride / 32]. 128 weights are 64 bytes: lane t of four
//             has 16 bytes, whose word j holds weights 32 j + 8 t + (0 ... 7), those of even number in the low half, from the lowest
//             nibble up, their neighbours in the high half.
//
// What lies past the last weight of a row is zero (s4: of a scale that is zero, or beside an x that is).
//
// A format has
//
//   Piece      what a lane of matvec.cu loads of rows g and g + 8 at a time: 16 bytes each, and scales if they vary along a row
//   multiply   adds the products of a piece; the lane's x are asked for by k
//   row_scale  what the sums of a row are multiplied with at the end: its scale, and what widened weights are a part of, a power of two
//   Eight      eight neighbouring weights of a row on their way into shared memory as bf16; kDirect: copied there without registers, 16 bytes
//              at a time
//   Sum        what products in linear_kernel.cuh are added up in; value: such a sum as a number, of row m of x and row n of W, and the bias
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

struct WeightView {
  const unsigned char* data;
  const void* scales;
  int row_bytes;   // a multiple of 16
  int row_scales;  // of s4
};

inline WeightView view_of(const Weights& w) {
  const int bits = w.encoding == Encoding::bf16 ? 16 : w.encoding == Encoding::s8 ? 8 : 4;
  return {static_cast<const unsigned char*>(w.data), w.scales, int(w.stride * bits / 8), int(w.stride / kS4Group)};
}

// Rows g and g + 8 of 16 as the A operand of two products of depth 16, against x [8 columns] of the same k.
__device__ __forceinline__ void multiply_eight(float (&sum)[4], uint4 low, uint4 high, uint4 x) {
  const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
  mma_bf16(sum, first, x.x, x.y);
  mma_bf16(sum, second, x.z, x.w);
}

// 16 bytes of a row to shared memory. `valid` false, or past the row: zeros.
__device__ __forceinline__ void copy_weights16(uint32_t to, const WeightView& w, int row, int byte, bool valid) {
  cp_async16(to, w.data + size_t(row) * w.row_bytes + byte, valid && byte < w.row_bytes);
}

// Sums that are numbers but for the scale of the row of W.
template <class Format>
struct PlainSums {
  using Sum = float;
  struct Column {
    float scale;
  };
  __device__ __forceinline__ static Column column(const WeightView& w, int n) { return {Format::row_scale(w, n)}; }
  __device__ __forceinline__ static float value(float sum, Column column, const InputScale*, int, float bias) {
    return fmaf(sum, column.scale, bias);
  }
};

struct Bf16 : PlainSums<Bf16> {
  static constexpr int kWeights = 8;  // in 16 bytes
  static constexpr bool kDirect = true;

  struct Piece {
    uint4 low, high;
  };
  __device__ __forceinline__ static void load_scales(Piece&, const WeightView&, int, int, int, int) {}
  template <class LoadX>
  __device__ __forceinline__ static void multiply(float (&sum)[4], const Piece& piece, int step, int t, LoadX load_x) {
    multiply_eight(sum, piece.low, piece.high, load_x(step * 32 + t * 8));
  }
  __device__ __forceinline__ static float row_scale(const WeightView&, int) { return 1.f; }
};

struct S8Rows : PlainSums<S8Rows> {
  static constexpr int kWeights = 16;
  static constexpr bool kDirect = false;

  struct Piece {
    uint4 low, high;
  };
  __device__ __forceinline__ static void load_scales(Piece&, const WeightView&, int, int, int, int) {}

  __device__ __forceinline__ static uint4 widen(uint32_t first, uint32_t second) {
    return make_uint4(widen_bytes(first), widen_bytes(first >> 8), widen_bytes(second), widen_bytes(second >> 8));
  }

  template <class LoadX>
  __device__ __forceinline__ static void multiply(float (&sum)[4], const Piece& piece, int step, int t, LoadX load_x) {
    const int k = step * 64 + t * 16;
    multiply_eight(sum, widen(piece.low.x, piece.low.y), widen(piece.high.x, piece.high.y), load_x(k));
    multiply_eight(sum, widen(piece.low.z, piece.low.w), widen(piece.high.z, piece.high.w), load_x(k + 8));
  }
  __device__ __forceinline__ static float row_scale(const WeightView& w, int row) {
    return static_cast<const RowScale*>(w.scales)[row].scale * kWidenedBytes;
  }

  struct Eight {
    uint2 bytes;
  };
  __device__ __forceinline__ static Eight load8(const WeightView& w, int row, int k, bool valid) {
    Eight eight{make_uint2(0, 0)};
    if (valid && k < w.row_bytes) eight.bytes = *reinterpret_cast<const uint2*>(w.data + size_t(row) * w.row_bytes + k);
    return eight;
  }
  __device__ __forceinline__ static uint4 widen8(Eight eight) { return widen(eight.bytes.x, eight.bytes.y); }
};

// S8Rows against x in 8 bits, for linear_int8.cu: bytes meet bytes, and what the zero points of x add is taken away from the whole sum.
struct S8Bytes {
  static constexpr bool kDirect = true;
  using Sum = int32_t;
  using Column = RowScale;
  __device__ __forceinline__ static Column column(const WeightView& w, int n) {
    return static_cast<const RowScale*>(w.scales)[n];
  }
  __device__ __forceinline__ static float value(int32_t sum, Column column, const InputScale* rows, int m, float bias) {
    const InputScale row = rows[m];
    return fmaf(float(sum - row.zero * column.sum), column.scale * row.scale, bias);
  }
};

struct S4Groups : PlainSums<S4Groups> {
  static constexpr int kWeights = 32;
  static constexpr bool kDirect = false;

  struct Piece {
    uint4 low, high;
    uint2 low_scales, high_scales;  // four bf16 of each row
  };
  __device__ __forceinline__ static void load_scales(Piece& piece, const WeightView& w, int step, int row, int other,
                                                     int rows) {
    const bf16* scales = static_cast<const bf16*>(w.scales);
    const bool inside = step * 4 < w.row_scales;
    piece.low_scales = piece.high_scales = make_uint2(0, 0);
    if (inside && row < rows)
      piece.low_scales = *reinterpret_cast<const uint2*>(scales + size_t(row) * w.row_scales + step * 4);
    if (inside && other < rows)
      piece.high_scales = *reinterpret_cast<const uint2*>(scales + size_t(other) * w.row_scales + step * 4);
  }

  // Pairs of a quarter of q, exact. The nibbles of every other pair are taken into the mantissa of 128; those above them, the upper half of a
  // byte, are 16 (q + 8) times 2^-133 (see widen_bytes). Of both one multiply-add makes q / 4.
  __device__ __forceinline__ static uint4 widen(uint32_t word) {
    const auto lower = [](uint32_t pair) {
      return fma_bf16x2(and_xor<0x000f000fu, 0x43004300u>(pair), 0x3e803e80u, 0xc208c208u);
    };
    const auto upper = [](uint32_t pair) { return fma_bf16x2(pair & 0x00f000f0u, 0x7f007f00u, 0xc000c000u); };
    const uint32_t next = word >> 8;
    return make_uint4(lower(word), upper(word), lower(next), upper(next));
  }
  __device__ __forceinline__ static float scale(uint2 scales, int j) {
    const uint32_t pair = j < 2 ? scales.x : scales.y;
    return j % 2 == 0 ? bf16_low(pair) : bf16_high(pair);
  }

  // A group of 32 is one word of each lane.
  template <class LoadX>
  __device__ __forceinline__ static void multiply(float (&sum)[4], const Piece& piece, int step, int t, LoadX load_x) {
    const uint32_t low[4] = {piece.low.x, piece.low.y, piece.low.z, piece.low.w};
    const uint32_t high[4] = {piece.high.x, piece.high.y, piece.high.z, piece.high.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float group[4] = {};
      multiply_eight(group, widen(low[j]), widen(high[j]), load_x(step * 128 + j * 32 + t * 8));
      const float low_scale = scale(piece.low_scales, j), high_scale = scale(piece.high_scales, j);
      sum[0] += low_scale * group[0], sum[1] += low_scale * group[1];
      sum[2] += high_scale * group[2], sum[3] += high_scale * group[3];
    }
  }
  __device__ __forceinline__ static float row_scale(const WeightView&, int) { return 4.f; }

  // Where in a row the word of weights k ... k + 7 lies.
  __device__ __forceinline__ static int byte_of_eight(int k) {
    return k / 128 * 64 + k % 32 / 8 * 16 + k % 128 / 32 * 4;
  }

  struct Eight {
    uint32_t nibbles, scale;  // the scale twice, as a pair
  };
  __device__ __forceinline__ static Eight load8(const WeightView& w, int row, int k, bool valid) {
    Eight eight{0, 0};
    const int byte = byte_of_eight(k);
    if (!valid || byte >= w.row_bytes) return eight;
    eight.nibbles = *reinterpret_cast<const uint32_t*>(w.data + size_t(row) * w.row_bytes + byte);
    const uint16_t* scales = static_cast<const uint16_t*>(w.scales);
    eight.scale = uint32_t(scales[size_t(row) * w.row_scales + k / int(kS4Group)]) * 0x00010001u;
    return eight;
  }
  // Rounded to bf16 once: q / 4, which is exact, by the scale.
  __device__ __forceinline__ static uint4 widen8(Eight eight) {
    const uint4 quarters = widen(eight.nibbles);
    const auto weight = [&](uint32_t pair) { return fma_bf16x2(pair, eight.scale, 0x80008000u); };
    return make_uint4(weight(quarters.x), weight(quarters.y), weight(quarters.z), weight(quarters.w));
  }
};

}  // namespace drivlm::cuda
