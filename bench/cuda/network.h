// A network with random weights, made without any file of a checkpoint: InternVL2-1B's shapes, or a small one of the same kind.
#pragma once

#include "network/description.h"

namespace drivlm::gpu {

NetworkDescription network(bool small);

// Weights of `network` for Engine::load, seeded. All tensors lie in one file in memory, overlapping but each at an offset of its
// own, so that a device loads every one: what is timed does not depend on values.
class RandomWeights {
 public:
  explicit RandomWeights(const NetworkDescription& network);
  ~RandomWeights();
  RandomWeights(const RandomWeights&) = delete;

  const ModelSource& source() const { return source_; }
  int64_t bytes() const { return bytes_; }  // of all tensors

 private:
  ModelSource source_;
  int file_ = -1;
  int64_t bytes_ = 0;
};

}  // namespace drivlm::gpu
