// A canvas: cells of one size, each a view that was resized and labelled, stitched row by row. Nothing is copied to stitch them: the
// canvas is read through its cells.
#pragma once

#include <memory>
#include <vector>

#include "image/pixels.h"

namespace drivlm {

// 8-bit coverage m painted in `ink` at (left, top): t = v * (255 - m) + ink * m + 128, out = ((t >> 8) + t) >> 8.
struct Label {
  std::vector<uint8_t> mask;  // [height, width]
  int64_t width = 0, height = 0, left = 0, top = 0;
  uint8_t ink[3] = {255, 0, 255};
};

// Throws BAD_ARGUMENT unless sizes, place and bytes fit together.
void validate(const Label& label);

// Paints a label, clipped to the picture. The mask holds width * height bytes (validate).
void paint(Pixels& picture, const Label& label);

// A view resized to its cell, and labelled if there is a label.
Pixels make_cell(Rows& view, int64_t width, int64_t height, const Label* label);

struct Canvas {
  std::vector<std::shared_ptr<const Pixels>> cells;  // row by row, all of one size
  int64_t columns = 1;

  int64_t rows() const { return static_cast<int64_t>(cells.size()) / columns; }
  int64_t width() const { return columns * cells.front()->width; }
  int64_t height() const { return rows() * cells.front()->height; }
};

// Throws BAD_ARGUMENT unless there are cells, of one size, that fill whole rows of a canvas within the bounds.
void validate(const Canvas& canvas);

class CanvasRows final : public Rows {
 public:
  // The canvas is valid and outlives this.
  explicit CanvasRows(const Canvas& canvas);
  const uint8_t* read(int64_t first, int count) override;

 private:
  const Canvas& canvas_;
  std::vector<uint8_t> block_;
};

}  // namespace drivlm
