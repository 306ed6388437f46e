#include "train/decoder.h"

#include <algorithm>
#include <cstring>

namespace drivlm {

namespace {

Tensor part(const Tensor& scratch, int64_t rows, int64_t cols) {
  return Tensor(scratch.data, scratch.dtype, {rows, cols});
}

}  // namespace

DecoderTraining::DecoderTraining(const LanguageConfig& config, const Masters& masters, Device& device,
                                 Gradients& gradients, const TrainedParts& parts, int64_t max_rows, int64_t max_logits,
                                 bool keep_blocks, Arena& arena)
    : config_(config),
      masters_(masters),
      device_(device),
      ops_(device.ops()),
      gradients_(gradients),
      has_backward_(parts.decoder || parts.reaches_image_tokens()),
      keep_blocks_(keep_blocks),
      decoder_(config, masters.weights().decoder, device, max_rows, max_rows, 1, arena),
      max_rows_(max_rows),
      max_logits_(max_logits) {
  const auto take = [&](int64_t rows, int64_t cols) { return arena.take(DType::f32, {rows, cols}); };
  residuals_ = arena.take(DType::f32, {config.layers + 1, max_rows, config.dim});
  blocks_.resize(!has_backward_ ? 0 : keep_blocks ? config.layers : 1);
  for (DecoderBlockTensors& t : blocks_) {
    for (Tensor* one : {&t.h1, &t.h2, &t.y, &t.kept.x}) *one = take(max_rows, config.dim);
    t.attended = take(max_rows, config.q_dim());
    t.qkv = take(max_rows, config.qkv_dim());
    if (config.qk_norm) t.kept.qkv = take(max_rows, config.qkv_dim());
    t.mid = take(max_rows, config.ffn_dim);
    t.kept.gate_up = take(max_rows, 2 * config.ffn_dim);
  }
  for (Tensor* t : {&dx_, &dh_}) *t = take(max_rows, config.dim);
  d_attended_ = take(max_rows, config.q_dim());
  d_qkv_ = take(max_rows, config.qkv_dim());
  d_mid_ = take(max_rows, config.ffn_dim);
  for (Tensor* t : {&labelled_, &labelled_h_, &labelled_dh_, &labelled_dx_}) *t = take(max_logits, config.dim);
  logits_ = take(max_logits, config.vocab);
  kv_.shape = {config.layers, config.kv_heads, config.head_dim, 1, max_rows};
  kv_.data = arena.take(DType::u8, {static_cast<int64_t>(device.kv_bytes(kv_.shape))}).data;
  decoder_.observe([this](int64_t layer, Tensor x) {
    std::memcpy(residuals_.rows(layer, 1).data, x.data, x.bytes());
    if (!has_backward_ || layer == config_.layers) return false;
    const DecoderBlockTensors t = tensors(layer, x.shape[0]);
    decoder_.recompute(layer, t, kv_);
    ops_.copy_rows(x, t.kept.x);
    ops_.linear_add(x, t.mid, *masters_.weights().decoder.blocks[layer].down, {}, {}, t.y);
    return true;
  });
}

// What block `layer` works in, with x where it is kept.
DecoderBlockTensors DecoderTraining::tensors(int64_t layer, int64_t rows) const {
  const DecoderBlockTensors& all = blocks_[keep_blocks_ ? layer : 0];
  const auto of = [&](const Tensor& t) { return t ? part(t, rows, t.shape[1]) : Tensor(); };
  return {part(residuals_.rows(layer, 1), rows, config_.dim),
          of(all.h1),
          of(all.qkv),
          of(all.attended),
          of(all.h2),
          of(all.mid),
          of(all.y),
          {of(all.kept.qkv), of(all.kept.x), of(all.kept.gate_up)}};
}

void DecoderTraining::forward(const Pack& pack, Tensor image_tokens) {
  std::vector<Sequence> sequences(pack.spans.size());
  std::vector<Chunk> chunks;
  int64_t longest = 0, slot = 0, next = 0;
  for (const AttentionSpan& span : pack.spans) longest = std::max(longest, span.prefix_rows + span.rows);
  for (size_t i = 0; i < pack.spans.size(); ++i) {
    const AttentionSpan& span = pack.spans[i];
    if (span.row != next || span.rows < 1) throw Error(Code::internal, "train: spans must follow one another");
    next += span.rows;
    Sequence& sequence = sequences[i];
    sequence.length = span.prefix_rows;
    for (int64_t row = 0; row < span.prefix_rows; ++row)
      sequence.pages.push_back(static_cast<int32_t>(span.prefix_row + row));
    for (int64_t row = 0; row < span.rows; ++row) sequence.pages.push_back(static_cast<int32_t>(span.row + row));
    Chunk chunk{&sequence, pack.ids.data() + span.row, span.rows, {}, decoder_.rope().regime(longest), Logits::none};
    const int64_t slots = std::count(chunk.ids, chunk.ids + span.rows, -1);
    if (slots > 0) chunk.image_tokens = image_tokens.rows(slot, slots);
    slot += slots;
    chunks.push_back(chunk);
  }
  if (next != static_cast<int64_t>(pack.ids.size())) throw Error(Code::internal, "train: rows outside of the spans");
  if (slot != (image_tokens ? image_tokens.shape[0] : 0))
    throw Error(Code::internal, "train: slots and image tokens differ");
  decoder_.forward(chunks, kv_, nullptr, [] {});
}

double DecoderTraining::forward_backward(ParameterValues& to, Tensor d_image_tokens, const Pack& pack,
                                         Tensor image_tokens) {
  const int64_t rows = static_cast<int64_t>(pack.ids.size()), dim = config_.dim;
  if (rows > max_rows_) throw Error(Code::internal, "train: more rows than planned");
  forward(pack, image_tokens);
  const double loss = loss_backward(to, pack, rows);
  if (!has_backward_) return loss;
  for (int64_t layer = config_.layers; layer-- > 0;) block_backward(to, layer, pack, rows);

  // x = embedding rows of the ids, image tokens in the slots
  const Tensor dx = part(dx_, rows, dim);
  if (const Tensor table = to.find("language.embedding.weight")) gradients_.gather(table, pack.ids.data(), rows, dx);
  int64_t slot = 0;
  for (int64_t row = 0; row < rows; ++row) {
    if (pack.ids[row] < 0) std::memcpy(d_image_tokens.rows(slot++, 1).data, dx.rows(row, 1).data, dim * sizeof(float));
  }
  return loss;
}

// loss = sum of weight * cross-entropy(head(norm(x))) over the rows with targets; dx is written.
double DecoderTraining::loss_backward(ParameterValues& to, const Pack& pack, int64_t rows) {
  const int64_t dim = config_.dim, count = static_cast<int64_t>(pack.targets.size());
  const DecoderWeights& w = masters_.weights().decoder;
  const char* head_role = config_.tied_head ? "language.embedding.weight" : "language.head.weight";
  const Tensor x = part(residuals_.rows(config_.layers, 1), max_rows_, dim), dx = part(dx_, rows, dim);
  std::memset(dx.data, 0, dx.bytes());
  double loss = 0;
  for (int64_t first = 0; first < count; first += max_logits_) {
    const int64_t n = std::min(max_logits_, count - first);
    const Tensor labelled = labelled_.rows(0, n), h = labelled_h_.rows(0, n), dh = labelled_dh_.rows(0, n),
                 d = labelled_dx_.rows(0, n);
    const Tensor logits = logits_.rows(0, n);
    std::vector<int32_t> labels(n);
    std::vector<double> weights(n), losses(n);
    for (int64_t i = 0; i < n; ++i) {
      const Pack::Target& target = pack.targets[first + i];
      if (target.row < 0 || target.row >= rows) throw Error(Code::internal, "train: a target outside of the pack");
      std::memcpy(labelled.rows(i, 1).data, x.rows(target.row, 1).data, dim * sizeof(float));
      labels[i] = target.label, weights[i] = target.weight;
    }
    ops_.norm(h, labelled, w.norm);
    ops_.linear(logits, h, *w.head, {}, Epilogue::store);
    gradients_.cross_entropy(logits, losses.data(), logits, labels.data(), weights.data());
    for (double one : losses) loss += one;
    // logits = head(h): dh = d logits * head
    gradients_.linear_weight(to.find(head_role), {}, logits, h);
    if (!has_backward_) continue;
    gradients_.linear_input(dh, logits, masters_.find(head_role));
    // h = norm(x): dx = norm'(x) dh
    std::memset(d.data, 0, d.bytes());
    gradients_.norm(d, to.find("language.norm.weight"), {}, dh, labelled, w.norm);
    for (int64_t i = 0; i < n; ++i) {
      float* sum = dx.rows(pack.targets[first + i].row, 1).as<float>();
      const float* add = d.rows(i, 1).as<float>();
      for (int64_t j = 0; j < dim; ++j) sum[j] += add[j];
    }
  }
  return loss;
}

// The block in reverse: dx is the gradient at its end, and becomes the one at its entry.
void DecoderTraining::block_backward(ParameterValues& to, int64_t layer, const Pack& pack, int64_t rows) {
  const LanguageConfig& c = config_;
  const DecoderBlock& w = masters_.weights().decoder.blocks[layer];
  const int64_t dim = c.dim, ffn = c.ffn_dim;
  const std::string at = "language.layers." + std::to_string(layer) + ".";
  const auto d = [&](const char* name) { return to.find(at + name); };
  const DecoderBlockTensors t = tensors(layer, rows);
  if (!keep_blocks_) decoder_.recompute(layer, t, kv_);
  const Tensor dx = part(dx_, rows, dim), dh = part(dh_, rows, dim), d_mid = part(d_mid_, rows, ffn),
               d_qkv = part(d_qkv_, rows, c.qkv_dim());
  const Tensor d_attended = part(d_attended_, rows, c.q_dim()), d_gate_up = t.kept.gate_up;

  // x = x + down(mid): d mid = dx * down
  gradients_.linear_weight(d("down.weight"), {}, dx, t.mid);
  gradients_.linear_input(d_mid, dx, masters_.find(at + "down.weight"));
  // mid = silu(gate(h2)) * up(h2): dh2 = d gate_up * [gate; up]
  gradients_.gated(d_gate_up, d_mid, t.kept.gate_up);
  gradients_.linear_weight(to.find_joined(at + "gate.weight", at + "up.weight"), {}, d_gate_up, t.h2);
  gradients_.linear_input(dh, d_gate_up, masters_.find_joined(at + "gate.weight", at + "up.weight"));
  // h2 = norm2(x): dx += norm2'(x) dh2
  gradients_.norm(dx, d("norm2.weight"), {}, dh, t.kept.x, w.norm2);

  // x = x + out(attended): d attended = dx * out
  gradients_.linear_weight(d("out.weight"), {}, dx, t.attended);
  gradients_.linear_input(d_attended, dx, masters_.find(at + "out.weight"));
  // attended = attention(rope(qkv))
  gradients_.attention(d_qkv, d_attended, t.qkv, c.heads, c.kv_heads, c.head_dim, pack.spans, /*causal=*/true);
  gradients_.rope(d_qkv, d("q_norm.weight"), d("k_norm.weight"), t.kept.qkv, w.q_norm, w.k_norm, c.norm_eps,
                  decoder_.rope().table(), decoder_.batch(), c.heads, c.kv_heads);
  // qkv = qkv(norm1(x)): dx += norm1'(x) (d qkv * qkv)
  gradients_.linear_weight(d("qkv.weight"), d("qkv.bias"), d_qkv, t.h1);
  gradients_.linear_input(dh, d_qkv, masters_.find(at + "qkv.weight"));
  gradients_.norm(dx, d("norm1.weight"), {}, dh, t.x, w.norm1);
}

}  // namespace drivlm
