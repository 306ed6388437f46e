// InternViT, pixel shuffle and projector: tiles to image tokens. spec/model.md 3.1 to 3.3.
#pragma once

#include <functional>

#include "device/arena.h"
#include "device/ops.h"
#include "network/description.h"
#include "network/probe.h"
#include "network/weights.h"

namespace drivlm {

// What a block works in, [rows, ...] with rows = tiles * positions. Inference lets tensors share scratch memory; a backward pass needs each on its
// own, and those of `kept` too, which are empty otherwise.
struct VisionBlockTensors {
  Tensor x;                  // residual stream, in place
  Tensor h1, qkv, attended;  // norm1(x), [rows, 3 * dim], [rows, dim]
  Tensor y1;                 // the attention's branch, before its scale
  Tensor h2, mid, y2;        // norm2(x), [rows, ffn], the branch of the MLP
  struct {
    Tensor qkv;     // before q/k norm; only with one
    Tensor x;       // between the branches
    Tensor before;  // [rows, ffn], what gelu was given
  } kept;

  // For training: what each tile's branch is multiplied with, [tiles] of attention and of the MLP; null: nothing.
  const float* attention_factors = nullptr;
  const float* mlp_factors = nullptr;
};

// One InternViT block. With `kept`, it stops at x between the attention and the MLP: a backward pass does not read what comes after.
void vision_block(Ops& ops, const VisionConfig& config, const VisionBlock& w, const VisionBlockTensors& t);

// As VisionBlockTensors, rows = tiles * tile_tokens.
struct ProjectorTensors {
  Tensor shuffled, normed;  // [rows, 4 * dim], before and after the norm; the first only for a backward pass
  Tensor before, mid;       // [rows, llm_dim], before and after gelu; the first only for a backward pass
};

// image_tokens = fc2(gelu(fc1(norm(pixel_shuffle(x))))), x [tiles, positions, dim].
void project(Ops& ops, const NetworkDescription& network, const ProjectorWeights& w, Tensor image_tokens, Tensor x,
             const ProjectorTensors& t);

class VisionEncoder {
 public:
  // Takes scratch for `max_tiles` tiles at a time.
  VisionEncoder(const NetworkDescription& network, const VisionWeights& vision, const ProjectorWeights& projector,
                Ops& ops, DType activation, int64_t max_tiles, Arena& arena);

  int64_t max_tiles() const { return max_tiles_; }

  // For training: called with x [tiles, positions, dim] at the entry of every block that runs and after the last (layer = output_layer). True:
  // the callback has run the block, and x holds its result.
  using OnBlock = std::function<bool(int64_t layer, Tensor x)>;
  void observe(OnBlock on_block) { on_block_ = std::move(on_block); }

  // tiles u8 [tiles, size, size, 3] on the device -> image_tokens [tiles * tile_tokens, llm_dim]; empty: what is observed is all that is wanted.
  // `keep_going` is called between layers and may throw.
  template <class KeepGoing>
  void encode(Tensor image_tokens, Tensor tiles, Probe* probe, const KeepGoing& keep_going) {
    embed(tiles, probe);
    for (int64_t i = 0; i < config_.output_layer; ++i) {
      keep_going();
      if (on_block_ && on_block_(i, stream(tiles.shape[0]))) continue;
      block(i, tiles.shape[0], probe);
    }
    keep_going();
    if (on_block_) on_block_(config_.output_layer, stream(tiles.shape[0]));
    if (image_tokens) project(image_tokens, tiles.shape[0], probe);
  }

 private:
  Tensor stream(int64_t tiles) const { return Tensor(x_.data, x_.dtype, {tiles, config_.positions(), config_.dim}); }
  void embed(Tensor tiles, Probe* probe);
  void block(int64_t layer, int64_t tiles, Probe* probe);
  void project(Tensor image_tokens, int64_t tiles, Probe* probe);

  const NetworkDescription& network_;
  const VisionConfig& config_;
  const VisionWeights& vision_;
  const ProjectorWeights& projector_;
  Ops& ops_;
  int64_t max_tiles_;
  OnBlock on_block_;
  Tensor x_, h_, y_, wide_;  // [rows, dim] three times, [rows, max(3 * dim, ffn, patch values)]
  Tensor shuffled_, mid_;    // [image tokens, 4 * dim], [image tokens, llm_dim]
};

}  // namespace drivlm
