// From the pictures of one <image> to its tiles: resized cells with painted labels stitched to a canvas, cut along a
// grid; the thumbnail is made from the canvas, not from what the grid made of it.

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "image/image.h"

namespace drivlm {
namespace {

bool fits(int64_t width, int64_t height) {
  return width >= 1 && height >= 1 && width <= kMaxEdge && height <= kMaxEdge && width * height <= kMaxPixels;
}

void validate_label(const Label& label, size_t picture) {
  const auto in_range = [](int64_t at) { return at >= -kMaxEdge && at <= kMaxEdge; };
  if (!fits(label.width, label.height) || !in_range(label.left) || !in_range(label.top)) {
    throw Error(Code::bad_argument,
                text("Label of picture %zu: %lld x %lld at (%lld, %lld) is out of range.", picture,
                     (long long)label.width, (long long)label.height, (long long)label.left, (long long)label.top));
  }
  if (int64_t(label.mask.size()) != label.width * label.height) {
    throw Error(Code::bad_argument, text("Label of picture %zu: expected %lld bytes for %lld x %lld, found %zu.",
                                         picture, (long long)(label.width * label.height), (long long)label.width,
                                         (long long)label.height, label.mask.size()));
  }
}

void validate_picture(const Picture& picture, size_t index) {
  const Pixels& pixels = picture.pixels;
  if (!fits(pixels.width, pixels.height)) {
    throw Error(Code::bad_view,
                text("Picture %zu: expected up to %lld pixels with edges of 1 to %lld, found %lld x %lld.", index,
                     (long long)kMaxPixels, (long long)kMaxEdge, (long long)pixels.width, (long long)pixels.height));
  }
  const int64_t bytes = pixels.width * pixels.height * 3;
  if (int64_t(pixels.rgb.size()) != bytes) {
    throw Error(Code::bad_view,
                text("Picture %zu: expected %lld bytes of RGB for %lld x %lld, found %zu.", index, (long long)bytes,
                     (long long)pixels.width, (long long)pixels.height, pixels.rgb.size()));
  }
  if (picture.has_label) validate_label(picture.label, index);
}

void validate_tiles(const Image& image) {
  if (image.tile_count < 1 || image.tile_count > kMaxTiles || image.tile_size < 1 || image.tile_size > kMaxEdge) {
    throw Error(
        Code::bad_argument,
        text("Finished tiles: expected 1 to %lld tiles of 1 to %lld pixels, found %lld of %lld.", (long long)kMaxTiles,
             (long long)kMaxEdge, (long long)image.tile_count, (long long)image.tile_size));
  }
  const int64_t bytes = image.tile_count * image.tile_size * image.tile_size * 3;
  if (int64_t(image.tiles.size()) != bytes) {
    throw Error(Code::bad_argument,
                text("Finished tiles: expected %lld bytes for %lld tiles of %lld pixels, found %zu.", (long long)bytes,
                     (long long)image.tile_count, (long long)image.tile_size, image.tiles.size()));
  }
}

// Copies `rows` rows of `bytes` bytes between pictures of different widths.
void copy_rows(uint8_t* out, int64_t out_stride, const uint8_t* in, int64_t in_stride, int64_t rows, int64_t bytes) {
  for (int64_t y = 0; y < rows; ++y) std::memcpy(out + y * out_stride, in + y * in_stride, bytes);
}

}  // namespace

void validate(const Image& image) {
  if (image.tile_count != 0 || !image.tiles.empty()) {
    if (!image.pictures.empty())
      throw Error(Code::bad_argument, "An image is either finished tiles or pictures, found both.");
    return validate_tiles(image);
  }
  if (image.pictures.empty())
    throw Error(Code::bad_argument, "An image needs a picture or finished tiles, found neither.");
  for (size_t i = 0; i < image.pictures.size(); ++i) validate_picture(image.pictures[i], i);

  const int64_t count = int64_t(image.pictures.size());
  if (image.cell_width == 0 && image.cell_height == 0) {
    if (count != 1) {
      throw Error(Code::bad_argument,
                  text("An image without a cell size takes one picture, found %lld.", (long long)count));
    }
  } else {
    if (!fits(image.cell_width, image.cell_height)) {
      throw Error(Code::bad_argument, text("Cell of %lld x %lld pixels is out of range.", (long long)image.cell_width,
                                           (long long)image.cell_height));
    }
    if (image.canvas_columns < 1 || count % image.canvas_columns != 0) {
      throw Error(Code::bad_argument, text("%lld pictures do not fill whole rows of %lld columns.", (long long)count,
                                           (long long)image.canvas_columns));
    }
    const int64_t rows = count / image.canvas_columns;
    if (image.canvas_columns > kMaxEdge || rows > kMaxEdge ||
        !fits(image.cell_width * image.canvas_columns, image.cell_height * rows)) {
      throw Error(
          Code::bad_argument,
          text("A canvas of %lld x %lld cells of %lld x %lld pixels is over the limit of %lld pixels or edges of %lld.",
               (long long)image.canvas_columns, (long long)rows, (long long)image.cell_width,
               (long long)image.cell_height, (long long)kMaxPixels, (long long)kMaxEdge));
    }
  }
  const Grid& grid = image.grid;
  if (grid.columns < 1 || grid.rows < 1 || grid.columns > kMaxTiles || grid.rows > kMaxTiles ||
      grid.tiles() > kMaxTiles) {
    throw Error(Code::bad_argument,
                text("Expected a grid of 1 to %lld tiles, found %lld x %lld%s.", (long long)kMaxTiles,
                     (long long)grid.columns, (long long)grid.rows, grid.thumbnail ? " and a thumbnail" : ""));
  }
}

void paint(Pixels& picture, const Label& label) {
  const int64_t left = std::max<int64_t>(label.left, 0), right = std::min(label.left + label.width, picture.width);
  const int64_t top = std::max<int64_t>(label.top, 0), bottom = std::min(label.top + label.height, picture.height);
  for (int64_t y = top; y < bottom; ++y) {
    const uint8_t* mask = &label.mask[(y - label.top) * label.width];
    uint8_t* row = &picture.rgb[y * picture.width * 3];
    for (int64_t x = left; x < right; ++x) {
      const int m = mask[x - label.left];
      for (int c = 0; c < 3; ++c) {
        const int t = row[3 * x + c] * (255 - m) + label.ink[c] * m + 128;
        row[3 * x + c] = uint8_t(((t >> 8) + t) >> 8);
      }
    }
  }
}

Pixels compose(const Image& image) {
  validate(image);
  if (image.tile_count > 0) throw Error(Code::bad_argument, "Finished tiles have no canvas.");
  auto cell = [&](const Picture& picture) {
    Pixels pixels = image.cell_width > 0 ? resize(picture.pixels, image.cell_width, image.cell_height) : picture.pixels;
    if (picture.has_label) paint(pixels, picture.label);
    return pixels;
  };
  if (image.pictures.size() == 1) return cell(image.pictures[0]);

  const int64_t columns = image.canvas_columns, rows = int64_t(image.pictures.size()) / columns;
  const int64_t cell_stride = image.cell_width * 3, stride = cell_stride * columns;
  Pixels canvas;
  canvas.width = image.cell_width * columns;
  canvas.height = image.cell_height * rows;
  canvas.rgb.resize(stride * canvas.height);
  for (size_t i = 0; i < image.pictures.size(); ++i) {
    const Pixels pixels = cell(image.pictures[i]);
    const int64_t column = int64_t(i) % columns, row = int64_t(i) / columns;
    copy_rows(&canvas.rgb[row * image.cell_height * stride + column * cell_stride], stride, pixels.rgb.data(),
              cell_stride, image.cell_height, cell_stride);
  }
  return canvas;
}

std::vector<uint8_t> cut_tiles(const Image& image, int64_t tile_size) {
  validate(image);
  if (tile_size < 1 || tile_size > kMaxEdge) {
    throw Error(Code::bad_argument, text("Expected a tile size of 1 to %lld pixels, found %lld.", (long long)kMaxEdge,
                                         (long long)tile_size));
  }
  if (image.tile_count > 0) {
    if (image.tile_size != tile_size) {
      throw Error(Code::bad_argument, text("Finished tiles: expected tiles of %lld pixels, found %lld.",
                                           (long long)tile_size, (long long)image.tile_size));
    }
    return image.tiles;
  }
  const Grid& grid = image.grid;
  const int64_t width = grid.columns * tile_size, height = grid.rows * tile_size;
  if (!fits(width, height)) {
    throw Error(Code::bad_argument,
                text("A grid of %lld x %lld tiles of %lld pixels is over the limit of %lld pixels.",
                     (long long)grid.columns, (long long)grid.rows, (long long)tile_size, (long long)kMaxPixels));
  }
  Pixels canvas;  // stays empty when the one picture serves as it is
  const bool as_it_is = image.pictures.size() == 1 && image.cell_width == 0 && !image.pictures[0].has_label;
  if (!as_it_is) canvas = compose(image);
  const Pixels& whole = as_it_is ? image.pictures[0].pixels : canvas;

  const int64_t tile_stride = tile_size * 3, tile_bytes = tile_size * tile_stride;
  std::vector<uint8_t> tiles(grid.tiles() * tile_bytes);
  {
    Pixels resized;
    const bool fitting = whole.width == width && whole.height == height;
    if (!fitting) resized = resize(whole, width, height);
    const uint8_t* pixels = fitting ? whole.rgb.data() : resized.rgb.data();
    for (int64_t tile = 0; tile < grid.columns * grid.rows; ++tile) {
      const int64_t column = tile % grid.columns, row = tile / grid.columns;
      copy_rows(&tiles[tile * tile_bytes], tile_stride, pixels + row * tile_size * width * 3 + column * tile_stride,
                width * 3, tile_size, tile_stride);
    }
  }
  if (grid.thumbnail) {
    const Pixels thumbnail = resize(whole, tile_size, tile_size);
    std::copy(thumbnail.rgb.begin(), thumbnail.rgb.end(), tiles.end() - tile_bytes);
  }
  return tiles;
}

}  // namespace drivlm
