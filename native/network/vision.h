// InternViT, pixel shuffle and projector: tiles to image tokens. spec/model.md 3.1 to 3.3.
#pragma once

#include "device/arena.h"
#include "device/ops.h"
#include "network/description.h"
#include "network/probe.h"
#include "network/weights.h"

namespace drivlm {

class VisionEncoder {
 public:
  // Takes scratch for `max_tiles` tiles at a time.
  VisionEncoder(const NetworkDescription& network, const VisionWeights& vision, const ProjectorWeights& projector,
                Ops& ops, DType activation, int64_t max_tiles, Arena& arena);

  int64_t max_tiles() const { return max_tiles_; }

  // tiles u8 [tiles, size, size, 3] on the device -> image_tokens [tiles * tile_tokens, llm_dim]. `keep_going` is called
  // between layers and may throw.
  template <class KeepGoing>
  void encode(Tensor image_tokens, Tensor tiles, Probe* probe, const KeepGoing& keep_going) {
    embed(tiles, probe);
    for (int64_t i = 0; i < config_.output_layer; ++i) {
      keep_going();
      block(i, tiles.shape[0], probe);
    }
    keep_going();
    project(image_tokens, tiles.shape[0], probe);
  }

 private:
  void embed(Tensor tiles, Probe* probe);
  void block(int64_t layer, int64_t tiles, Probe* probe);
  void project(Tensor image_tokens, int64_t tiles, Probe* probe);

  const VisionConfig& config_;
  const ProjectorConfig& projector_config_;
  const VisionWeights& vision_;
  const ProjectorWeights& projector_;
  Ops& ops_;
  int64_t max_tiles_;
  Tensor x_, h_, y_, wide_;  // [rows, dim] three times, [rows, max(3 * dim, ffn, patch values)]
  Tensor shuffled_, mid_;    // [image tokens, 4 * dim], [image tokens, llm_dim]
};

}  // namespace drivlm
