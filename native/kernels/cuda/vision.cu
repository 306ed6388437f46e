// The ends of the vision tower: pixels to patches, patches to the residual stream, and pixel shuffle.
//
//   patches[p, (c, y, x)] = (u8 / 255 - mean[c]) / std[c]              rounded to bf16
//   x[t, 0, :] = class + positions[0, :],  x[t, 1 + p, :] = patches[t, p, :] + positions[1 + p, :]
//   out[t, i, j, (dr, dc, k)] = x[t, 1 + patch(2i + dr, 2j + dc), k]    version 2; version 1 swaps i and j
//
//   tiles      [tiles, size, size, 3]              u8     interleaved RGB
//   patches    [tiles * patches, 3 * patch * patch]  bf16   before and, [.., dim], after the patch embedding
//   x          [tiles, 1 + patches, dim]           bf16
//   positions  [1 + patches, dim], class [dim]     f32
//
// Tiling    patchify: a block takes a strip of `patch` pixel rows of a tile into shared memory, or as many columns of patches of it as
//           32 KiB hold, and writes its patches. There are only 256 x 3 different values: a table in shared memory holds them, computed
//           with the reference's two divisions. The others: a thread moves 16 bytes.
// Traffic   13 tiles: 7.8 MB in, 15.7 MB out; assemble 27 MB in and out. Microseconds on any card.
// Numerics  patchify is exact: the f32 expression of the reference, rounded once.
// Needs     size a multiple of patch; dim a multiple of 8.
// Checked   test/emulator/vision_test.cpp.

#include <algorithm>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

namespace {

constexpr int kPatchThreads = 256, kStripBytes = 32 << 10;

struct Color {
  float mean[3], std[3];
};

// blockIdx.y: the columns of patches [y * most_columns, ...) of the strip blockIdx.x.
__global__ void __launch_bounds__(kPatchThreads)
    patchify_kernel(bf16* patches, const uint8_t* tiles, int size, int patch, int most_columns, Color color) {
  SHARED_ARRAY(bf16, s_table, [3][256]);
  uint8_t* s_strip = dynamic_shared<uint8_t>();
  const int all_columns = size / patch, values = 3 * patch * patch;
  const int first = blockIdx.y * most_columns, columns = min(most_columns, all_columns - first);
  const int row_bytes = columns * patch * 3;
  // Strips of all tiles follow one another.
  const uint8_t* strip = tiles + size_t(blockIdx.x) * patch * size * 3 + first * patch * 3;
  for (int i = threadIdx.x; i < 256; i += kPatchThreads) {
#pragma unroll
    for (int c = 0; c < 3; ++c) s_table[c][i] = __float2bfloat16((float(i) / 255.f - color.mean[c]) / color.std[c]);
  }
  if (row_bytes % 4 == 0 && size * 3 % 4 == 0 && first * patch * 3 % 4 == 0) {
    const int words = row_bytes / 4;
    for (int i = threadIdx.x; i < patch * words; i += kPatchThreads) {
      reinterpret_cast<uint32_t*>(s_strip)[i] =
          reinterpret_cast<const uint32_t*>(strip + i / words * size * 3)[i % words];
    }
  } else {
    for (int i = threadIdx.x; i < patch * row_bytes; i += kPatchThreads) {
      s_strip[i] = strip[i / row_bytes * size * 3 + i % row_bytes];
    }
  }
  __syncthreads();
  bf16* out = patches + (size_t(blockIdx.x) * all_columns + first) * values;
  for (int i = threadIdx.x; i < columns * values; i += kPatchThreads) {
    const int column = i / values, v = i % values, c = v / (patch * patch), y = v / patch % patch, x = v % patch;
    out[i] = s_table[c][s_strip[y * row_bytes + (column * patch + x) * 3 + c]];
  }
}

__global__ void __launch_bounds__(128) assemble_kernel(bf16* x, const bf16* patches, const float* class_embedding,
                                                       const float* positions, int per_tile, int dim, int64_t vectors) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= vectors) return;
  const int row_vectors = dim / 8, c = int(i % row_vectors) * 8;
  const int64_t row = i / row_vectors, tile = row / (1 + per_tile);
  const int position = int(row % (1 + per_tile));
  float r_x[8];
  if (position == 0) {
#pragma unroll
    for (int e = 0; e < 8; ++e) r_x[e] = class_embedding[c + e];
  } else {
    unpack8(r_x, load16(patches + (tile * per_tile + position - 1) * dim + c));
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) r_x[e] += positions[size_t(position) * dim + c + e];
  store16(x + i * 8, pack8(r_x));
}

