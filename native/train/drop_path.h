// Drop path of the vision tower (stochastic depth): branches of blocks are left out by coins (spec/adaptation.md 9).
#pragma once

#include <cstdint>
#include <vector>

#include "network/description.h"

namespace drivlm {

struct DropPath {
  double rate = 0;  // in [0, 1), of the last layer; that of layer i of n is rate * i / (n - 1)
  uint64_t seed = 0;
};

// What each branch is multiplied with, f32 [output_layer, 2, tiles]: attention, then MLP; 0 or 1 / (1 - the layer's rate), 1 below `first_layer`.
// The coins are a function of seed, step, pack, tile, layer and branch alone, so that every device and a run that goes on see the same.
std::vector<float> drop_path_factors(const VisionConfig& config, const DropPath& drop_path, int64_t first_layer,
                                     int64_t step, int64_t pack, int64_t tiles);

}  // namespace drivlm
