#include "network/rope.h"

#include <cmath>

namespace drivlm {

Rope::Rope(const RopeConfig& config, int64_t head_dim) : config_(config), half_(head_dim / 2) { frequencies(base_, 0); }

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

void Rope::fill(float* cos_sin, int64_t position, int64_t regime) const {
  if (regime != 0 && regime != other_regime_) {
    frequencies(other_, regime);
    other_regime_ = regime;
  }
  const std::vector<float>& inverse = regime == 0 ? base_ : other_;
  const float scale = static_cast<float>(config_.attention_scale);
  for (int64_t i = 0; i < half_; ++i) {
    const float angle = static_cast<float>(position) * inverse[i];
    cos_sin[i] = std::cos(angle) * scale;
    cos_sin[half_ + i] = std::sin(angle) * scale;
  }
}

}  // namespace drivlm
