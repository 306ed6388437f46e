// A resize is two passes, across and then down, each a weighted sum of neighbouring pixels with 22-bit fixed-point
// weights, rounded to 8 bits after each. They run interleaved: rows are resized across in blocks of kBlockRows into a
// ring that holds just the rows the next output row needs, so scratch memory is bounded by the filter's height and
// stays in the cache.
//
// Across    A block of 16 rows is transposed to [width, 48 bytes], so that one weight meets 48 neighbouring bytes.
// Down      One weight meets a run of a row's bytes.
// Numerics  Integers throughout, so every form gives the same bytes. |sum| < 2^31: weights add up to 2^22, and their
//           absolute values to less than 1.3 times that.

#include "image/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace drivlm {
namespace {

constexpr int kWeightBits = 22;
constexpr int kBlockBytes = kBlockRows * 3;

// The taps of one axis: output i is the sum of inputs first[i].. with weights[offset[i]]..weights[offset[i + 1]].
struct Axis {
  std::vector<int64_t> first;    // [out]
  std::vector<int64_t> offset;   // [out + 1]
  std::vector<int32_t> weights;  // [offset[out]]

  int64_t count(int64_t i) const { return offset[i + 1] - offset[i]; }
};

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

Axis make_axis(int64_t in, int64_t out) {
  const double scale = double(in) / double(out);
  const double filter_scale = std::max(scale, 1.0);
  const double support = 2.0 * filter_scale;
  const double inverse = 1.0 / filter_scale;

  Axis axis;
  axis.first.reserve(out);
  axis.offset.reserve(out + 1);
  axis.offset.push_back(0);
  std::vector<double> taps;
  for (int64_t i = 0; i < out; ++i) {
    const double center = (double(i) + 0.5) * scale;
    const int64_t lo = std::max<int64_t>(int64_t(center - support + 0.5), 0);
    const int64_t hi = std::min<int64_t>(int64_t(center + support + 0.5), in);
    taps.clear();
    double sum = 0;
    for (int64_t t = lo; t < hi; ++t) {
      taps.push_back(bicubic((double(t) - center + 0.5) * inverse));
      sum += taps.back();
    }
    for (double tap : taps) {
      const double w = sum != 0.0 ? tap / sum : tap;
      axis.weights.push_back(int32_t(w * double(1 << kWeightBits) + (w < 0 ? -0.5 : 0.5)));
    }
    axis.first.push_back(lo);
    axis.offset.push_back(int64_t(axis.weights.size()));
  }
  return axis;
}

// Both inner loops are the same sum over taps, for kCount neighbouring bytes:
//   out[i] = clamp((2^21 + sum of weights[t] * row(t)[i]) >> 22)
struct Plain {
  template <int kCount, class RowAt>
  static void weighted_sum(uint8_t* out, const int32_t* weights, int64_t taps, RowAt row) {
    int32_t sum[kCount];
    for (int i = 0; i < kCount; ++i) sum[i] = 1 << (kWeightBits - 1);
    for (int64_t t = 0; t < taps; ++t) {
      const uint8_t* source = row(t);
      const int32_t weight = weights[t];
      for (int i = 0; i < kCount; ++i) sum[i] += source[i] * weight;
    }
    for (int i = 0; i < kCount; ++i) out[i] = uint8_t(std::clamp(sum[i] >> kWeightBits, 0, 255));
  }
};

#if defined(__x86_64__)
// Two taps at a time: weights are split into 11 low bits and the rest, so that both halves fit 16 bits and pmaddwd adds
// two products exactly. Over thousands of taps the low half may wrap; the total is exact modulo 2^32, and fits. A
// 1600x900 view to 896x448 takes 4.3 ms on a shared Xeon core; what g++ 12 makes of Plain takes 11.
struct Avx2 {
  template <int kCount, class RowAt>
  [[gnu::target("avx2")]] static void weighted_sum(uint8_t* out, const int32_t* weights, int64_t taps, RowAt row) {
    constexpr int kVectors = kCount / 16;  // of sixteen bytes
    static_assert(kCount % 16 == 0);
    constexpr int kLowBits = 11;
    __m256i high[2 * kVectors], low[2 * kVectors];
    for (int v = 0; v < 2 * kVectors; ++v) {
      high[v] = _mm256_setzero_si256();
      low[v] = _mm256_set1_epi32(1 << (kWeightBits - 1));
    }
    for (int64_t t = 0; t < taps; t += 2) {
      const bool pair = t + 1 < taps;
      const int32_t w0 = weights[t], w1 = pair ? weights[t + 1] : 0;
      const uint8_t* row0 = row(t);
      const uint8_t* row1 = pair ? row(t + 1) : row0;
      constexpr int32_t kLowMask = (1 << kLowBits) - 1;
      const __m256i w_low = _mm256_set1_epi32((w0 & kLowMask) | (w1 & kLowMask) << 16);
      const __m256i w_high = _mm256_set1_epi32(((w0 >> kLowBits) & 0xffff) | int32_t(uint32_t(w1 >> kLowBits) << 16));
      for (int v = 0; v < kVectors; ++v) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row0 + 16 * v));
        const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row1 + 16 * v));
        const __m256i first = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
        const __m256i second = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
        low[2 * v] = _mm256_add_epi32(low[2 * v], _mm256_madd_epi16(first, w_low));
        high[2 * v] = _mm256_add_epi32(high[2 * v], _mm256_madd_epi16(first, w_high));
        low[2 * v + 1] = _mm256_add_epi32(low[2 * v + 1], _mm256_madd_epi16(second, w_low));
        high[2 * v + 1] = _mm256_add_epi32(high[2 * v + 1], _mm256_madd_epi16(second, w_high));
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      __m256i sum[2];
      for (int half = 0; half < 2; ++half) {
        const int i = 2 * v + half;
        sum[half] = _mm256_srai_epi32(_mm256_add_epi32(low[i], _mm256_slli_epi32(high[i], kLowBits)), kWeightBits);
      }
      // Packing saturates to 0..255 and works within 128-bit lanes, hence the permutations.
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(sum[0], sum[1]), 0xd8);
      const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0xd8);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * v), _mm256_castsi256_si128(bytes));
    }
  }
};
#endif

