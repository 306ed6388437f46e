#include "image/tiles.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "image/resize.h"

namespace drivlm {
namespace {

void expect_tiles(int64_t count, int64_t size) {
  if (count >= 1 && count <= kMaxTiles && size >= 1 && size <= kMaxEdge && count * size * size <= 16 * kMaxPixels)
    return;
  throw Error(Code::bad_argument, text("Expected 1 to %lld tiles of 1 to %lld pixels, %lld in all, found %lld of %lld.",
                                       (long long)kMaxTiles, (long long)kMaxEdge, (long long)(16 * kMaxPixels),
                                       (long long)count, (long long)size));
}

const Grid& checked(const Grid& grid) {
  if (grid.columns >= 1 && grid.rows >= 1 && grid.columns <= kMaxTiles && grid.rows <= kMaxTiles &&
      grid.tiles() <= kMaxTiles) {
    return grid;
  }
  throw Error(Code::bad_argument,
              text("Expected a grid of 1 to %lld tiles, found %lld x %lld%s.", (long long)kMaxTiles,
                   (long long)grid.columns, (long long)grid.rows, grid.thumbnail ? " and a thumbnail" : ""));
}

// The first row of band `band` when `rows` rows are divided into `bands` bands.
int64_t band_start(int64_t rows, int64_t bands, int64_t band) { return rows * band / bands; }

}  // namespace

Grid choose_grid(int64_t width, int64_t height, int64_t tile_size, int64_t min_tiles, int64_t max_tiles,
                 bool thumbnail) {
  if (width < 1 || height < 1 || tile_size < 1 || tile_size > kMaxEdge || width > std::numeric_limits<int32_t>::max() ||
      height > std::numeric_limits<int32_t>::max()) {
    throw Error(Code::bad_argument,
                text("Expected a picture and a tile size of at least one pixel, found %lld x %lld and tiles of %lld.",
                     (long long)width, (long long)height, (long long)tile_size));
  }
  if (min_tiles < 1 || max_tiles < min_tiles || max_tiles > kMaxTiles) {
    throw Error(Code::bad_argument, text("Expected 1 <= minimum <= maximum <= %lld tiles, found %lld to %lld.",
                                         (long long)kMaxTiles, (long long)min_tiles, (long long)max_tiles));
  }
  // IEEE doubles and exact equality, as the reference: ties are common (1:1 is 1x1, 2x2, 3x3).
  const double aspect = double(width) / double(height);
  const double area = double(width) * double(height);
  Grid best;
  double best_difference = std::numeric_limits<double>::infinity();
  for (int64_t tiles = min_tiles; tiles <= max_tiles; ++tiles) {
    for (int64_t columns = 1; columns <= tiles; ++columns) {
      if (tiles % columns != 0) continue;
      const int64_t rows = tiles / columns;
      const double difference = std::fabs(aspect - double(columns) / double(rows));
      const bool nearer = difference < best_difference;
      const bool tie =
          difference == best_difference && area > 0.5 * double(tile_size) * double(tile_size) * double(tiles);
      if (nearer || tie) best = {columns, rows, false};
      if (nearer) best_difference = difference;
    }
  }
  best.thumbnail = thumbnail && best.columns * best.rows > 1;
  return best;
}

Tiles::Tiles(int64_t count, int64_t size)
    : count((expect_tiles(count, size), count)),
      size(size),
      rgb(std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(count * size * size * 3))),
      hashes(static_cast<size_t>(count)) {}

int64_t TileCutter::parts(const Grid& grid, bool cheap) {
  const int64_t grid_bands = cheap ? std::min<int64_t>(grid.rows, 2) : 1, thumbnail_bands = cheap ? 2 : 1;
  return grid_bands + (grid.thumbnail ? thumbnail_bands : 0);
}

TileCutter::TileCutter(std::vector<std::unique_ptr<Rows>> readers, const Grid& grid, int64_t tile_size)
    : readers_(std::move(readers)), grid_(checked(grid)), tiles_(std::make_shared<Tiles>(grid.tiles(), tile_size)) {
  const bool cheap = parts(grid, true) == static_cast<int64_t>(readers_.size());
  if (!cheap && parts(grid, false) != static_cast<int64_t>(readers_.size())) {
    throw Error(Code::internal, "Expected a reader for each part of an image.");
  }
  if (!fits(grid.columns * tile_size, grid.rows * tile_size)) {
    throw Error(Code::bad_argument,
                text("A grid of %lld x %lld tiles of %lld pixels is over the limit of %lld pixels.",
                     (long long)grid.columns, (long long)grid.rows, (long long)tile_size, (long long)kMaxPixels));
  }
  grid_bands_ = parts({grid.columns, grid.rows, false}, cheap);
  thumbnail_bands_ = static_cast<int64_t>(readers_.size()) - grid_bands_;
  thumbnail_bands_left_ = thumbnail_bands_;
}

void TileCutter::part(int64_t index) {
  const std::unique_ptr<Rows> reader = std::move(readers_[index]);
  Rows& picture = *reader;
  if (index < thumbnail_bands_) return thumbnail_band(picture, index);
  const int64_t band = index - thumbnail_bands_;
  grid_band(picture, band_start(grid_.rows, grid_bands_, band), band_start(grid_.rows, grid_bands_, band + 1));
}

// Rows of tiles [first_row, last_row).
void TileCutter::grid_band(Rows& picture, int64_t first_row, int64_t last_row) {
  const int64_t size = tiles_->size, stride = size * 3;
  const auto cut = [&](int64_t y, const uint8_t* row) {
    for (int64_t column = 0; column < grid_.columns; ++column) {
      std::memcpy(tiles_->tile(y / size * grid_.columns + column) + y % size * stride, row + column * stride, stride);
    }
  };
  resize_band(picture, grid_.columns * size, grid_.rows * size, first_row * size, last_row * size, cut);
  for (int64_t tile = first_row * grid_.columns; tile < last_row * grid_.columns; ++tile) tiles_->hash(tile);
}

void TileCutter::thumbnail_band(Rows& picture, int64_t band) {
  const int64_t size = tiles_->size, last = tiles_->count - 1;
  resize_band(picture, size, size, band_start(size, thumbnail_bands_, band),
              band_start(size, thumbnail_bands_, band + 1),
              [&](int64_t y, const uint8_t* row) { std::memcpy(tiles_->tile(last) + y * size * 3, row, size * 3); });
  if (thumbnail_bands_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) tiles_->hash(last);
}

}  // namespace drivlm
