#include "train/tower.h"

#include <algorithm>
#include <cstring>

namespace drivlm {

namespace {

Tensor part(const Tensor& scratch, int64_t rows, int64_t cols) {
  return Tensor(scratch.data, scratch.dtype, {rows, cols});
}

}  // namespace

TowerTraining::TowerTraining(const NetworkDescription& network, const Masters& masters, Ops& ops, Gradients& gradients,
                             const TrainedParts& parts, int64_t max_tiles, int64_t kept_tiles, bool keep_blocks,
                             Arena& arena)
    : network_(network),
      masters_(masters),
      ops_(ops),
      gradients_(gradients),
      patches_(parts.patches),
      keep_blocks_(keep_blocks),
      first_layer_(parts.patches ? 0 : std::min(parts.first_tower_layer, network.vision.output_layer)),
      encoder_(network, masters.weights().vision, masters.weights().projector, ops, DType::f32, max_tiles, arena) {
  const VisionConfig& c = network.vision;
  const int64_t rows = max_tiles * c.positions(), tokens = max_tiles * c.tile_tokens(), dim = c.dim,
                llm = network.language.dim;
  const auto take = [&](int64_t count, int64_t cols) { return arena.take(DType::f32, {count, cols}); };
  residuals_ = arena.take(DType::f32, {c.output_layer + 1 - first_layer_, kept_tiles * c.positions(), dim});
  const int64_t with_backward = c.output_layer - first_layer_;
  blocks_.resize(keep_blocks ? with_backward : std::min<int64_t>(with_backward, 1));
  for (VisionBlockTensors& t : blocks_) {
    for (Tensor* one : {&t.h1, &t.attended, &t.y1, &t.h2, &t.y2, &t.kept.x}) *one = take(rows, dim);
    for (Tensor* one : {&t.mid, &t.kept.before}) *one = take(rows, c.ffn_dim);
    t.qkv = take(rows, 3 * dim);
    if (c.qk_norm) t.kept.qkv = take(rows, 3 * dim);
  }
  for (Tensor* t : {&dx_, &dy_, &dh_}) *t = take(rows, dim);
  d_qkv_ = take(rows, 3 * dim);
  d_mid_ = take(rows, c.ffn_dim);
  for (Tensor* t : {&shuffled_, &normed_, &d_wide_}) *t = take(tokens, 4 * dim);
  for (Tensor* t : {&token_before_, &token_mid_, &d_token_}) *t = take(tokens, llm);
  pixels_ = take(max_tiles * c.patches(), c.patch_values());
  d_positions_ = take(c.positions(), dim);
  // Layers without a backward run as they do at inference.
  encoder_.observe([this](int64_t layer, Tensor x) {
    if (layer < first_layer_) return false;
    const int64_t tiles = x.shape[0];
    std::memcpy(kept(layer, first_tile_, tiles).data, x.data, x.bytes());
    if (layer == network_.vision.output_layer) return true;
    const VisionBlock& w = masters_.weights().vision.blocks[layer];
    const VisionBlockTensors t = tensors(layer, first_tile_, tiles);
    vision_block(ops_, network_.vision, w, t);
    const Tensor end = part(x, t.y2.shape[0], network_.vision.dim);
    ops_.copy_rows(end, t.kept.x);
    ops_.scale_add(end, t.y2, w.ls2);
    return true;
  });
}

// x [tiles, positions, dim] at the entry of `layer`.
Tensor TowerTraining::kept(int64_t layer, int64_t first, int64_t tiles) const {
  const VisionConfig& c = network_.vision;
  const Tensor rows = residuals_.rows(layer - first_layer_, 1);
  return Tensor(rows.as<float>() + first * c.positions() * c.dim, DType::f32, {tiles, c.positions(), c.dim});
}

// What block `layer` works in, with x where it is kept.
VisionBlockTensors TowerTraining::tensors(int64_t layer, int64_t first, int64_t tiles) const {
  const VisionConfig& c = network_.vision;
  const VisionBlockTensors& all = blocks_[keep_blocks_ ? layer - first_layer_ : 0];
  const auto rows = [&](const Tensor& t) { return t ? part(t, tiles * c.positions(), t.shape[1]) : Tensor(); };
  VisionBlockTensors t{part(kept(layer, first, tiles), tiles * c.positions(), c.dim),
                       rows(all.h1),
                       rows(all.qkv),
                       rows(all.attended),
                       rows(all.y1),
                       rows(all.h2),
                       rows(all.mid),
                       rows(all.y2),
                       {rows(all.kept.qkv), rows(all.kept.x), rows(all.kept.before)}};
  if (drop_path_) {
    t.attention_factors = drop_path_ + 2 * layer * tiles_.shape[0] + first;
    t.mlp_factors = t.attention_factors + tiles_.shape[0];
  }
  return t;
}

void TowerTraining::forward(Tensor image_tokens, Tensor tiles, const float* drop_path) {
  const int64_t each = network_.vision.tile_tokens();
  if (tiles.shape[0] * network_.vision.positions() > residuals_.shape[1])
    throw Error(Code::internal, "train: more tiles than planned");
  tiles_ = tiles;
  drop_path_ = drop_path;
  for (int64_t first = 0; first < tiles.shape[0]; first += encoder_.max_tiles()) {
    const int64_t count = std::min(encoder_.max_tiles(), tiles.shape[0] - first);
    const Tensor tokens = image_tokens.rows(first * each, count * each);
    if (cache_)
      find_or_encode(tokens, tiles, first, count);
    else
      encode(tokens, tiles, first, count);
  }
}

void TowerTraining::encode(Tensor image_tokens, Tensor tiles, int64_t first, int64_t count) {
  first_tile_ = first;
  encoded_tiles_ += count;
  encoder_.encode(image_tokens, tiles.rows(first, count), nullptr, [] {});
}

// A tile's bytes do not depend on those beside it, so any of a group may be left out.
void TowerTraining::find_or_encode(Tensor image_tokens, Tensor tiles, int64_t first, int64_t count) {
  const auto hash = [&](int64_t tile) { return hash_bytes(tiles.rows(tile, 1).data, tiles.rows(tile, 1).bytes()); };
  const auto values = [&](int64_t tile) { return kept(network_.vision.output_layer, tile, 1); };
  const int64_t end = first + count;
  for (int64_t tile = first; tile < end;) {
    if (cache_->find(hash(tile), values(tile))) {
      ++tile;
      continue;
    }
    int64_t last = tile + 1;
    while (last < end && !cache_->has(hash(last))) ++last;
    encode({}, tiles, tile, last - tile);
    for (; tile < last; ++tile) cache_->add(hash(tile), values(tile));
  }
  const Tensor normed = part(normed_, image_tokens.shape[0], normed_.shape[1]),
               mid = part(token_mid_, image_tokens.shape[0], token_mid_.shape[1]);
  project(ops_, network_, masters_.weights().projector, image_tokens, kept(network_.vision.output_layer, first, count),
          {{}, normed, {}, mid});
}

void TowerTraining::backward(ParameterValues& to, Tensor d_image_tokens) {
  const int64_t each = network_.vision.tile_tokens();
  for (int64_t first = 0; first < tiles_.shape[0]; first += encoder_.max_tiles()) {
    const int64_t count = std::min(encoder_.max_tiles(), tiles_.shape[0] - first);
    group_backward(to, d_image_tokens.rows(first * each, count * each), first, count);
  }
}

void TowerTraining::group_backward(ParameterValues& to, Tensor d_image_tokens, int64_t first, int64_t tiles) {
  const VisionConfig& c = network_.vision;
  const Tensor dx(dx_.data, DType::f32, {tiles, c.positions(), c.dim});
  project_backward(to, dx, d_image_tokens, kept(c.output_layer, first, tiles));
  for (int64_t layer = c.output_layer; layer-- > first_layer_;)
    block_backward(to, layer, part(dx_, tiles * c.positions(), c.dim), first, tiles);
  if (patches_) embed_backward(to, dx, tiles_.rows(first, tiles));
}

// image_tokens = fc2(gelu(fc1(norm(pixel_shuffle(x)))))
void TowerTraining::project_backward(ParameterValues& to, Tensor dx, Tensor d_image_tokens, Tensor x) {
  const ProjectorWeights& w = masters_.weights().projector;
  const int64_t tokens = d_image_tokens.shape[0], wide = 4 * network_.vision.dim, llm = network_.language.dim;
  const ProjectorTensors t{part(shuffled_, tokens, wide), part(normed_, tokens, wide), part(token_before_, tokens, llm),
                           part(token_mid_, tokens, llm)};
  const Tensor d_mid = part(d_token_, tokens, llm), d_normed = part(d_wide_, tokens, wide);
  project(ops_, network_, w, {}, x, t);

  // d mid = d image_tokens * fc2
  gradients_.linear_weight(to.find("projector.fc2.weight"), to.find("projector.fc2.bias"), d_image_tokens, t.mid);
  gradients_.linear_input(d_mid, d_image_tokens, masters_.find("projector.fc2.weight"));
  // d normed = gelu'(before) d mid * fc1
  gradients_.gelu(d_mid, d_mid, t.before);
  gradients_.linear_weight(to.find("projector.fc1.weight"), to.find("projector.fc1.bias"), d_mid, t.normed);
  gradients_.linear_input(d_normed, d_mid, masters_.find("projector.fc1.weight"));
  // d shuffled = norm'(shuffled) d normed. The normed values are not needed any more.
  std::memset(t.normed.data, 0, t.normed.bytes());
  gradients_.norm(t.normed, to.find("projector.norm.weight"), to.find("projector.norm.bias"), d_normed, t.shuffled,
                  w.norm);
  gradients_.pixel_shuffle(dx, t.normed, network_.vision.grid(), network_.projector.shuffle_version);
}

// The block in reverse: dx is the gradient at its end, and becomes the one at its entry.
void TowerTraining::block_backward(ParameterValues& to, int64_t layer, Tensor dx, int64_t first, int64_t tiles) {
  const VisionConfig& c = network_.vision;
  const VisionBlock& w = masters_.weights().vision.blocks[layer];
  const int64_t rows = tiles * c.positions(), dim = c.dim, ffn = c.ffn_dim;
  const std::string at = "vision.layers." + std::to_string(layer) + ".";
  const auto d = [&](const char* name) { return to.find(at + name); };
  const VisionBlockTensors t = tensors(layer, first, tiles);
  if (!keep_blocks_) vision_block(ops_, c, w, t);
  const Tensor dy = part(dy_, rows, dim), dh = part(dh_, rows, dim), d_mid = part(d_mid_, rows, ffn),
               d_qkv = part(d_qkv_, rows, 3 * dim);

  // x = x + ls2 * factor * fc2(mid): dy = ls2 * factor * dx, d mid = dy * fc2
  gradients_.scale_add(dy, d("ls2"), dx, t.y2, w.ls2);
  if (t.mlp_factors) ops_.scale_groups(dy, t.mlp_factors, c.positions());
  gradients_.linear_weight(d("fc2.weight"), d("fc2.bias"), dy, t.mid);
  gradients_.linear_input(d_mid, dy, masters_.find(at + "fc2.weight"));
  // mid = gelu(fc1(h2)): dh2 = gelu'(before) d mid * fc1
  gradients_.gelu(d_mid, d_mid, t.kept.before);
  gradients_.linear_weight(d("fc1.weight"), d("fc1.bias"), d_mid, t.h2);
  gradients_.linear_input(dh, d_mid, masters_.find(at + "fc1.weight"));
  // h2 = norm2(x): dx += norm2'(x) dh2
  gradients_.norm(dx, d("norm2.weight"), d("norm2.bias"), dh, t.kept.x, w.norm2);

  // x = x + ls1 * factor * proj(attended): dy = ls1 * factor * dx, d attended = dy * proj
  gradients_.scale_add(dy, d("ls1"), dx, t.y1, w.ls1);
  if (t.attention_factors) ops_.scale_groups(dy, t.attention_factors, c.positions());
  gradients_.linear_weight(d("proj.weight"), d("proj.bias"), dy, t.attended);
  gradients_.linear_input(dh, dy, masters_.find(at + "proj.weight"));
  // attended = attention(qkv), inside each tile
  std::vector<AttentionSpan> spans;
  for (int64_t tile = 0; tile < tiles; ++tile) spans.push_back({tile * c.positions(), c.positions()});
  gradients_.attention(d_qkv, dh, t.qkv, c.heads, c.heads, c.head_dim, spans, /*causal=*/false);
  if (c.qk_norm) {
    gradients_.norm_columns(d_qkv, d("q_norm.weight"), t.kept.qkv, 0, dim, w.q_norm, c.norm_eps);
    gradients_.norm_columns(d_qkv, d("k_norm.weight"), t.kept.qkv, dim, dim, w.k_norm, c.norm_eps);
  }
  // qkv = qkv(norm1(x)): dx += norm1'(x) (d qkv * qkv)
  gradients_.linear_weight(d("qkv.weight"), d("qkv.bias"), d_qkv, t.h1);
  gradients_.linear_input(dh, d_qkv, masters_.find(at + "qkv.weight"));
  gradients_.norm(dx, d("norm1.weight"), d("norm1.bias"), dh, t.x, w.norm1);
}

// x = [class; patches(tiles)] + positions
void TowerTraining::embed_backward(ParameterValues& to, Tensor dx, Tensor tiles) {
  const VisionConfig& c = network_.vision;
  const int64_t patches = tiles.shape[0] * c.patches();
  const Tensor pixels = part(pixels_, patches, c.patch_values()), d_patches = part(dy_, patches, c.dim);
  ops_.patchify(pixels, tiles, c.patch_size, c.mean, c.std);
  std::memset(d_positions_.data, 0, d_positions_.bytes());
  gradients_.assemble_tiles(d_patches, to.find("vision.class_embedding"), d_positions_, dx);
  gradients_.resize_positions(to.find(kPositionTable), c.position_grid, d_positions_, c.grid());
  gradients_.linear_weight(to.find("vision.patch.weight"), to.find("vision.patch.bias"), d_patches, pixels);
}

}  // namespace drivlm