// One output row from the rows it is made of, each `bytes` long.
template <class Isa>
void down_row(uint8_t* out, const uint8_t* const* rows, const int32_t* weights, int64_t taps, int64_t bytes) {
  int64_t at = 0;
  const auto row = [&](int64_t t) { return rows[t] + at; };
  for (; at + 48 <= bytes; at += 48) Isa::template weighted_sum<48>(out + at, weights, taps, row);
  for (; at + 16 <= bytes; at += 16) Isa::template weighted_sum<16>(out + at, weights, taps, row);
  for (; at < bytes; ++at) Plain::weighted_sum<1>(out + at, weights, taps, row);
}

// Rows to columns: block [in, 48] from `count` rows of [in, 3].
void to_columns(uint8_t* block, const uint8_t* const* rows, int count, int64_t in) {
  int64_t x = 0;
#if defined(__x86_64__)
  // Four pixels of four rows at a time; loads of sixteen bytes end within the row.
  if (count == kBlockRows) {
    const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    const __m128i pack = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    for (; x + 6 <= in; x += 4) {
      for (int r = 0; r < kBlockRows; r += 4) {
        __m128i v[4];
        for (int i = 0; i < 4; ++i) {
          v[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r + i] + 3 * x)), spread);
        }
        const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpacklo_epi32(v[2], v[3]);
        const __m128i c = _mm_unpackhi_epi32(v[0], v[1]), d = _mm_unpackhi_epi32(v[2], v[3]);
        const __m128i pixel[4] = {_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b), _mm_unpacklo_epi64(c, d),
                                  _mm_unpackhi_epi64(c, d)};
        for (int i = 0; i < 4; ++i) {
          uint8_t* at = block + (x + i) * kBlockBytes + 3 * r;
          const __m128i bytes = _mm_shuffle_epi8(pixel[i], pack);
          if (r + 4 < kBlockRows) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(at), bytes);  // the next store overwrites the last four
          } else {
            _mm_storel_epi64(reinterpret_cast<__m128i*>(at), bytes);
            const int last = _mm_extract_epi32(bytes, 2);
            std::memcpy(at + 8, &last, 4);
          }
        }
      }
    }
  }
#endif
  // A pixel's three bytes are copied by one move of four bytes; the next move overwrites the fourth. The last pixel of
  // a row has no fourth byte to read.
  for (; x + 1 < in; ++x) {
    uint8_t* column = block + x * kBlockBytes;
    for (int r = 0; r < count; ++r) std::memcpy(column + 3 * r, rows[r] + 3 * x, 4);
  }
  for (int r = 0; r < count; ++r) std::memcpy(block + (in - 1) * kBlockBytes + 3 * r, rows[r] + 3 * (in - 1), 3);
}

// `count` rows (up to kBlockRows) resized across: transposed to `block` [in, 48], summed, and transposed back.
template <class Isa>
void across_rows(uint8_t* const* out_rows, const uint8_t* const* in_rows, int count, int64_t in, int64_t out,
                 const Axis& axis, uint8_t* block) {
  to_columns(block, in_rows, count, in);
  for (int64_t x = 0; x < out; ++x) {
    const uint8_t* first = block + axis.first[x] * kBlockBytes;
    uint8_t column[kBlockBytes + 1];
    Isa::template weighted_sum<kBlockBytes>(column, &axis.weights[axis.offset[x]], axis.count(x),
                                            [&](int64_t t) { return first + t * kBlockBytes; });
    if (x + 1 < out) {
      for (int r = 0; r < count; ++r) std::memcpy(out_rows[r] + 3 * x, column + 3 * r, 4);
    } else {
      for (int r = 0; r < count; ++r) std::memcpy(out_rows[r] + 3 * x, column + 3 * r, 3);
    }
  }
}

