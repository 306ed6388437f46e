// Quantising: the arithmetic that every device packs.
#include "packed/formats.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"

namespace drivlm {

namespace {

std::vector<float> noise(int64_t count, uint32_t seed) { return test::Random(seed).floats(count, 1); }

double squared_error(const float* w, const int8_t* q, double scale, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += (w[i] - scale * q[i]) * (w[i] - scale * q[i]);
  return sum;
}

}  // namespace

TEST(formats_follow_the_use) {
  const Use uses[] = {Use::patches, Use::tower, Use::projector, Use::decoder, Use::embedding, Use::head};
  for (const Use use : uses) {
    CHECK(encoding_of(WeightFormat::bf16, use) == Encoding::bf16);
    CHECK(encoding_of(WeightFormat::int8, use) == (use == Use::patches ? Encoding::bf16 : Encoding::s8));
    const Encoding in_int4 = use == Use::patches ? Encoding::bf16 : use == Use::decoder ? Encoding::s4 : Encoding::s8;
    CHECK(encoding_of(WeightFormat::int4, use) == in_int4);
  }
}

// Every value within half a step, the largest exactly at the end of the grid, whatever its sign.
TEST(formats_s8_rows) {
  for (const int64_t k : {1, 5, 32, 77}) {
    auto w = noise(k, static_cast<uint32_t>(k));
    w[k / 2] = k % 2 ? -1.5f : 1.5f;
    std::vector<int8_t> q(k);
    const float scale = quantize_s8(q.data(), w.data(), k);
    CHECK_EQ(scale, 1.5f / 127);
    CHECK_EQ(int(q[k / 2]), k % 2 ? -127 : 127);
    for (int64_t i = 0; i < k; ++i) CHECK(std::fabs(w[i] - scale * q[i]) <= scale * 0.5001f);
  }
}

// Products and lengths stay, twice is once more the same, and a dimension that stands out comes to no more than its share in its part.
TEST(formats_spread_head) {
  for (int64_t dim = 2; dim <= 128; dim += 2) {
    const auto a = noise(dim, static_cast<uint32_t>(dim)), b = noise(dim, static_cast<uint32_t>(dim + 1));
    auto x = a, y = b;
    spread_head(x.data(), dim);
    spread_head(y.data(), dim);
    double before = 0, after = 0;
    for (int64_t i = 0; i < dim; ++i) before += double{a[i]} * b[i], after += double{x[i]} * y[i];
    CHECK(std::fabs(before - after) < 1e-5);
    spread_head(x.data(), dim);
    for (int64_t i = 0; i < dim; ++i) CHECK(std::fabs(x[i] - a[i]) < 1e-5f);

    const int64_t length = dim & -dim;
    std::vector<float> one(dim);
    one[dim / 3] = 100;
    spread_head(one.data(), dim);
    const float share = 100 / std::sqrt(static_cast<float>(length));
    int64_t touched = 0;
    for (const float v : one) {
      CHECK(v == 0 || std::fabs(std::fabs(v) - share) < 1e-4f);
      touched += v != 0;
    }
    CHECK_EQ(touched, length);
  }
}

// Groups stand alone; past the row's end there are zeros; and no plain grid (its end at the largest value) is better.
TEST(formats_s4_groups) {
  for (const int64_t k : {1, 31, 32, 33, 100}) {
    const auto w = noise(k, static_cast<uint32_t>(k));
    const int64_t groups = s4_groups(k);
    CHECK_EQ(groups, (k + 31) / 32);
    std::vector<int8_t> q(groups * kS4Group, 99);
    std::vector<bf16> scales(groups);
    quantize_s4(q.data(), scales.data(), w.data(), k);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * kS4Group, count = std::min(kS4Group, k - first);
      for (int64_t i = 0; i < kS4Group; ++i) {
        const int value = q[first + i];
        CHECK(value >= -8 && value <= 7);
        if (i >= count) CHECK_EQ(value, 0);
      }
      float top = 0;
      for (int64_t i = 0; i < count; ++i) top = std::fabs(w[first + i]) > std::fabs(top) ? w[first + i] : top;
      std::vector<int8_t> plain(count);
      const double step = -top / 8.0;
      for (int64_t i = 0; i < count; ++i) {
        plain[i] = static_cast<int8_t>(std::clamp(std::nearbyint(w[first + i] / step), -8.0, 7.0));
      }
      // The scale is rounded to bf16 afterwards: 2^-9 of each value.
      double size = 0;
      for (int64_t i = 0; i < count; ++i) size += w[first + i] * w[first + i];
      const double found = squared_error(&w[first], &q[first], to_float(scales[g]), count);
      CHECK(found <= squared_error(&w[first], plain.data(), step, count) + size * 0x1p-16);
      // A group of its own gives the same.
      int8_t alone[kS4Group];
      bf16 scale;
      quantize_s4(alone, &scale, &w[first], count);
      CHECK_EQ(scale.bits, scales[g].bits);
      CHECK(std::equal(alone, alone + kS4Group, &q[first]));
    }
  }
}

TEST(formats_zeros) {
  const float zeros[40] = {};
  int8_t q[64];
  bf16 scales[2];
  CHECK_EQ(quantize_s8(q, zeros, 40), 0.0f);
  CHECK(std::all_of(q, q + 40, [](int8_t v) { return v == 0; }));
  quantize_s4(q, scales, zeros, 40);
  CHECK(std::all_of(q, q + 64, [](int8_t v) { return v == 0; }));
  CHECK(scales[0].bits == 0 && scales[1].bits == 0);
}

}  // namespace drivlm
