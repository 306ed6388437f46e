#include "network/vision.h"

#include <algorithm>

namespace drivlm {

VisionEncoder::VisionEncoder(const NetworkDescription& network, const VisionWeights& vision,
                             const ProjectorWeights& projector, Ops& ops, DType activation, int64_t max_tiles,
                             Arena& arena)
    : network_(network),
      config_(network.vision),
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

void vision_block(Ops& ops, const VisionConfig& c, const VisionBlock& w, const VisionBlockTensors& t) {
  const bool keeps = static_cast<bool>(t.kept.before);

  // x = x + ls1 * attn(norm1(x))
  ops.norm_linear(t.qkv, t.h1, t.x, w.norm1, *w.qkv, w.qkv_bias, Epilogue::store);
  if (c.qk_norm) {
    if (keeps) ops.copy_rows(t.kept.qkv, t.qkv);
    ops.norm_columns(t.qkv, 0, c.dim, w.q_norm, c.norm_eps);
    ops.norm_columns(t.qkv, c.dim, c.dim, w.k_norm, c.norm_eps);
  }
  ops.attention(t.attended, t.qkv, c.heads, c.head_dim, c.positions());
  if (!keeps) {
    ops.linear_add(t.x, t.attended, *w.proj, w.proj_bias, w.ls1, t.y1);
  } else {
    ops.linear(t.y1, t.attended, *w.proj, w.proj_bias, Epilogue::store);
    if (t.attention_factors) ops.scale_groups(t.y1, t.attention_factors, c.positions());
    ops.copy_rows(t.kept.x, t.x);
    ops.scale_add(t.kept.x, t.y1, w.ls1);
  }

  // x = x + ls2 * mlp(norm2(x))
  if (!keeps) {
    ops.norm_linear(t.mid, t.h2, t.x, w.norm2, *w.fc1, w.fc1_bias, Epilogue::gelu);
    ops.linear_add(t.x, t.mid, *w.fc2, w.fc2_bias, w.ls2, t.y2);
  } else {
    ops.norm(t.h2, t.kept.x, w.norm2);
    ops.linear_gelu(t.mid, t.kept.before, t.h2, *w.fc1, w.fc1_bias);
    ops.linear(t.y2, t.mid, *w.fc2, w.fc2_bias, Epilogue::store);
    if (t.mlp_factors) ops.scale_groups(t.y2, t.mlp_factors, c.positions());
  }
}

void VisionEncoder::block(int64_t layer, int64_t tiles, Probe* probe) {
  const int64_t rows = tiles * config_.positions(), dim = config_.dim;
  const Tensor x = part(x_, rows, dim), h = part(h_, rows, dim), y = part(y_, rows, dim);
  const Tensor qkv = part(wide_, rows, 3 * dim), mid = part(wide_, rows, config_.ffn_dim);
  vision_block(ops_, config_, vision_.blocks[layer], {x, h, qkv, h, y, h, mid, y, {}});
  if (probe) probe->take("vit.layer" + std::to_string(layer), stream(tiles));
}

void project(Ops& ops, const NetworkDescription& n, const ProjectorWeights& w, Tensor image_tokens, Tensor x,
             const ProjectorTensors& t) {
  const int64_t grid = n.vision.grid();
  const int version = n.projector.shuffle_version;
  if (!t.before) {
    ops.pixel_shuffle_norm(t.normed, x, grid, version, w.norm);
    ops.linear(t.mid, t.normed, *w.fc1, w.fc1_bias, Epilogue::gelu);
  } else {
    ops.pixel_shuffle(t.shuffled, x, grid, version);
    ops.norm(t.normed, t.shuffled, w.norm);
    ops.linear_gelu(t.mid, t.before, t.normed, *w.fc1, w.fc1_bias);
  }
  if (image_tokens) ops.linear(image_tokens, t.mid, *w.fc2, w.fc2_bias, Epilogue::store);
}

void VisionEncoder::project(Tensor image_tokens, int64_t tiles, Probe* probe) {
  const int64_t tokens = tiles * config_.tile_tokens();
  const Tensor shuffled = part(shuffled_, tokens, 4 * config_.dim), x = stream(tiles);
  if (probe && probe->wants("vit.pixel_shuffle")) {
    ops_.pixel_shuffle(shuffled, x, config_.grid(), network_.projector.shuffle_version);
    probe->take("vit.pixel_shuffle", shuffled);
  }
  drivlm::project(ops_, network_, projector_, image_tokens, x, {{}, shuffled, {}, part(mid_, tokens, mid_.shape[1])});
  if (probe) probe->take("projector", image_tokens);
}

}  // namespace drivlm
