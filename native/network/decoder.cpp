#include "network/decoder.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace drivlm {

Decoder::Decoder(const LanguageConfig& config, const DecoderWeights& weights, Device& device, int64_t context,
                 int64_t max_rows, int64_t max_logits, Arena& arena)
    : config_(config),
      weights_(weights),
      ops_(device.ops()),
      rope_(config.rope, config.head_dim, context, max_rows, device, arena),
      max_rows_(max_rows),
      max_logits_(max_logits) {
  const DType type = device.activation();
  x_ = arena.take(type, {max_rows, config.dim});
  h_ = arena.take(type, {max_rows, std::max(config.dim, config.q_dim())});
  y_ = arena.take(type, {max_rows, config.dim});
  qkv_ = arena.take(type, {max_rows, config.qkv_dim()});
  mid_ = arena.take(type, {max_rows, config.ffn_dim});
  logits_ = arena.take(DType::f32, {max_logits, config.vocab});
}

namespace {
Tensor part(const Tensor& scratch, int64_t rows, int64_t cols) {
  return Tensor(scratch.data, scratch.dtype, {rows, cols});
}
}  // namespace

// What a block works in beside the rows of x and qkv.
DecoderBlockTensors Decoder::scratch(const Tensor& x, const Tensor& qkv) const {
  const int64_t rows = x.shape[0];
  const Tensor h = part(h_, rows, config_.dim);
  return {x, h, qkv, part(h_, rows, config_.q_dim()), h, part(mid_, rows, config_.ffn_dim), part(y_, rows, config_.dim),
          {}};
}

// x = embedding rows of the ids, image tokens in the slots.
void Decoder::embed(const std::vector<Chunk>& chunks, int64_t rows, Probe* probe) {
  host_ids_.clear();
  for (const Chunk& chunk : chunks) {
    for (int64_t i = 0; i < chunk.rows; ++i) host_ids_.push_back(std::max(chunk.ids[i], 0));
  }
  ops_.gather(part(x_, rows, config_.dim), host_ids_.data(), rows, *weights_.embedding);
  int64_t row = 0;
  for (const Chunk& chunk : chunks) {
    int64_t slot = 0;
    for (int64_t i = 0; i < chunk.rows;) {  // runs of slots
      int64_t run = 0;
      while (i + run < chunk.rows && chunk.ids[i + run] < 0) ++run;
      if (run > 0) {
        ops_.copy_rows(part(x_, rows, config_.dim).rows(row + i, run), chunk.image_tokens.rows(slot, run));
        slot += run;
        i += run;
      } else {
        ++i;
      }
    }
    row += chunk.rows;
  }
  if (probe) probe->take("inputs_embeds", part(x_, rows, config_.dim));
}

// qkv(norm1(x)), keys and values of which go into the cache.
void Decoder::append(int64_t layer, const DecoderBlockTensors& t, Kv kv) {
  const DecoderBlock& w = weights_.blocks[layer];
  ops_.norm_linear(t.qkv, t.h1, t.x, w.norm1, *w.qkv, w.qkv_bias, Epilogue::store);
  if (t.kept.gate_up && config_.qk_norm) ops_.copy_rows(t.kept.qkv, t.qkv);
  ops_.rope_append(t.qkv, w.q_norm, w.k_norm, config_.norm_eps, rope_.table(), kv, layer, config_.heads, batch_);
}

// What follows for the rows of `batch`: all of this pass, or some of them.
void Decoder::attend(int64_t layer, const DecoderBlockTensors& t, Kv kv, const Batch& batch) {
  const DecoderBlock& w = weights_.blocks[layer];
  const bool keeps = static_cast<bool>(t.kept.gate_up);

  // x = x + out(attention(qkv))
  ops_.attention_cached(t.attended, t.qkv, kv, layer, config_.heads, batch);
  if (keeps) ops_.copy_rows(t.kept.x, t.x);
  ops_.linear_add(keeps ? t.kept.x : t.x, t.attended, *w.out, {}, {}, t.y);

  // x = x + down(silu(gate(norm2(x))) * up(norm2(x)))
  if (keeps) {
    ops_.norm(t.h2, t.kept.x, w.norm2);
    return ops_.linear_gated_from(t.mid, t.kept.gate_up, t.h2, *w.gate_up);
  }
  ops_.norm_linear(t.mid, t.h2, t.x, w.norm2, *w.gate_up, {}, Epilogue::gated);
  ops_.linear_add(t.x, t.mid, *w.down, {}, {}, t.y);
}

