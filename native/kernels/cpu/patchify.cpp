// From pixels to the vision stream, and from the vision stream to the projector: moves, no products.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/reference.h"

namespace drivlm {

void ReferenceOps::patchify(Tensor patches, Tensor tiles, int64_t patch, const std::array<float, 3>& mean,
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

void ReferenceOps::assemble_tiles(Tensor x, Tensor patches, Tensor class_embedding, Tensor positions) {
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

void ReferenceOps::pixel_shuffle(Tensor out, Tensor x, int64_t grid, int version) {
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
        std::memcpy(out.as<char>() + (token * 4 + part) * bytes,
                    x.as<char>() + (tile * (1 + grid * grid) + 1 + r * grid + c) * bytes, bytes);
      }
    }
  });
}

// ---- gradients: the moves backwards ----

void CpuGradients::pixel_shuffle(Tensor dx, Tensor dy, int64_t grid, int version) {
  const int64_t tiles = dx.shape[0], dim = dx.shape[2], half = grid / 2;
  expect_shape("pixel_shuffle gradient", "dx", dx, {tiles, 1 + grid * grid, dim});
  expect_shape("pixel_shuffle gradient", "dy", dy, {tiles * half * half, 4 * dim});
  const int64_t bytes = dim * dtype_bytes(dx.dtype), places = 1 + grid * grid;
  parallel(tiles * places, 64, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t tile = row / places, place = row % places - 1;
      char* to = dx.as<char>() + row * bytes;
      if (place < 0) {
        std::memset(to, 0, bytes);
        continue;
      }
      const int64_t r = place / grid, c = place % grid, part = r % 2 * 2 + c % 2;
      const int64_t i = version == 1 ? c / 2 : r / 2, j = version == 1 ? r / 2 : c / 2;
      std::memcpy(to, dy.as<char>() + (((tile * half + i) * half + j) * 4 + part) * bytes, bytes);
    }
  });
}

void CpuGradients::assemble_tiles(Tensor d_patches, Tensor d_class, Tensor d_positions, Tensor dx) {
  const int64_t tiles = dx.shape[0], places = dx.shape[1], dim = dx.shape[2];
  if (d_patches) expect_shape("assemble_tiles gradient", "d_patches", d_patches, {tiles * (places - 1), dim});
  if (d_class) expect_shape("assemble_tiles gradient", "d_class", d_class, {dim});
  if (d_positions) expect_shape("assemble_tiles gradient", "d_positions", d_positions, {places, dim});
  with_real("assemble_tiles gradient", dx.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(places, 4, [&](int64_t first, int64_t last) {
      for (int64_t place = first; place < last; ++place) {
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const T* from = dx.as<T>() + (tile * places + place) * dim;
          if (d_positions) {
            for (int64_t i = 0; i < dim; ++i) d_positions.as<T>()[place * dim + i] += from[i];
          }
          if (place == 0 && d_class) {
            for (int64_t i = 0; i < dim; ++i) d_class.as<T>()[i] += from[i];
          }
          if (place > 0 && d_patches)
            std::copy(from, from + dim, d_patches.as<T>() + (tile * (places - 1) + place - 1) * dim);
        }
      }
    });
  });
}

namespace {
// The four neighbours of cell `i` of a resized axis and their weights, as in network/weights.cpp resize_positions.
template <class T>
struct Cubic {
  int64_t at[4];
  T weight[4];
  Cubic(int64_t i, int64_t from, int64_t to) {
    constexpr T a = T(-0.75);
    const T scale = static_cast<T>(from) / static_cast<T>(to);
    const T source = scale * (static_cast<T>(i) + T(0.5)) - T(0.5), base = std::floor(source), t = source - base;
    auto near = [](T x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
    auto far = [](T x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
    const T w[4] = {far(t + 1), near(t), near(1 - t), far(2 - t)};
    for (int j = 0; j < 4; ++j) {
      at[j] = std::clamp<int64_t>(static_cast<int64_t>(base) - 1 + j, 0, from - 1);
      weight[j] = w[j];
    }
  }
};
}  // namespace

void CpuGradients::resize_positions(Tensor d_from, int64_t from, Tensor d_to, int64_t to) {
  const int64_t dim = d_to.shape[1];
  expect_shape("resize_positions gradient", "d_from", d_from, {1 + from * from, dim});
  expect_shape("resize_positions gradient", "d_to", d_to, {1 + to * to, dim});
  with_real("resize_positions gradient", d_to.dtype, [&](auto type) {
    using T = decltype(type);
    T* sums = d_from.as<T>();
    for (int64_t d = 0; d < dim; ++d) sums[d] += d_to.as<T>()[d];
    if (from == to) {
      for (int64_t i = dim; i < d_to.count(); ++i) sums[i] += d_to.as<T>()[i];
      return;
    }
    for (int64_t y = 0; y < to; ++y) {
      const Cubic<T> rows(y, from, to);
      for (int64_t x = 0; x < to; ++x) {
        const Cubic<T> columns(x, from, to);
        const T* cell = d_to.as<T>() + (1 + y * to + x) * dim;
        for (int j = 0; j < 4; ++j) {
          for (int i = 0; i < 4; ++i) {
            T* source = sums + (1 + rows.at[j] * from + columns.at[i]) * dim;
            const T weight = rows.weight[j] * columns.weight[i];
            for (int64_t d = 0; d < dim; ++d) source[d] += weight * cell[d];
          }
        }
      }
    }
  });
}

}  // namespace drivlm
