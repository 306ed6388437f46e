// From pixels to the vision stream, and from the vision stream to the projector: moves, no products.

#include <cstring>

#include "kernels/cpu/plain.h"

namespace drivlm {

void CpuOps::patchify(Tensor patches, Tensor tiles, int64_t patch, const std::array<float, 3>& mean,
                      const std::array<float, 3>& std) {
  const int64_t count = tiles.shape[0], size = tiles.shape[1], grid = size / patch;
  const int64_t values = 3 * patch * patch;
  expect_shape("patchify", "tiles", tiles, {count, size, size, 3});
  expect_shape("patchify", "patches", patches, {count * grid * grid, values});
  with_activation("patchify", patches.dtype, [&](auto type) {
    using T = decltype(type);
    T level[3][256];
    for (int c = 0; c < 3; ++c) {
      for (int v = 0; v < 256; ++v) level[c][v] = from_float<T>((static_cast<float>(v) / 255.0f - mean[c]) / std[c]);
    }
    parallel(count * grid * grid, grid, [&](int64_t first, int64_t last) {
      for (int64_t index = first; index < last; ++index) {
        const int64_t tile = index / (grid * grid), py = index / grid % grid, px = index % grid;
        T* out = patches.as<T>() + index * values;
        for (int64_t y = 0; y < patch; ++y) {
          const uint8_t* row = tiles.as<uint8_t>() + ((tile * size + py * patch + y) * size + px * patch) * 3;
          for (int64_t x = 0; x < patch; ++x) {
            for (int c = 0; c < 3; ++c) out[(c * patch + y) * patch + x] = level[c][row[3 * x + c]];
          }
        }
      }
    });
  });
}

void CpuOps::assemble_tiles(Tensor x, Tensor patches, Tensor class_embedding, Tensor positions) {
  const int64_t tiles = x.shape[0], places = x.shape[1], dim = x.shape[2];
  expect_shape("assemble_tiles", "patches", patches, {tiles * (places - 1), dim});
  expect_shape("assemble_tiles", "class_embedding", class_embedding, {dim});
  expect_shape("assemble_tiles", "positions", positions, {places, dim});
  with_activation("assemble_tiles", x.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(tiles * places, 64, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t tile = row / places, place = row % places;
        T* to = x.as<T>() + row * dim;
        const float* position = positions.as<float>() + place * dim;
        const T* from = patches.as<T>() + (tile * (places - 1) + place - 1) * dim;
        for (int64_t i = 0; i < dim; ++i) {
          const float value = place == 0 ? class_embedding.as<float>()[i] : to_float(from[i]);
          to[i] = from_float<T>(value + position[i]);
        }
      }
    });
  });
}

void CpuOps::pixel_shuffle(Tensor out, Tensor x, int64_t grid, int version) {
  const int64_t tiles = x.shape[0], dim = x.shape[2], half = grid / 2;
  expect_shape("pixel_shuffle", "x", x, {tiles, 1 + grid * grid, dim});
  expect_shape("pixel_shuffle", "out", out, {tiles * half * half, 4 * dim});
  const int64_t bytes = dim * dtype_bytes(x.dtype);
  parallel(tiles * half * half, 64, [&](int64_t first, int64_t last) {
    for (int64_t token = first; token < last; ++token) {
      const int64_t tile = token / (half * half), i = token / half % half, j = token % half;
      const int64_t row = version == 1 ? j : i, column = version == 1 ? i : j;
      for (int64_t part = 0; part < 4; ++part) {
        const int64_t r = 2 * row + part / 2, c = 2 * column + part % 2;
        std::memcpy(out.as<char>() + (token * 4 + part) * bytes, x.as<char>() + (tile * (1 + grid * grid) + 1 + r * grid + c) * bytes, bytes);
      }
    }
  });
}

}  // namespace drivlm
