// Backward through tower and projector: the mirror of network/vision.
#pragma once

#include "device/arena.h"
#include "device/gradients.h"
#include "network/vision.h"
#include "train/parameter_values.h"

namespace drivlm {

class TowerTraining {
 public:
  // Takes scratch for `max_tiles` tiles at a time, and keeps the residual stream of `kept_tiles`. Backward goes no further than the first of `parts`.
  TowerTraining(const NetworkDescription& network, const Masters& masters, Ops& ops, Gradients& gradients,
                const TrainedParts& parts, int64_t max_tiles, int64_t kept_tiles, Arena& arena);

  // tiles u8 [tiles, size, size, 3] -> image_tokens f32 [tiles * tile_tokens, llm_dim]. `tiles` is read again by backward.
  void forward(Tensor image_tokens, Tensor tiles);

  // Adds to the parameters' gradients what the last forward's image tokens give. d_image_tokens as image_tokens.
  void backward(ParameterValues& to, Tensor d_image_tokens);

 private:
  void group_backward(ParameterValues& to, Tensor d_image_tokens, int64_t first, int64_t tiles);
  void project_backward(ParameterValues& to, Tensor dx, Tensor d_image_tokens, Tensor x);
  void block_backward(ParameterValues& to, int64_t layer, Tensor dx, Tensor x, int64_t tiles);
  void embed_backward(ParameterValues& to, Tensor dx, Tensor tiles);
  Tensor kept(int64_t layer, int64_t first, int64_t tiles) const;

  const NetworkDescription& network_;
  const Masters& masters_;
  Ops& ops_;
  Gradients& gradients_;
  const bool patches_;
  const int64_t first_layer_;  // with a backward; output_layer: none
  VisionEncoder encoder_;
  int64_t first_tile_ = 0;  // of the group that the encoder works on
  Tensor tiles_;            // of the last forward
  Tensor residuals_;        // [output_layer + 1 - first_layer, kept tiles, positions, dim]
  // Of one group of tiles: [rows, dim], [rows, 3 * dim] or [rows, ffn], and of the projector [tokens, ...].
  Tensor x_, dx_, h1_, h2_, attended_, y1_, y2_, middle_, dy_, dh_, qkv_, qkv_before_, d_qkv_, mid_, before_, d_mid_;
  Tensor shuffled_, normed_, d_wide_, token_before_, token_mid_, d_token_;
  Tensor pixels_, d_positions_;
};

}  // namespace drivlm
