#include "train/drop_path.h"

namespace drivlm {

namespace {

// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring counters give unrelated values.
uint64_t mixed(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

std::vector<float> drop_path_factors(const VisionConfig& config, const DropPath& drop_path, int64_t first_layer,
                                     int64_t step, int64_t pack, int64_t tiles) {
  std::vector<float> factors(2 * config.output_layer * tiles, 1.0f);
  float* to = factors.data();
  for (int64_t layer = 0; layer < config.output_layer; ++layer) {
    const double rate =
        config.layers > 1 ? drop_path.rate * static_cast<double>(layer) / static_cast<double>(config.layers - 1) : 0;
    for (int64_t branch = 0; branch < 2; ++branch) {
      for (int64_t tile = 0; tile < tiles; ++tile, ++to) {
        if (layer < first_layer || rate <= 0) continue;
        uint64_t key = mixed(drop_path.seed);
        for (int64_t part : {step, pack, tile, layer, branch}) key = mixed(key ^ static_cast<uint64_t>(part));
        const double uniform = static_cast<double>(key >> 11) * 0x1p-53;
        *to = uniform < rate ? 0.0f : static_cast<float>(1 / (1 - rate));
      }
    }
  }
  return factors;
}

}  // namespace drivlm
