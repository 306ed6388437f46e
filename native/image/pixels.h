// Pictures in host memory: interleaved RGB, [height, width, 3], and how their rows are read.
#pragma once

#include <cstdint>
#include <vector>

namespace drivlm {

// Bounds of every picture, canvas and resized picture.
constexpr int64_t kMaxPixels = 64'000'000;
constexpr int64_t kMaxEdge = 65'535;

inline bool fits(int64_t width, int64_t height) {
  return width >= 1 && height >= 1 && width <= kMaxEdge && height <= kMaxEdge && width * height <= kMaxPixels;
}

struct Pixels {
  std::vector<uint8_t> rgb;
  int64_t width = 0, height = 0;
};

// Rows that one call of Rows::read gives at most.
constexpr int kBlockRows = 16;

// A picture that is read from top to bottom in blocks of rows, wherever it stands. One thread uses one of these.
class Rows {
 public:
  Rows(int64_t width, int64_t height) : width(width), height(height) {}
  virtual ~Rows() = default;

  // Rows [first, first + count), one after the other, 3 * width bytes each; 1 <= count <= kBlockRows. Valid until the
  // next call.
  virtual const uint8_t* read(int64_t first, int count) = 0;

  const int64_t width, height;
};

// Rows of memory that nobody changes or frees meanwhile.
class PixelRows final : public Rows {
 public:
  PixelRows(const uint8_t* rgb, int64_t width, int64_t height) : Rows(width, height), rgb_(rgb) {}
  explicit PixelRows(const Pixels& pixels) : PixelRows(pixels.rgb.data(), pixels.width, pixels.height) {}
  const uint8_t* read(int64_t first, int) override { return rgb_ + first * width * 3; }

 private:
  const uint8_t* rgb_;
};

}  // namespace drivlm
