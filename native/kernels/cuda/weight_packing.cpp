#include "kernels/cuda/weight_packing.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace drivlm::cuda {

namespace {

constexpr int64_t kAlign = 256;

int64_t bits_of(Encoding encoding) { return encoding == Encoding::bf16 ? 16 : encoding == Encoding::s8 ? 8 : 4; }

// 128 weights to 64 bytes.
void pack_s4_block(uint8_t* to, const int8_t* q) {
  for (int64_t lane = 0; lane < 4; ++lane) {
    for (int64_t group = 0; group < 4; ++group) {
      const int8_t* eight = q + 32 * group + 8 * lane;
      uint32_t word = 0;
      for (int i = 0; i < 8; ++i) word |= uint32_t(eight[i] + 8) << (i % 2 * 16 + i / 2 * 4);
      std::memcpy(to + 16 * lane + 4 * group, &word, 4);
    }
  }
}

}  // namespace

int64_t WeightLayout::stride() const {
  return round_up(cols, encoding == Encoding::bf16 ? 8 : encoding == Encoding::s8 ? 16 : 128);
}
int64_t WeightLayout::row_bytes() const { return stride() * bits_of(encoding) / 8; }
int64_t WeightLayout::row_scale_bytes() const {
  if (encoding == Encoding::bf16) return 0;
  return encoding == Encoding::s8 ? int64_t(sizeof(RowScale)) : stride() / kS4Group * int64_t(sizeof(drivlm::bf16));
}
int64_t WeightLayout::scales_at() const { return round_up(rows * row_bytes(), kAlign); }
int64_t WeightLayout::bytes() const { return scales_at() + round_up(rows * row_scale_bytes(), kAlign); }

Weights WeightLayout::at(void* data) const {
  Weights out{data, stride(), encoding};
  if (encoding != Encoding::bf16) out.scales = static_cast<char*>(data) + scales_at();
  return out;
}

void pack_row(const WeightLayout& layout, void* bytes, void* scales, const float* w, int8_t* q) {
  std::fill(q, q + layout.stride(), int8_t{0});
  if (layout.encoding == Encoding::s8) {
    RowScale row{quantize_s8(q, w, layout.cols), 0};
    row.sum = std::accumulate(q, q + layout.cols, int32_t{0});
    std::memcpy(scales, &row, sizeof(row));
    for (int64_t i = 0; i < layout.stride(); i += 4) std::swap(q[i + 1], q[i + 2]);
    std::memcpy(bytes, q, size_t(layout.stride()));
    return;
  }
  std::memset(scales, 0, size_t(layout.row_scale_bytes()));
  quantize_s4(q, static_cast<drivlm::bf16*>(scales), w, layout.cols);
  for (int64_t i = 0; i < layout.stride(); i += 128) pack_s4_block(static_cast<uint8_t*>(bytes) + i / 2, q + i);
}

}  // namespace drivlm::cuda
