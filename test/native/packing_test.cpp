// Packing of stored rows on every target that this CPU has, byte for byte against plain loops.
#include <cmath>
#include <limits>
#include <sstream>

#include "cpu_kernels_testing.h"
#include "kernels/cpu/packing.h"
#include "plain_packing.h"

namespace drivlm::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

// The rows of one panel, of which some are missing, at addresses that fit no vector.
struct Rows {
  Rows(int64_t k, bool f32, std::vector<float> given) : values(std::move(given)), bytes(kPanelRows) {
    stored.f32 = f32;
    stored.k = k;
    for (int64_t r = 0; r < kPanelRows; ++r) {
      if (r % 7 == 5) continue;
      bytes[r].resize(k * (f32 ? 4 : 2) + 1);
      for (int64_t i = 0; i < k; ++i) {
        float& v = values[r * k + i];
        const bf16 half = from_float<bf16>(v);
        if (!f32) v = to_float(half);
        std::memcpy(bytes[r].data() + 1 + i * (f32 ? 4 : 2), f32 ? static_cast<void*>(&v) : const_cast<bf16*>(&half),
                    f32 ? 4 : 2);
      }
      stored.row[r] = bytes[r].data() + 1;
    }
  }

  const float* row(int64_t r) const { return stored.row[r] ? values.data() + r * stored.k : nullptr; }

  StoredRows stored;
  std::vector<float> values;
  std::vector<std::vector<char>> bytes;
};

// Panel, scales and sums, with bytes behind them that must stay.
struct Packed {
  explicit Packed(WeightKind kind, int64_t k) : panel(panel_bytes(kind, k) + 64) {
    std::memset(panel.data, 0x5a, panel_bytes(kind, k) + 64);
  }
  char* data() { return static_cast<char*>(panel.data); }
  Aligned panel;
  float scales[kPanelRows] = {};
  int32_t sums[kPanelRows] = {};
};

void pack_as_described(Packed& out, WeightKind kind, const Rows& rows) {
  const int64_t k = rows.stored.k;
  const float* wide[kPanelRows];
  for (int64_t r = 0; r < kPanelRows; ++r) wide[r] = rows.row(r);
  if (kind == WeightKind::s4) return pack_plain_s4(out.data(), wide, k);
  std::vector<bf16> halves(kPanelRows * k);
  std::vector<int8_t> bytes(kPanelRows * k);
  const void* packed[kPanelRows] = {};
  for (int64_t r = 0; r < kPanelRows; ++r) {
    if (!wide[r]) continue;
    if (kind == WeightKind::bf16) {
      for (int64_t i = 0; i < k; ++i) halves[r * k + i] = from_float<bf16>(wide[r][i]);
      packed[r] = halves.data() + r * k;
    } else {
      int8_t* q = bytes.data() + r * k;
      out.scales[r] = quantize_s8(q, wide[r], k);
      out.sums[r] = std::accumulate(q, q + k, int32_t{0});
      packed[r] = q;
    }
  }
  pack_plain(out.data(), kind, packed, k);
}

void expect_same(const std::string& name, const Rows& rows) {
  for (const WeightKind kind : {WeightKind::bf16, WeightKind::s8, WeightKind::s4}) {
    Packed expected(kind, rows.stored.k);
    pack_as_described(expected, kind, rows);
    for_each_target([&](const Target& target) {
      Packed found(kind, rows.stored.k);
      target.kernels->pack_panel(found.data(), found.scales, found.sums, kind, rows.stored);
      int64_t differ = 0;
      for (int64_t i = 0; i < panel_bytes(kind, rows.stored.k) + 64; ++i)
        differ += found.data()[i] != expected.data()[i];
      differ += std::memcmp(found.scales, expected.scales, sizeof found.scales) != 0;
      differ += std::memcmp(found.sums, expected.sums, sizeof found.sums) != 0;
      if (differ > 0) {
        std::ostringstream what;
        what << name << ", kind " << static_cast<int>(kind) << (rows.stored.f32 ? " from f32" : " from bf16")
             << ", k = " << rows.stored.k << ", on " << target.name << ": " << differ << " bytes differ";
        test::fail(__FILE__, __LINE__, what.str());
      }
    });
  }
}

}  // namespace

TEST(packing_odd_shapes) {
  for (const int64_t k : {1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 129, 896}) {
    for (const bool f32 : {false, true}) {
      Random random(static_cast<uint32_t>(k));
      expect_same("noise", {k, f32, random.floats(kPanelRows * k, 0.4f)});
      // Most weights are small beside the largest of their row: rounding often lands on a half.
      auto values = random.floats(kPanelRows * k, 1);
      for (float& v : values) v = std::round(v * v * v * 16) / 16;
      expect_same("halves", {k, f32, values});
    }
  }
}

// Zeros, one value, numbers too small or too large for what they are scaled by, and what is no number.
TEST(packing_extremes) {
  constexpr int64_t k = 70;
  const float odd[] = {0.0f,   -0.0f, 1e-30f, -1e-38f,   1e-40f, 1e-45f, 3e38f,
                       -3e38f, 1.0f,  -1.0f,  kInfinity, kNan,   -kNan,  -kInfinity};
  for (const bool f32 : {false, true}) {
    for (const float one : odd) {
      for (const float other : odd) {
        std::vector<float> values(kPanelRows * k, one);
        for (int64_t i = 0; i < kPanelRows * k; i += 11) values[i] = other;
        for (int64_t i = 0; i < k; ++i) values[3 * k + i] = i == 33 ? other : 0.0f;
        expect_same("extremes", {k, f32, values});
      }
    }
  }
}

}  // namespace drivlm::cpu
