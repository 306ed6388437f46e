// Backward through tower and projector: the mirror of network/vision.
#pragma once

#include "device/arena.h"
#include "device/gradients.h"
#include "network/vision.h"
#include "train/parameter_values.h"
#include "train/tower_cache.h"

namespace drivlm {

class TowerTraining {
 public:
  // Takes scratch for `max_tiles` tiles at a time, and keeps the residual stream of `kept_tiles`; with `keep_blocks`, which wants all of them at a
  // time, all that blocks compute, so that nothing is computed again. Backward goes no further than the first of `parts`.
  TowerTraining(const NetworkDescription& network, const Masters& masters, Ops& ops, Gradients& gradients,
                const TrainedParts& parts, int64_t max_tiles, int64_t kept_tiles, bool keep_blocks, Arena& arena);

  // tiles u8 [tiles, size, size, 3] -> image_tokens f32 [tiles * tile_tokens, llm_dim]. `tiles` is read again by backward, as is `drop_path`:
  // train/drop_path.h, [layers, 2, tiles]; null: no drop path.
  void forward(Tensor image_tokens, Tensor tiles, const float* drop_path = nullptr);

  // Of a tower that nothing of is trained: what it gives for a tile is looked up here before it is computed, and kept here after. The bytes of image
  // tokens are those without.
  void keep_in(TowerCache* cache) { cache_ = cache; }

  // Tiles that went through the tower in all calls of forward.
  int64_t encoded_tiles() const { return encoded_tiles_; }

  // Adds to the parameters' gradients what the last forward's image tokens give. d_image_tokens as image_tokens.
  void backward(ParameterValues& to, Tensor d_image_tokens);

 private:
  void group_backward(ParameterValues& to, Tensor d_image_tokens, int64_t first, int64_t tiles);
  void project_backward(ParameterValues& to, Tensor dx, Tensor d_image_tokens, Tensor x);
  void block_backward(ParameterValues& to, int64_t layer, Tensor dx, int64_t first, int64_t tiles);
  void embed_backward(ParameterValues& to, Tensor dx, Tensor tiles);
  void encode(Tensor image_tokens, Tensor tiles, int64_t first, int64_t count);
  void find_or_encode(Tensor image_tokens, Tensor tiles, int64_t first, int64_t count);
  Tensor kept(int64_t layer, int64_t first, int64_t tiles) const;
  VisionBlockTensors tensors(int64_t layer, int64_t first, int64_t tiles) const;

  const NetworkDescription& network_;
  const Masters& masters_;
  Ops& ops_;
  Gradients& gradients_;
  const bool patches_, keep_blocks_;
  const int64_t first_layer_;  // with a backward; output_layer: none
  VisionEncoder encoder_;
  TowerCache* cache_ = nullptr;
  int64_t encoded_tiles_ = 0;
  int64_t first_tile_ = 0;  // of the group that the encoder works on
  Tensor tiles_;            // of the last forward, and its factors
  const float* drop_path_ = nullptr;
  Tensor residuals_;  // [output_layer + 1 - first_layer, kept tiles, positions, dim]
  std::vector<VisionBlockTensors>
      blocks_;  // of one group of tiles; one for all layers, or one for each with a backward
  // Of one group of tiles: [rows, dim], [rows, 3 * dim] or [rows, ffn], and of the projector [tokens, ...].
  Tensor dx_, dy_, dh_, d_qkv_, d_mid_;
  Tensor shuffled_, normed_, d_wide_, token_before_, token_mid_, d_token_;
  Tensor pixels_, d_positions_;
};

}  // namespace drivlm
