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
  last_ = arena.take(type, {max_logits, config.dim});
  logits_ = arena.take(DType::f32, {max_logits, config.vocab});
}

namespace {
Tensor part(const Tensor& scratch, int64_t rows, int64_t cols) {
  return Tensor(scratch.data, scratch.dtype, {rows, cols});
}
}  // namespace

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

void Decoder::block(int64_t layer, const DecoderBlockTensors& t, Kv kv) {
  const DecoderBlock& w = weights_.blocks[layer];
  const bool keeps = static_cast<bool>(t.kept.gate_up);

  // x = x + out(attention(rope(qkv(norm1(x)))))
  ops_.norm_linear(t.qkv, t.h1, t.x, w.norm1, *w.qkv, w.qkv_bias, Epilogue::store);
  if (keeps && config_.qk_norm) ops_.copy_rows(t.kept.qkv, t.qkv);
  ops_.rope_append(t.qkv, w.q_norm, w.k_norm, config_.norm_eps, rope_.table(), kv, layer, config_.heads, batch_);
  ops_.attention_cached(t.attended, t.qkv, kv, layer, config_.heads, batch_);
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
  const DecoderBlockTensors tensors{x,
                                    h,
                                    part(qkv_, rows, config_.qkv_dim()),
                                    part(h_, rows, config_.q_dim()),
                                    h,
                                    part(mid_, rows, config_.ffn_dim),
                                    part(y_, rows, config_.dim),
                                    {}};
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    keep_going();
    if (on_block_ && on_block_(layer, x)) continue;
    block(layer, tensors, kv);
    if (probe) probe->take("llm.layer" + std::to_string(layer), x);
  }
  if (on_block_) on_block_(config_.layers, x);

  // logits = head(norm(x)) of the rows that are asked for. Neighbours are normed where they stand; others are brought together first.
  int64_t wanted = 0;
  std::vector<std::pair<int64_t, int64_t>> runs;  // first row, rows
  for (size_t c = 0; c < chunks.size(); ++c) {
    const Segment& segment = batch_.segments[c];
    const int64_t count = chunks[c].logits == Logits::none ? 0 : chunks[c].logits == Logits::last ? 1 : segment.rows;
    if (wanted + count > max_logits_) throw Error(Code::internal, "forward: more logits than planned");
    wanted += count;
    const int64_t first = segment.row + segment.rows - count;
    if (count > 0 && !runs.empty() && runs.back().first + runs.back().second == first) {
      runs.back().second += count;
    } else if (count > 0) {
      runs.push_back({first, count});
    }
  }
  if (probe && (probe->wants("llm.final_norm") || probe->wants("logits"))) {
    ops_.norm(h, x, weights_.norm);
    probe->take("llm.final_norm", h);
    for (int64_t row = 0; row < rows && probe->wants("logits"); row += max_logits_) {
      const int64_t n = std::min(max_logits_, rows - row);
      ops_.linear(logits_.rows(0, n), h.rows(row, n), *weights_.head, {}, Epilogue::store);
      probe->take("logits", logits_.rows(0, n));
    }
  }
  if (wanted == 0) return {};
  const Tensor last = last_.rows(0, wanted);
  if (runs.size() > 1) {
    int64_t row = 0;
    for (const auto& [first, count] : runs) {
      ops_.copy_rows(last.rows(row, count), x_.rows(first, count));
      row += count;
    }
  }
  ops_.norm(last, runs.size() > 1 ? last : x_.rows(runs.front().first, wanted), weights_.norm);
  ops_.linear(logits_.rows(0, wanted), last, *weights_.head, {}, Epilogue::store);
  if (step) ops_.end_step();
  return logits_.rows(0, wanted);
}

}  // namespace drivlm
