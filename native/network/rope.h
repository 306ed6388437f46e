// Rotary position embedding: angles are computed on the host in f32, as the reference does, and handed to the ops as
// a table. spec/model.md 3.5.
#pragma once

#include <vector>

#include "network/description.h"

namespace drivlm {

class Rope {
 public:
  Rope(const RopeConfig& config, int64_t head_dim);

  // Which frequencies a forward pass uses when its last token makes the sequence `length` long. Keys of equal
  // regimes can stand in one cache; a prompt is rotated under one regime, that of its whole length.
  int64_t regime(int64_t length) const;

  // False when every length has regime 0.
  bool depends_on_length(int64_t max_length) const { return regime(max_length) != 0; }

  // cos_sin [head_dim]: head_dim / 2 cosines, then sines, of `position` under `regime`.
  void fill(float* cos_sin, int64_t position, int64_t regime) const;

 private:
  void frequencies(std::vector<float>& out, int64_t regime) const;

  RopeConfig config_;
  int64_t half_;
  std::vector<float> base_;           // regime 0
  mutable std::vector<float> other_;  // the last other regime asked for
  mutable int64_t other_regime_ = 0;
};

}  // namespace drivlm
