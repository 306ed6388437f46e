// Pictures to tiles, bit for bit as the training pipeline (Pillow) does it. All host code, no device.
#pragma once

#include <cstdint>
#include <vector>

namespace drivlm {

// Interleaved RGB, [height, width, 3].
struct Pixels {
  std::vector<uint8_t> rgb;
  int64_t width = 0, height = 0;
};

// 8-bit coverage m painted in `ink` at (left, top): t = v * (255 - m) + ink * m + 128, out = ((t >> 8) + t) >> 8.
struct Label {
  std::vector<uint8_t> mask;  // [height, width]
  int64_t width = 0, height = 0, left = 0, top = 0;
  uint8_t ink[3] = {255, 0, 255};
};

struct Picture {
  Pixels pixels;
  bool has_label = false;
  Label label;
};

struct Grid {
  int64_t columns = 1, rows = 1;
  bool thumbnail = false;
  int64_t tiles() const { return columns * rows + (thumbnail ? 1 : 0); }
};

// One <image> of a prompt. Either finished tiles [tile_count, tile_size, tile_size, 3], or pictures: with a cell size
// they are resized to it, labelled and stitched row by row (canvas_columns a row, rows full); without, there is exactly
// one.
struct Image {
  std::vector<uint8_t> tiles;
  int64_t tile_count = 0, tile_size = 0;

  std::vector<Picture> pictures;
  int64_t cell_width = 0, cell_height = 0, canvas_columns = 1;
  Grid grid;

  int64_t tile_total() const { return tile_count > 0 ? tile_count : grid.tiles(); }
};

// Bounds of every picture, canvas and resized picture, and of the tiles of one image.
constexpr int64_t kMaxPixels = 64'000'000;
constexpr int64_t kMaxEdge = 65'535;
constexpr int64_t kMaxTiles = 1024;

// Throws BAD_VIEW (a picture) or BAD_ARGUMENT (cells, grid, labels, finished tiles) unless sizes, byte counts and
// bounds fit together.
void validate(const Image& image);

// Pillow's BICUBIC resize (a = -0.5, antialiased, 8-bit fixed point). An unchanged axis is skipped.
Pixels resize(const Pixels& source, int64_t width, int64_t height);

// Paints a label, clipped to the picture. The mask holds width * height bytes (validate).
void paint(Pixels& picture, const Label& label);

// The grid of min_tiles..max_tiles tiles whose shape is nearest the picture's; of equally near ones the larger, if the
// picture has more than half of its pixels. `thumbnail` is dropped for a single tile.
Grid choose_grid(int64_t width, int64_t height, int64_t tile_size, int64_t min_tiles, int64_t max_tiles,
                 bool thumbnail);

// Resizes and stitches an image's pictures; the single picture as it is when there is no cell size.
Pixels compose(const Image& image);

// u8 [tiles, tile_size, tile_size, 3]: the composed picture resized to the grid and cut, then the thumbnail.
std::vector<uint8_t> cut_tiles(const Image& image, int64_t tile_size);

}  // namespace drivlm
