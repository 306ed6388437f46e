// vision.cu and embedding.cu, which move data: exact.
#include "kernels/cuda/kernels.h"
#include "testing.h"

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;

TEST(patchify) {
  const std::array<float, 3> mean{0.485f, 0.456f, 0.406f}, std{0.229f, 0.224f, 0.225f};
  struct Size {
    int64_t tiles, size, patch;
  };
  // The last but one in three parts of a strip: whole, whole, and what is left.
  for (const Size s : {Size{1, 28, 14}, Size{3, 56, 14}, Size{2, 42, 7}, Size{1, 448, 14}, Size{0, 56, 14},
                       Size{1, 728, 28}, Size{1, 60, 30}}) {
    Buffer<uint8_t> tiles(s.tiles * s.size * s.size * 3);
    for (uint8_t& v : tiles.host) v = uint8_t(generator()());
    tiles.upload();
    const int64_t grid = s.size / s.patch, values = 3 * s.patch * s.patch;
    Halves out(s.tiles * grid * grid * values, 1);
    patchify(out.data, tiles.data, s.tiles, s.size, s.patch, mean, std, nullptr);
    out.download();
    for (size_t i = 0; i < out.values.size(); ++i) {
      const int64_t v = i % values, p = i / values % (grid * grid), t = i / values / (grid * grid);
      const int64_t c = v / (s.patch * s.patch), y = p / grid * s.patch + v / s.patch % s.patch,
                    x = p % grid * s.patch + v % s.patch;
      const uint8_t u = tiles.host[((t * s.size + y) * s.size + x) * 3 + c];
      const float want = to_bf16((float(u) / 255.f - mean[c]) / std[c]);
      if (out.values[i] != want) return fail(drivlm::text("size %lld, value %zu", (long long)s.size, i));
    }
  }
}

TEST(assemble_tiles) {
  for (int64_t dim : {8, 64, 136}) {
    const int64_t tiles = 3, per_tile = 9;
    Halves patches(tiles * per_tile * dim, 2), out(tiles * (1 + per_tile) * dim, 1);
    Floats class_embedding(dim, 1), positions((1 + per_tile) * dim, 1);
    assemble_tiles(out.data, patches.data, class_embedding.data, positions.data, tiles, per_tile, dim, nullptr);
    out.download();
    for (size_t i = 0; i < out.values.size(); ++i) {
      const int64_t c = i % dim, p = i / dim % (1 + per_tile), t = i / dim / (1 + per_tile);
      const float base = p == 0 ? class_embedding.host[c] : patches.values[(t * per_tile + p - 1) * dim + c];
      CHECK(out.values[i] == to_bf16(base + positions.host[p * dim + c]));
    }
  }
}

TEST(pixel_shuffle) {
  for (int version : {1, 2}) {
    for (int64_t grid : {2, 4, 8}) {
      const int64_t tiles = 2, dim = 24, half = grid / 2;
      Halves x(tiles * (1 + grid * grid) * dim, 2), out(tiles * half * half * 4 * dim, 1);
      pixel_shuffle(out.data, x.data, tiles, grid, dim, version, nullptr);
      out.download();
      for (size_t at = 0; at < out.values.size(); ++at) {
        const int64_t q = at % (4 * dim), cell = at / (4 * dim) % (half * half), t = at / (4 * dim) / (half * half);
        const int64_t i = cell / half, j = cell % half, dr = q / (2 * dim), dc = q / dim % 2;
        const int64_t r = 2 * (version == 1 ? j : i) + dr, c = 2 * (version == 1 ? i : j) + dc;
        CHECK(out.values[at] == x.values[(t * (1 + grid * grid) + 1 + r * grid + c) * dim + q % dim]);
      }
    }
  }
}

TEST(gather) {
  for (int64_t dim : {8, 160, 1032}) {
    Halves table(50 * dim, 2), out(7 * dim, 1);
    Buffer<int32_t> ids(std::vector<int32_t>{0, 49, 3, 3, 7, 48, 1});
    gather(out.data, ids.data, 7, table.data, dim, dim, nullptr);
    out.download();
    for (int64_t i = 0; i < 7 * dim; ++i) CHECK(out.values[i] == table.values[ids.host[i / dim] * dim + i % dim]);
  }
}
