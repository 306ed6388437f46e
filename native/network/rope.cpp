#include "network/rope.h"

#include <algorithm>
#include <cmath>

namespace drivlm {

Rope::Rope(const RopeConfig& config, int64_t head_dim, int64_t context, int64_t max_rows, Device& device, Arena& arena)
    : config_(config),
      half_(head_dim / 2),
      context_(context),
      device_(device),
      positions_(depends_on_length() ? config.original_max : context) {
  table_ = arena.take(DType::f32, {positions_ + (depends_on_length() ? max_rows : 0), head_dim});
  if (arena.measures()) return;
  constexpr int64_t kPiece = 256;
  std::vector<float> inverse, rows;
  frequencies(inverse, 0);
  for (int64_t first = 0; first < positions_; first += kPiece) {
    const int64_t count = std::min(kPiece, positions_ - first);
    rows.clear();
    for (int64_t i = 0; i < count; ++i) append(rows, first + i, inverse);
    device_.upload(table_.rows(first, count), rows.data());
  }
}

int64_t Rope::regime(int64_t length) const {
  const bool past = length > config_.original_max;
  if (config_.kind == RopeConfig::Kind::longrope) return past ? 1 : 0;
  if (config_.kind == RopeConfig::Kind::dynamic) return past ? length : 0;
  return 0;
}

void Rope::frequencies(std::vector<float>& out, int64_t regime) const {
  double theta = config_.theta;
  if (config_.kind == RopeConfig::Kind::dynamic && regime > 0) {
    const double d = 2.0 * half_;
    theta *= std::pow(config_.factor * regime / config_.original_max - (config_.factor - 1), d / (d - 2));
  }
  out.resize(half_);
  for (int64_t i = 0; i < half_; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(2 * half_);
    float power = std::pow(static_cast<float>(theta), exponent);
    if (config_.kind == RopeConfig::Kind::longrope) {
      power *= static_cast<float>(regime ? config_.long_factors[i] : config_.short_factors[i]);
    }
    if (config_.kind == RopeConfig::Kind::linear) power *= static_cast<float>(config_.factor);
    out[i] = 1.0f / power;
  }
}

void Rope::append(std::vector<float>& rows, int64_t position, const std::vector<float>& inverse) const {
  const float scale = static_cast<float>(config_.attention_scale);
  rows.resize(rows.size() + 2 * half_);
  float* row = rows.data() + rows.size() - 2 * half_;
  for (int64_t i = 0; i < half_; ++i) {
    const float angle = static_cast<float>(position) * inverse[i];
    row[i] = std::cos(angle) * scale;
    row[half_ + i] = std::sin(angle) * scale;
  }
}

int64_t Rope::first_row(int64_t past, int64_t rows, int64_t regime) {
  const auto regime_of = [&](int64_t row) { return regime == kRopePerRow ? this->regime(past + row + 1) : regime; };
  if (rows == 0 || regime_of(rows - 1) == 0) {  // regimes grow with the length
    if (past + rows > positions_) throw Error(Code::internal, "rope: a longer sequence than planned");
    return past;
  }
  const int64_t width = 2 * half_, first = positions_ + static_cast<int64_t>(pass_.size()) / width;
  if (first + rows > table_.shape[0]) throw Error(Code::internal, "rope: more rows than planned");
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t own = regime_of(row);
    if (own != other_regime_ || other_.empty()) {
      frequencies(other_, own);
      other_regime_ = own;
    }
    append(pass_, past + row, other_);
  }
  return first;
}

void Rope::end_pass() {
  if (pass_.empty()) return;
  device_.upload(table_.rows(positions_, static_cast<int64_t>(pass_.size()) / (2 * half_)), pass_.data());
}

}  // namespace drivlm
