// From a picture or a canvas to the tiles that the vision tower sees: resized to a grid and cut along it, then the whole squeezed into one
// more tile, the thumbnail, which is made from the picture, not from what the grid made of it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/hash.h"
#include "image/pixels.h"

namespace drivlm {

constexpr int64_t kMaxTiles = 1024;  // of one image

struct Grid {
  int64_t columns = 1, rows = 1;
  bool thumbnail = false;
  int64_t tiles() const { return columns * rows + (thumbnail ? 1 : 0); }
};

// The grid of min_tiles..max_tiles tiles whose shape is nearest the picture's; of equally near ones the larger, if the
// picture has more than half of its pixels. `thumbnail` is dropped for a single tile.
Grid choose_grid(int64_t width, int64_t height, int64_t tile_size, int64_t min_tiles, int64_t max_tiles,
                 bool thumbnail);

// The tiles of one <image> of a prompt.
struct Tiles {
  // Uninitialised. Throws BAD_ARGUMENT where count or size is out of range.
  Tiles(int64_t count, int64_t size);

  int64_t tile_bytes() const { return size * size * 3; }
  uint8_t* tile(int64_t index) { return rgb.get() + index * tile_bytes(); }
  const uint8_t* tile(int64_t index) const { return rgb.get() + index * tile_bytes(); }
  void hash(int64_t index) { hashes[index] = hash_bytes(tile(index), static_cast<size_t>(tile_bytes())); }

  const int64_t count, size;
  const std::unique_ptr<uint8_t[]> rgb;  // [count, size, size, 3]
  std::vector<Hash128> hashes;           // [count]
};

// Cuts one image in parts that may run side by side, each on one thread; when all have run, the tiles are there with their hashes.
class TileCutter {
 public:
  // A reader of the picture for each part: part(index) uses the one at its index. `readers.size()` is `parts(...)`.
  TileCutter(std::vector<std::unique_ptr<Rows>> readers, const Grid& grid, int64_t tile_size);

  // How many parts to cut into. `cheap`: a reader costs nothing, and several may read the same rows.
  static int64_t parts(const Grid& grid, bool cheap);

  int64_t parts() const { return static_cast<int64_t>(readers_.size()); }
  // Runs one part, each once, and frees its reader.
  void part(int64_t index);
  const std::shared_ptr<Tiles>& tiles() const { return tiles_; }

 private:
  void grid_band(Rows& picture, int64_t first_row, int64_t last_row);
  void thumbnail_band(Rows& picture, int64_t band);

  std::vector<std::unique_ptr<Rows>> readers_;
  const Grid grid_;
  const std::shared_ptr<Tiles> tiles_;
  int64_t thumbnail_bands_ = 0, grid_bands_ = 0;
  std::atomic<int64_t> thumbnail_bands_left_{0};
};

}  // namespace drivlm
