#include "network/vision.h"

#include <algorithm>

namespace drivlm {

VisionEncoder::VisionEncoder(const NetworkDescription& network, const VisionWeights& vision,
                             const ProjectorWeights& projector, Ops& ops, DType activation, int64_t max_tiles,
                             Arena& arena)
    : config_(network.vision),
      projector_config_(network.projector),
      vision_(vision),
      projector_(projector),
      ops_(ops),
      max_tiles_(max_tiles) {
  const int64_t rows = max_tiles * config_.positions(), dim = config_.dim;
  const int64_t tokens = max_tiles * config_.tile_tokens();
  x_ = arena.take(activation, {rows, dim});
  h_ = arena.take(activation, {rows, dim});
  y_ = arena.take(activation, {rows, dim});
  wide_ = arena.take(activation, {rows, std::max({3 * dim, config_.ffn_dim, config_.patch_values()})});
  shuffled_ = arena.take(activation, {tokens, 4 * dim});
  mid_ = arena.take(activation, {tokens, network.language.dim});
}

namespace {
// The first rows of a scratch tensor under a narrower shape.
Tensor part(const Tensor& scratch, int64_t rows, int64_t cols) {
  return Tensor(scratch.data, scratch.dtype, {rows, cols});
}
}  // namespace

// x = [class; conv14(tiles)] + positions
void VisionEncoder::embed(Tensor tiles, Probe* probe) {
  const int64_t count = tiles.shape[0], patches = count * config_.patches(), dim = config_.dim;
  Tensor pixels = part(wide_, patches, config_.patch_values());
  Tensor embedded = part(y_, patches, dim);
  Tensor x(x_.data, x_.dtype, {count, config_.positions(), dim});
  ops_.patchify(pixels, tiles, config_.patch_size, config_.mean, config_.std);
  if (probe) probe->take("vit.patches", pixels);
  ops_.linear(embedded, pixels, *vision_.patch, vision_.patch_bias, Epilogue::store);
  ops_.assemble_tiles(x, embedded, vision_.class_embedding, vision_.positions);
  if (probe) probe->take("vit.embeddings", x);
}

// One InternViT block over the residual stream x [rows, dim], rows = tiles * positions.
void VisionEncoder::block(int64_t layer, int64_t tiles, Probe* probe) {
  const VisionBlock& w = vision_.blocks[layer];
  const int64_t rows = tiles * config_.positions(), dim = config_.dim;
  Tensor x = part(x_, rows, dim), h = part(h_, rows, dim), y = part(y_, rows, dim);
  Tensor qkv = part(wide_, rows, 3 * dim), mid = part(wide_, rows, config_.ffn_dim);

  // x = x + ls1 * attn(norm1(x))
  ops_.norm(h, x, w.norm1);
  ops_.linear(qkv, h, *w.qkv, w.qkv_bias, Epilogue::store);
  if (config_.qk_norm) {
    ops_.norm_columns(qkv, 0, dim, w.q_norm, config_.norm_eps);
    ops_.norm_columns(qkv, dim, dim, w.k_norm, config_.norm_eps);
  }
  ops_.attention(h, qkv, config_.heads, config_.head_dim, config_.positions());
  ops_.linear_add(x, h, *w.proj, w.proj_bias, w.ls1, y);

  // x = x + ls2 * mlp(norm2(x))
  ops_.norm(h, x, w.norm2);
  ops_.linear(mid, h, *w.fc1, w.fc1_bias, Epilogue::gelu);
  ops_.linear_add(x, mid, *w.fc2, w.fc2_bias, w.ls2, y);
  if (probe) probe->take("vit.layer" + std::to_string(layer), x.reshaped({tiles, config_.positions(), dim}));
}

// image_tokens = fc2(gelu(fc1(norm(pixel_shuffle(x)))))
void VisionEncoder::project(Tensor image_tokens, int64_t tiles, Probe* probe) {
  const int64_t tokens = tiles * config_.tile_tokens(), dim = config_.dim;
  Tensor shuffled = part(shuffled_, tokens, 4 * dim), mid = part(mid_, tokens, mid_.shape[1]);
  const Tensor x(x_.data, x_.dtype, {tiles, config_.positions(), dim});
  if (probe && probe->wants("vit.pixel_shuffle")) {
    ops_.pixel_shuffle(shuffled, x, config_.grid(), projector_config_.shuffle_version);
    probe->take("vit.pixel_shuffle", shuffled);
  }
  ops_.pixel_shuffle_norm(shuffled, x, config_.grid(), projector_config_.shuffle_version, projector_.norm);
  ops_.linear(mid, shuffled, *projector_.fc1, projector_.fc1_bias, Epilogue::gelu);
  ops_.linear(image_tokens, mid, *projector_.fc2, projector_.fc2_bias, Epilogue::store);
  if (probe) probe->take("projector", image_tokens);
}

}  // namespace drivlm
