// Pictures to tiles. The goldens (npm run golden) hold the bytes to Pillow's; here are the rules, the edges and the
// refusals.
#include "image/borrowed_rows.h"
#include "image/canvas.h"
#include "image/resize.h"
#include "image/tiles.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "check.h"

using namespace drivlm;

namespace {

Pixels noise(int64_t width, int64_t height, uint32_t seed) {
  Pixels pixels{std::vector<uint8_t>(width * height * 3), width, height};
  test::Random random(seed);
  for (uint8_t& value : pixels.rgb) value = static_cast<uint8_t>(random());
  return pixels;
}

double bicubic(double x) {
  x = std::fabs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

// The recipe as it is written down: whole picture, one axis after the other, one pixel at a time.
Pixels plain_pass(const Pixels& in, int64_t out_size, bool across) {
  const int64_t in_size = across ? in.width : in.height;
  if (in_size == out_size) return in;
  Pixels out{{}, across ? out_size : in.width, across ? in.height : out_size};
  out.rgb.resize(out.width * out.height * 3);
  const double scale = double(in_size) / double(out_size), filter_scale = std::max(scale, 1.0);
  for (int64_t i = 0; i < out_size; ++i) {
    const double center = (i + 0.5) * scale, support = 2 * filter_scale;
    const int64_t lo = std::max<int64_t>(int64_t(center - support + 0.5), 0);
    const int64_t hi = std::min<int64_t>(int64_t(center + support + 0.5), in_size);
    double total = 0;
    for (int64_t t = lo; t < hi; ++t) total += bicubic((t - center + 0.5) * (1 / filter_scale));
    for (int64_t other = 0; other < (across ? in.height : in.width); ++other) {
      for (int64_t c = 0; c < 3; ++c) {
        int64_t sum = 1 << 21;
        for (int64_t t = lo; t < hi; ++t) {
          const double w = bicubic((t - center + 0.5) * (1 / filter_scale)) / total * double(1 << 22);
          const int64_t at = across ? other * in.width + t : t * in.width + other;
          sum += in.rgb[at * 3 + c] * int64_t(w + (w < 0 ? -0.5 : 0.5));
        }
        const int64_t at = across ? other * out.width + i : i * out.width + other;
        out.rgb[at * 3 + c] = uint8_t(std::clamp<int64_t>(sum >> 22, 0, 255));
      }
    }
  }
  return out;
}

Pixels plain_resize(const Pixels& in, int64_t width, int64_t height) {
  return plain_pass(plain_pass(in, width, true), height, false);
}

// All tiles of a picture, its parts one after the other.
std::shared_ptr<Tiles> cut(const Pixels& picture, const Grid& grid, int64_t tile_size, bool cheap) {
  std::vector<std::unique_ptr<Rows>> readers;
  for (int64_t i = 0; i < TileCutter::parts(grid, cheap); ++i) readers.push_back(std::make_unique<PixelRows>(picture));
  TileCutter cutter(std::move(readers), grid, tile_size);
  for (int64_t i = cutter.parts() - 1; i >= 0; --i) cutter.part(i);
  return cutter.tiles();
}

std::shared_ptr<const Pixels> shared(Pixels pixels) { return std::make_shared<const Pixels>(std::move(pixels)); }

}  // namespace

TEST(resize_equals_the_recipe_at_every_size) {
  // Sizes around the block of rows, the vector widths and the edges of both; up, down, and one axis only.
  const int64_t sizes[] = {1, 2, 3, 5, 15, 16, 17, 31, 33, 48, 61};
  uint32_t seed = 1;
  for (int64_t in_width : sizes) {
    for (int64_t in_height : {int64_t(1), int64_t(4), int64_t(16), int64_t(37)}) {
      const Pixels in = noise(in_width, in_height, seed++);
      for (int64_t width : sizes) {
        for (int64_t height : {int64_t(1), int64_t(16), int64_t(19), in_height}) {
          const Pixels found = resize(in, width, height), expected = plain_resize(in, width, height);
          if (found.rgb == expected.rgb && found.width == width && found.height == height) continue;
          test::fail(__FILE__, __LINE__,
                     text("%lld x %lld to %lld x %lld, seed %u: bytes differ", (long long)in_width,
                          (long long)in_height, (long long)width, (long long)height, seed - 1));
        }
      }
    }
  }
}

TEST(resize_bounds_its_sums_at_extremes) {
  // Black and white at full contrast overshoot most; clamping must hold both ends.
  Pixels stripes{std::vector<uint8_t>(64 * 64 * 3), 64, 64};
  for (size_t i = 0; i < stripes.rgb.size(); ++i) stripes.rgb[i] = (i / 3) % 2 ? 255 : 0;
  CHECK(resize(stripes, 97, 131).rgb == plain_resize(stripes, 97, 131).rgb);
  CHECK(resize(stripes, 7, 5).rgb == plain_resize(stripes, 7, 5).rgb);
  Pixels white{std::vector<uint8_t>(31 * 17 * 3, 255), 31, 17};
  const Pixels large = resize(white, 100, 3);
  CHECK_EQ(std::count(large.rgb.begin(), large.rgb.end(), 255), 900);
}

TEST(resize_takes_extreme_shapes) {
  const Pixels wide = noise(kMaxEdge, 2, 3);
  CHECK(resize(wide, 8, 8).rgb == plain_resize(wide, 8, 8).rgb);  // 32767 taps a pixel
  const Pixels tall = noise(2, kMaxEdge, 4);
  CHECK(resize(tall, 3, 448).rgb == plain_resize(tall, 3, 448).rgb);
}

TEST(resize_refuses_what_does_not_fit) {
  const Pixels picture = noise(4, 4, 5);
  CHECK_ERROR(Code::bad_argument, resize(picture, 0, 4));
  CHECK_ERROR(Code::bad_argument, resize(picture, 4, -1));
  CHECK_ERROR(Code::bad_argument, resize(picture, kMaxEdge + 1, 1));
  CHECK_ERROR(Code::bad_argument, resize(picture, 10000, 10000));
  Pixels lying = picture;
  lying.height = 5;
  CHECK_ERROR(Code::bad_argument, resize(lying, 2, 2));
}

TEST(choose_grid_follows_the_rules) {
  struct {
    int64_t width, height, tile, min, max;
    bool thumbnail;
    int64_t columns, rows;
  } const cases[] = {
      {2688, 896, 448, 1, 12, true, 6, 2},   // DriveLM's canvas: a tie of 3x1 and 6x2, taken by the area
      {2688, 896, 448, 1, 6, true, 3, 1},    //
      {336, 224, 112, 1, 6, false, 3, 2},    // street-tiny
      {448, 448, 448, 1, 12, true, 1, 1},    // 2x2 would need more than two tiles' pixels
      {634, 633, 448, 1, 12, true, 1, 1},    // nearest to square, not a tie
      {634, 634, 448, 1, 12, true, 2, 2},    // 401956 > 0.5 * 448^2 * 4 = 401408
      {633, 633, 448, 1, 12, true, 1, 1},    // 400689 is not
      {1600, 900, 448, 1, 12, true, 4, 2},   // 16:9 is nearer to 2 than to 3/2, and 4x2 wins the tie with 2x1
      {3000, 500, 448, 1, 12, true, 6, 1},   //
      {1, 1, 448, 1, 12, true, 1, 1},        //
      {100, 1000, 448, 1, 12, true, 1, 10},  //
      {500, 400, 448, 2, 2, false, 1, 2},    // equally far from 1/2 and 2, small: the first stays
  };
  for (const auto& c : cases) {
    const Grid grid = choose_grid(c.width, c.height, c.tile, c.min, c.max, c.thumbnail);
    CHECK_EQ(grid.columns, c.columns);
    CHECK_EQ(grid.rows, c.rows);
    CHECK_EQ(grid.thumbnail, c.thumbnail && c.columns * c.rows > 1);
  }
  CHECK_ERROR(Code::bad_argument, choose_grid(0, 1, 448, 1, 12, true));
  CHECK_ERROR(Code::bad_argument, choose_grid(1, 1, 0, 1, 12, true));
  CHECK_ERROR(Code::bad_argument, choose_grid(1, 1, 448, 0, 12, true));
  CHECK_ERROR(Code::bad_argument, choose_grid(1, 1, 448, 3, 2, true));
  CHECK_ERROR(Code::bad_argument, choose_grid(1, 1, 448, 1, kMaxTiles + 1, true));
}

TEST(paint_blends_and_clips) {
  Pixels picture{std::vector<uint8_t>(4 * 3 * 3, 100), 4, 3};
  const Label label{{0, 128, 255, 255, 128, 0}, 3, 2, 2, -1, {255, 0, 255}};  // its right column and top row fall off
  paint(picture, label);
  const uint8_t* row = picture.rgb.data();
  CHECK_EQ(int(row[2 * 3]), 255);     // coverage 255: ink
  CHECK_EQ(int(row[2 * 3 + 1]), 0);   //
  CHECK_EQ(int(row[3 * 3]), 178);     // (100 * 127 + 255 * 128) / 255, rounded
  CHECK_EQ(int(row[3 * 3 + 1]), 50);  // 100 * 127 / 255, rounded
  CHECK_EQ(std::count(picture.rgb.begin(), picture.rgb.end(), 100), 36 - 6);
  Pixels same = picture;
  paint(same, {{255}, 1, 1, 4, 0, {1, 2, 3}});   // right of it
  paint(same, {{255}, 1, 1, 0, -5, {1, 2, 3}});  // above it
  CHECK(same.rgb == picture.rgb);
}

TEST(bands_give_the_bytes_of_the_whole) {
  const Pixels picture = noise(61, 47, 21);
  for (const auto& [width, height] : {std::pair<int64_t, int64_t>{20, 31}, {61, 31}, {20, 47}, {61, 47}, {90, 101}}) {
    const Pixels whole = resize(picture, width, height);
    for (int64_t bands : {1, 2, 3, 7}) {
      Pixels found{std::vector<uint8_t>(whole.rgb.size()), width, height};
      for (int64_t band = 0; band < bands; ++band) {
        PixelRows rows(picture);
        int64_t expected = height * band / bands;
        resize_band(rows, width, height, height * band / bands, height * (band + 1) / bands,
                    [&](int64_t y, const uint8_t* row) {
                      CHECK_EQ(y, expected++);
                      std::copy(row, row + width * 3, &found.rgb[y * width * 3]);
                    });
      }
      CHECK(found.rgb == whole.rgb);
    }
  }
}

TEST(borrowed_rows_are_the_pixels) {
  const Pixels picture = noise(70, 53, 23);
  const auto rows = BorrowedRows::open(picture.rgb.data(), picture.width, picture.height);
  CHECK(rows != nullptr);
  CHECK(resize(*rows, 31, 90).rgb == resize(picture, 31, 90).rgb);
  CHECK(resize(*rows, 70, 53).rgb == picture.rgb);
}

TEST(borrowed_rows_survive_memory_that_is_gone) {
  const int64_t width = 1600, height = 900, bytes = width * height * 3;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  const auto rows = BorrowedRows::open(static_cast<const uint8_t*>(memory), width, height);
  CHECK(rows != nullptr);
  rows->read(884, 16);
  mprotect(static_cast<char*>(memory) + (1 << 20), bytes - (1 << 20), PROT_NONE);  // as V8 shrinks a resizable buffer
  rows->read(0, 16);
  CHECK_ERROR(Code::bad_view, rows->read(884, 16));
  CHECK_ERROR(Code::bad_view, resize(*rows, 896, 448));
  munmap(memory, bytes);
  CHECK_ERROR(Code::bad_view, rows->read(0, 1));
}

TEST(canvas_stitches_row_by_row) {
  Canvas canvas;
  canvas.columns = 3;
  for (uint8_t i = 0; i < 6; ++i) {
    const Pixels view{std::vector<uint8_t>(3, i), 1, 1};
    const Label label{{255}, 1, 1, 1, 1, {200, 201, 202}};
    PixelRows rows(view);
    canvas.cells.push_back(shared(make_cell(rows, 4, 2, i == 4 ? &label : nullptr)));
  }
  validate(canvas);
  CanvasRows rows(canvas);
  CHECK_EQ(rows.width, 12);
  CHECK_EQ(rows.height, 4);
  for (const auto& [first, count] : {std::pair<int64_t, int>{0, 4}, {1, 2}, {3, 1}}) {
    const uint8_t* block = rows.read(first, count);
    for (int64_t y = first; y < first + count; ++y) {
      for (int64_t x = 0; x < 12; ++x) {
        const bool painted = x == 5 && y == 3;
        CHECK_EQ(int(block[((y - first) * 12 + x) * 3]), painted ? 200 : int(y / 2 * 3 + x / 4));
      }
    }
  }
}

TEST(tiles_are_cut_and_hashed_and_the_thumbnail_added) {
  const Pixels picture = noise(50, 30, 9);
  const Pixels whole = plain_resize(picture, 24, 16), thumbnail = plain_resize(picture, 8, 8);
  for (bool cheap : {false, true}) {
    const auto tiles = cut(picture, {3, 2, true}, 8, cheap);
    CHECK_EQ(tiles->count, 7);
    CHECK_EQ(tiles->tile_bytes(), 192);
    bool equal = true;
    for (int64_t y = 0; y < 16; ++y) {
      for (int64_t x = 0; x < 24 * 3; ++x) {
        equal = equal && tiles->tile(y / 8 * 3 + x / 24)[y % 8 * 24 + x % 24] == whole.rgb[y * 72 + x];
      }
    }
    CHECK(equal);
    CHECK(std::equal(thumbnail.rgb.begin(), thumbnail.rgb.end(), tiles->tile(6)));
    for (int64_t i = 0; i < 7; ++i) CHECK(tiles->hashes[i] == hash_bytes(tiles->tile(i), 192));
  }
}

TEST(a_canvas_of_whole_tiles_is_cut_as_it_is) {
  Canvas canvas;
  canvas.columns = 2;
  for (uint32_t i = 0; i < 4; ++i) canvas.cells.push_back(shared(noise(16, 8, i + 31)));
  std::vector<std::unique_ptr<Rows>> readers;
  const Grid grid{4, 2, true};
  for (int64_t i = 0; i < TileCutter::parts(grid, true); ++i) readers.push_back(std::make_unique<CanvasRows>(canvas));
  TileCutter cutter(std::move(readers), grid, 8);
  for (int64_t i = 0; i < cutter.parts(); ++i) cutter.part(i);
  bool equal = true;
  for (int64_t y = 0; y < 16; ++y) {
    for (int64_t x = 0; x < 32 * 3; ++x) {
      const uint8_t expected = canvas.cells[y / 8 * 2 + x / 48]->rgb[y % 8 * 48 + x % 48];
      equal = equal && cutter.tiles()->tile(y / 8 * 4 + x / 24)[y % 8 * 24 + x % 24] == expected;
    }
  }
  CHECK(equal);
}

TEST(what_does_not_fit_is_refused) {
  const Pixels picture = noise(4, 4, 7);
  CHECK_ERROR(Code::bad_argument, Tiles(0, 4));
  CHECK_ERROR(Code::bad_argument, Tiles(kMaxTiles + 1, 4));
  CHECK_ERROR(Code::bad_argument, Tiles(INT64_MAX, INT64_MAX));
  CHECK_ERROR(Code::bad_argument, Tiles(1, 0));
  CHECK_ERROR(Code::bad_argument, Tiles(1000, 10000));
  CHECK_ERROR(Code::bad_argument, cut(picture, {0, 1, false}, 4, false));
  CHECK_ERROR(Code::bad_argument, cut(picture, {1, INT64_MAX, false}, 4, false));
  CHECK_ERROR(Code::bad_argument, cut(picture, {kMaxTiles, 1, true}, 4, false));
  CHECK_ERROR(Code::bad_argument, cut(picture, {1024, 1, false}, 448, false));

  Canvas canvas;
  CHECK_ERROR(Code::bad_argument, validate(canvas));
  canvas.cells = {shared(noise(4, 4, 1)), shared(noise(4, 4, 2)), shared(noise(4, 4, 3))};
  validate(canvas);
  canvas.columns = 2;
  CHECK_ERROR(Code::bad_argument, validate(canvas));
  canvas.columns = 0;
  CHECK_ERROR(Code::bad_argument, validate(canvas));
  canvas.columns = 3;
  canvas.cells[1] = shared(noise(4, 5, 2));
  CHECK_ERROR(Code::bad_argument, validate(canvas));
  canvas.cells.assign(4, shared({{}, 8000, 8000}));  // 256 megapixels
  canvas.columns = 2;
  CHECK_ERROR(Code::bad_argument, validate(canvas));

  for (const Label& label : {Label{{1, 2}, 1, 1, 0, 0, {}}, Label{{1}, 1, 1, INT64_MIN, 0, {}},
                             Label{{1}, INT64_MAX, INT64_MAX, 0, 0, {}}, Label{{}, 0, 0, 0, 0, {}}}) {
    CHECK_ERROR(Code::bad_argument, validate(label));
    PixelRows rows(picture);
    CHECK_ERROR(Code::bad_argument, make_cell(rows, 2, 2, &label));
  }
}
