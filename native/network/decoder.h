// The decoder: RMSNorm, grouped-query attention with RoPE over the paged cache, gated MLP. spec/model.md 3.5.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "device/arena.h"
#include "device/ops.h"
#include "network/description.h"
#include "network/probe.h"
#include "network/rope.h"
#include "network/sequence.h"
#include "network/weights.h"

namespace drivlm {

enum class Logits { none, last, all };

// Rows of one sequence for one forward pass.
struct Chunk {
  const Sequence* sequence;  // pages reserved for length + rows
  const int32_t* ids;        // [rows]; -1 takes the next image token
  int64_t rows;
  Tensor image_tokens;  // [slots in ids, dim], when ids has slots
  int64_t rope_regime;  // of all rows: a prompt's; or kRopePerRow: each row's own length decides, as while decoding
  Logits logits;        // of which of its rows
};

// What a block works in. Inference lets tensors share scratch memory; a backward pass needs each on its own, and those of `kept` too, which are
// empty otherwise.
struct DecoderBlockTensors {
  Tensor x;                  // [rows, dim], residual stream, in place
  Tensor h1, qkv, attended;  // norm1(x), [rows, qkv_dim], [rows, q_dim]
  Tensor h2, mid, y;         // norm2(x), [rows, ffn], scratch [rows, dim]
  struct {
    Tensor qkv;      // before q/k norm and rotation; only with a norm
    Tensor x;        // [rows, dim], between the branches
    Tensor gate_up;  // [rows, 2 * ffn], gate, then up
  } kept;
};

class Decoder {
 public:
  // Takes scratch for sequences of up to `context` tokens, passes of `max_rows` rows and `max_logits` rows of logits.
  Decoder(const LanguageConfig& config, const DecoderWeights& weights, Device& device, int64_t context,
          int64_t max_rows, int64_t max_logits, Arena& arena);

  int64_t max_rows() const { return max_rows_; }
  int64_t max_logits() const { return max_logits_; }
  const Rope& rope() const { return rope_; }

  // For training: called with x [rows, dim] at the entry of every block and after the last (layer = layers). True: the callback has run the block,
  // and x holds its result.
  using OnBlock = std::function<bool(int64_t layer, Tensor x)>;
  void observe(OnBlock on_block) { on_block_ = std::move(on_block); }

  // For training: runs block `layer` of this pass, or of the last pass once more, from x at its entry, and keeps what a backward pass needs. x is
  // left as it is.
  void recompute(int64_t layer, const DecoderBlockTensors& tensors, Kv kv) {
    append(layer, tensors, kv);
    attend(layer, tensors, kv, batch_);
  }
  const Batch& batch() const { return batch_; }  // of the last pass

  // Appends every chunk to the cache and returns f32 logits [rows that want them, vocab], valid until the next pass. The caller advances the
  // sequences' lengths. `keep_going` is called between layers and may throw; the cache's lengths are then still the old ones.
  Tensor forward(const std::vector<Chunk>& chunks, Kv kv, Probe* probe, const std::function<void()>& keep_going);

 private:
  void embed(const std::vector<Chunk>& chunks, int64_t rows, Probe* probe);
  void append(int64_t layer, const DecoderBlockTensors& t, Kv kv);
  void attend(int64_t layer, const DecoderBlockTensors& t, Kv kv, const Batch& batch);
  DecoderBlockTensors scratch(const Tensor& x, const Tensor& qkv) const;
  void want(const std::vector<Chunk>& chunks);
  Tensor wanted_rows(const Tensor& x);

  const LanguageConfig& config_;
  const DecoderWeights& weights_;
  Ops& ops_;
  Rope rope_;
  int64_t max_rows_, max_logits_;
  Tensor x_, h_, y_, qkv_, mid_;  // [rows, dim] three times, [rows, qkv_dim], [rows, ffn]
  Tensor logits_;                 // f32 [max_logits, vocab]
  OnBlock on_block_;
  Batch batch_;
  Batch wanted_;                                   // of the rows that logits are asked of
  std::vector<std::pair<int64_t, int64_t>> runs_;  // first row of them, rows
  std::vector<int32_t> host_ids_;
};

}  // namespace drivlm