// Finds the rows of a pass that logits are asked of. Only these go on behind the keys and values of the last layer: of all others nobody reads
// what would follow.
void Decoder::want(const std::vector<Chunk>& chunks) {
  runs_.clear();
  wanted_ = {{}, batch_.pages, 0};
  for (size_t c = 0; c < chunks.size(); ++c) {
    const Segment& all = batch_.segments[c];
    const int64_t count = chunks[c].logits == Logits::none ? 0 : chunks[c].logits == Logits::last ? 1 : all.rows;
    if (count == 0) continue;
    const int64_t before = all.rows - count, first = all.row + before;
    wanted_.segments.push_back({wanted_.rows, count, all.past + before, all.first_page, all.first_angle + before});
    wanted_.rows += count;
    if (!runs_.empty() && runs_.back().first + runs_.back().second == first) {
      runs_.back().second += count;
    } else {
      runs_.push_back({first, count});
    }
  }
  if (wanted_.rows > max_logits_) throw Error(Code::internal, "forward: more logits than planned");
}

// The rows of x [rows, n] that logits are asked of: neighbours where they stand, others moved to the front.
Tensor Decoder::wanted_rows(const Tensor& x) {
  if (runs_.size() == 1) return x.rows(runs_.front().first, wanted_.rows);
  int64_t row = 0;
  for (const auto& [first, count] : runs_) {
    for (int64_t i = 0; i < count; ++i, ++row) {  // one by one: a run may overlap the place it moves to
      if (row != first + i) ops_.copy_rows(x.rows(row, 1), x.rows(first + i, 1));
    }
  }
  return x.rows(0, wanted_.rows);
}

Tensor Decoder::forward(const std::vector<Chunk>& chunks, Kv kv, Probe* probe,
                        const std::function<void()>& keep_going) {
  const int64_t page_tokens = kv.shape.page_tokens;
  batch_.segments.clear();
  batch_.pages.clear();
  batch_.rows = 0;
  rope_.begin_pass();
  for (const Chunk& chunk : chunks) {
    const int64_t past = chunk.sequence->length;
    const int64_t pages = (past + chunk.rows + page_tokens - 1) / page_tokens;
    if (pages > static_cast<int64_t>(chunk.sequence->pages.size()))
      throw Error(Code::internal, "forward: pages were not reserved");
    batch_.segments.push_back({batch_.rows, chunk.rows, past, static_cast<int64_t>(batch_.pages.size()),
                               rope_.first_row(past, chunk.rows, chunk.rope_regime)});
    batch_.pages.insert(batch_.pages.end(), chunk.sequence->pages.begin(), chunk.sequence->pages.begin() + pages);
    batch_.rows += chunk.rows;
  }
  const int64_t rows = batch_.rows;
  if (rows > max_rows_) throw Error(Code::internal, "forward: more rows than planned");
  rope_.end_pass();
  ops_.begin_batch(batch_);

  embed(chunks, rows, probe);
  const bool step = !probe && std::all_of(chunks.begin(), chunks.end(), [](const Chunk& chunk) {
    return chunk.rows == 1 && chunk.logits == Logits::last;
  });
  if (step && rows <= max_logits_ && ops_.replay_step(kv, config_.heads, batch_)) return logits_.rows(0, rows);
  const Tensor x = part(x_, rows, config_.dim), h = part(h_, rows, config_.dim);
  const DecoderBlockTensors tensors = scratch(x, part(qkv_, rows, config_.qkv_dim()));
  want(chunks);
  const bool whole = probe || on_block_ || wanted_.rows == rows;
  const int64_t last = config_.layers - 1;
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    keep_going();
    if (on_block_ && on_block_(layer, x)) continue;
    append(layer, tensors, kv);
    if (layer == last && !whole) break;
    attend(layer, tensors, kv, batch_);
    if (probe) probe->take("llm.layer" + std::to_string(layer), x);
  }
  if (on_block_) on_block_(config_.layers, x);
  if (probe && (probe->wants("llm.final_norm") || probe->wants("logits"))) {
    ops_.norm(h, x, weights_.norm);
    probe->take("llm.final_norm", h);
    for (int64_t row = 0; row < rows && probe->wants("logits"); row += max_logits_) {
      const int64_t n = std::min(max_logits_, rows - row);
      ops_.linear(logits_.rows(0, n), h.rows(row, n), *weights_.head, {}, Epilogue::store);
      probe->take("logits", logits_.rows(0, n));
    }
  }
  if (wanted_.rows == 0) return {};

  // logits = head(norm(x))
  const Tensor asked = wanted_rows(x);
  if (!whole) {
    ops_.begin_batch(wanted_);
    attend(last, scratch(asked, wanted_rows(tensors.qkv)), kv, wanted_);
  }
  const Tensor normed = part(h_, wanted_.rows, config_.dim);
  ops_.norm(normed, asked, weights_.norm);
  ops_.linear(logits_.rows(0, wanted_.rows), normed, *weights_.head, {}, Epilogue::store);
  if (step) ops_.end_step();
  return logits_.rows(0, wanted_.rows);
}

}  // namespace drivlm