__global__ void __launch_bounds__(128)
    shuffle_kernel(bf16* out, const bf16* x, int grid, int dim, bool transposed, int64_t vectors) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= vectors) return;
  const int row_vectors = 4 * dim / 8, half = grid / 2;
  const int64_t row = at / row_vectors, tile = row / (half * half);
  const int cell = int(row % (half * half)), i = cell / half, j = cell % half;
  const int q = int(at % row_vectors) * 8, part = q / dim;
  const int patch_row = 2 * (transposed ? j : i) + part / 2, patch_column = 2 * (transposed ? i : j) + part % 2;
  const int64_t from = tile * (1 + grid * grid) + 1 + patch_row * grid + patch_column;
  store16(out + at * 8, load16(x + from * dim + q % dim));
}

}  // namespace

void patchify(bf16* patches, const uint8_t* tiles, int64_t tile_count, int64_t size, int64_t patch,
              const std::array<float, 3>& mean, const std::array<float, 3>& std, cudaStream_t stream) {
  const Color color{{mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]}};
  const int64_t patch_bytes = patch * patch * 3, columns = size / patch;
  if (patch_bytes > kStripBytes) {
    throw Error(Code::internal, text("patchify: no kernel for patches of %lld pixels", static_cast<long long>(patch)));
  }
  int64_t most_columns = std::min(columns, kStripBytes / patch_bytes);
  if (most_columns < columns && most_columns > 4) most_columns &= ~int64_t(3);  // rows start on a word
  launch(patchify_kernel, dim3(unsigned(tile_count * columns), unsigned(ceil_div(columns, most_columns))),
         kPatchThreads, size_t(most_columns * patch_bytes), stream, patches, tiles, int(size), int(patch),
         int(most_columns), color);
}

void assemble_tiles(bf16* x, const bf16* patches, const float* class_embedding, const float* positions, int64_t tiles,
                    int64_t patches_per_tile, int64_t dim, cudaStream_t stream) {
  const int64_t vectors = tiles * (1 + patches_per_tile) * (dim / 8);
  launch(assemble_kernel, dim3(unsigned(ceil_div(vectors, 128))), 128, 0, stream, x, patches, class_embedding,
         positions, int(patches_per_tile), int(dim), vectors);
}

void pixel_shuffle(bf16* out, const bf16* x, int64_t tiles, int64_t grid, int64_t dim, int version,
                   cudaStream_t stream) {
  const int64_t vectors = tiles * (grid / 2) * (grid / 2) * 4 * (dim / 8);
  launch(shuffle_kernel, dim3(unsigned(ceil_div(vectors, 128))), 128, 0, stream, out, x, int(grid), int(dim),
         version == 1, vectors);
}

void CudaOps::patchify(Tensor patches, Tensor tiles, int64_t patch, const std::array<float, 3>& mean,
                       const std::array<float, 3>& std) {
  const int64_t count = tiles.shape[0], size = tiles.shape[1];
  expect_shape("patchify", "tiles", tiles, {count, size, size, 3});
  expect_shape("patchify", "patches", patches, {count * (size / patch) * (size / patch), 3 * patch * patch});
  expect_bf16("patchify", "patches", patches);
  cuda::patchify(patches.as<bf16>(), tiles.as<uint8_t>(), count, size, patch, mean, std, stream());
}

void CudaOps::assemble_tiles(Tensor x, Tensor patches, Tensor class_embedding, Tensor positions) {
  const int64_t tiles = x.shape[0], rows = x.shape[1], dim = x.shape[2];
  expect_shape("assemble_tiles", "x", x, {tiles, rows, dim});
  expect_shape("assemble_tiles", "patches", patches, {tiles * (rows - 1), dim});
  expect_bf16("assemble_tiles", "x", x);
  cuda::assemble_tiles(x.as<bf16>(), patches.as<bf16>(), parameters("assemble_tiles", "class", class_embedding, dim),
                       parameters("assemble_tiles", "positions", positions, rows * dim), tiles, rows - 1, dim,
                       stream());
}

void CudaOps::pixel_shuffle(Tensor out, Tensor x, int64_t grid, int version) {
  const int64_t tiles = x.shape[0], dim = x.shape[2];
  expect_shape("pixel_shuffle", "x", x, {tiles, 1 + grid * grid, dim});
  expect_shape("pixel_shuffle", "out", out, {tiles * grid * grid / 4, 4 * dim});
  cuda::pixel_shuffle(out.as<bf16>(), x.as<bf16>(), tiles, grid, dim, version, stream());
}

}  // namespace drivlm::cuda
