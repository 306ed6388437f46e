#include "image/canvas.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "image/resize.h"

namespace drivlm {

void validate(const Label& label) {
  const auto in_range = [](int64_t at) { return at >= -kMaxEdge && at <= kMaxEdge; };
  if (!fits(label.width, label.height) || !in_range(label.left) || !in_range(label.top)) {
    throw Error(Code::bad_argument,
                text("A label of %lld x %lld at (%lld, %lld) is out of range.", (long long)label.width,
                     (long long)label.height, (long long)label.left, (long long)label.top));
  }
  if (int64_t(label.mask.size()) != label.width * label.height) {
    throw Error(Code::bad_argument,
                text("Label: expected %lld bytes for %lld x %lld, found %zu.", (long long)(label.width * label.height),
                     (long long)label.width, (long long)label.height, label.mask.size()));
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

Pixels make_cell(Rows& view, int64_t width, int64_t height, const Label* label) {
  if (label != nullptr) validate(*label);
  Pixels cell = resize(view, width, height);
  if (label != nullptr) paint(cell, *label);
  return cell;
}

void validate(const Canvas& canvas) {
  const int64_t count = int64_t(canvas.cells.size());
  if (canvas.columns < 1 || count < 1 || count % canvas.columns != 0) {
    throw Error(Code::bad_argument, text("%lld cells do not fill whole rows of %lld columns.", (long long)count,
                                         (long long)canvas.columns));
  }
  const int64_t width = canvas.cells.front()->width, height = canvas.cells.front()->height;
  for (const auto& cell : canvas.cells) {
    if (cell->width == width && cell->height == height) continue;
    throw Error(Code::bad_argument,
                text("The cells of a canvas are of one size, found %lld x %lld beside %lld x %lld.",
                     (long long)cell->width, (long long)cell->height, (long long)width, (long long)height));
  }
  if (canvas.columns > kMaxEdge || canvas.rows() > kMaxEdge || !fits(canvas.width(), canvas.height())) {
    throw Error(Code::bad_argument,
                text("A canvas of %lld x %lld cells of %lld x %lld pixels is over the limit of %lld pixels or edges of "
                     "%lld.",
                     (long long)canvas.columns, (long long)canvas.rows(), (long long)width, (long long)height,
                     (long long)kMaxPixels, (long long)kMaxEdge));
  }
}

CanvasRows::CanvasRows(const Canvas& canvas)
    : Rows(canvas.width(), canvas.height()), canvas_(canvas), block_(kBlockRows * canvas.width() * 3) {}

const uint8_t* CanvasRows::read(int64_t first, int count) {
  const int64_t cell_height = canvas_.cells.front()->height, stride = canvas_.cells.front()->width * 3;
  for (int r = 0; r < count; ++r) {
    const int64_t row = (first + r) / cell_height, y = (first + r) % cell_height;
    for (int64_t column = 0; column < canvas_.columns; ++column) {
      const Pixels& cell = *canvas_.cells[row * canvas_.columns + column];
      std::memcpy(&block_[(r * canvas_.columns + column) * stride], &cell.rgb[y * stride], stride);
    }
  }
  return block_.data();
}

}  // namespace drivlm