struct Passes {
  decltype(&down_row<Plain>) down = down_row<Plain>;
  decltype(&across_rows<Plain>) across = across_rows<Plain>;
};

const Passes& passes() {
  static const Passes chosen = [] {
    Passes best;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) best = {down_row<Avx2>, across_rows<Avx2>};
#endif
    return best;
  }();
  return chosen;
}

void expect_size(const char* what, int64_t width, int64_t height) {
  if (fits(width, height)) return;
  throw Error(Code::bad_argument,
              text("%s: expected 1 to %lld pixels with edges of up to %lld, found %lld x %lld.", what,
                   (long long)kMaxPixels, (long long)kMaxEdge, (long long)width, (long long)height));
}

// Rows of a picture at the width of the result, a block at a time.
class AcrossRows {
 public:
  AcrossRows(Rows& picture, int64_t width) : picture_(picture), width_(width), changes_(picture.width != width) {
    if (!changes_) return;
    axis_ = make_axis(picture.width, width);
    block_.resize(picture.width * kBlockBytes);
  }

  // Puts row first + i where row_at(first + i) says.
  template <class RowAt>
  void read(int64_t first, int count, RowAt row_at) {
    const uint8_t* rows = picture_.read(first, count);
    const int64_t stride = picture_.width * 3;
    if (!changes_) {
      for (int r = 0; r < count; ++r) std::memcpy(row_at(first + r), rows + r * stride, stride);
      return;
    }
    const uint8_t* in[kBlockRows];
    uint8_t* out[kBlockRows];
    for (int r = 0; r < count; ++r) {
      in[r] = rows + r * stride;
      out[r] = row_at(first + r);
    }
    passes().across(out, in, count, picture_.width, width_, axis_, block_.data());
  }

 private:
  Rows& picture_;
  const int64_t width_;
  const bool changes_;
  Axis axis_;
  std::vector<uint8_t> block_;
};

}  // namespace

void resize_band(Rows& picture, int64_t width, int64_t height, int64_t first_row, int64_t last_row,
                 const RowSink& sink) {
  expect_size("picture to resize", picture.width, picture.height);
  expect_size("size to resize to", width, height);
  if (first_row < 0 || last_row > height || first_row > last_row)
    throw Error(Code::internal, "The band is not of the picture.");
  const int64_t stride = width * 3;
  AcrossRows across(picture, width);

  if (picture.height == height) {
    std::vector<uint8_t> block(kBlockRows * stride);
    for (int64_t y = first_row; y < last_row; y += kBlockRows) {
      const int count = int(std::min<int64_t>(kBlockRows, last_row - y));
      across.read(y, count, [&](int64_t row) { return &block[(row - y) * stride]; });
      for (int r = 0; r < count; ++r) sink(y + r, &block[r * stride]);
    }
    return;
  }

  const Axis down = make_axis(picture.height, height);
  int64_t longest = 0;
  for (int64_t y = 0; y < height; ++y) longest = std::max(longest, down.count(y));
  const int64_t ring_rows = std::min(longest + kBlockRows, picture.height);
  std::vector<uint8_t> ring(ring_rows * stride), result(stride);
  const auto ring_at = [&](int64_t row) { return &ring[(row % ring_rows) * stride]; };

  std::vector<const uint8_t*> rows(longest);
  int64_t ready =
      first_row < last_row ? down.first[first_row] : 0;  // rows before it are in the ring, or needed no more
  for (int64_t y = first_row; y < last_row; ++y) {
    const int64_t first = down.first[y], taps = down.count(y);
    while (ready < first + taps) {
      // The ring holds `longest` rows and a block, so this overwrites no row from `first` on.
      const int count = int(std::min<int64_t>(kBlockRows, picture.height - ready));
      across.read(ready, count, ring_at);
      ready += count;
    }
    for (int64_t t = 0; t < taps; ++t) rows[t] = ring_at(first + t);
    passes().down(result.data(), rows.data(), &down.weights[down.offset[y]], taps, stride);
    sink(y, result.data());
  }
}

Pixels resize(Rows& picture, int64_t width, int64_t height) {
  expect_size("size to resize to", width, height);
  Pixels result{std::vector<uint8_t>(width * height * 3), width, height};
  resize_band(picture, width, height, 0, height,
              [&](int64_t y, const uint8_t* row) { std::memcpy(&result.rgb[y * width * 3], row, width * 3); });
  return result;
}

Pixels resize(const Pixels& picture, int64_t width, int64_t height) {
  expect_size("picture to resize", picture.width, picture.height);
  if (int64_t(picture.rgb.size()) != picture.width * picture.height * 3) {
    throw Error(Code::bad_argument, text("picture to resize: expected %lld bytes, found %zu.",
                                         (long long)(picture.width * picture.height * 3), picture.rgb.size()));
  }
  PixelRows rows(picture);
  return resize(rows, width, height);
}

}  // namespace drivlm
