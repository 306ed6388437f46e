// Forward and backward of a pack through the decoder, with the loss: the mirror of network/decoder.
#pragma once

#include <vector>

#include "device/arena.h"
#include "device/gradients.h"
#include "network/decoder.h"
#include "train/parameter_values.h"

namespace drivlm {

// Rows that go through the network together. A span is a sample, or, with a prefix, what follows the rows of an earlier span; it attends to
// those and to itself, and its positions go on after them.
struct Pack {
  std::vector<int32_t> ids;          // [rows]; -1 takes the next image token
  std::vector<AttentionSpan> spans;  // every row in one of them, in order
  std::vector<uint8_t> tiles;        // u8 [tiles, size, size, 3], may be empty

  // What is learned: the logits of row `row` are to give `label`; the loss is the sum of weight * cross-entropy.
  struct Target {
    int64_t row;
    int32_t label;
    double weight;
  };
  std::vector<Target> targets;
};

class DecoderTraining {
 public:
  // For packs of up to `max_rows` rows. `max_logits` rows of logits exist at a time. With `keep_blocks` all that blocks compute is kept, so that
  // nothing is computed again. With the head alone in `parts` backward ends at the last norm.
  DecoderTraining(const LanguageConfig& config, const Masters& masters, Device& device, Gradients& gradients,
                  const TrainedParts& parts, int64_t max_rows, int64_t max_logits, bool keep_blocks, Arena& arena);

  // Fills the gradients by parameters (added), and by image tokens (written, [slots, dim]); the loss is returned. The second may be empty if
  // the pack has no slots.
  double forward_backward(ParameterValues& to, Tensor d_image_tokens, const Pack& pack, Tensor image_tokens);

  // The gradient at the decoder's input [rows, dim], of the last call.
  Tensor input_gradient() const { return dx_; }

 private:
  void forward(const Pack& pack, Tensor image_tokens);
  double loss_backward(ParameterValues& to, const Pack& pack, int64_t rows);
  void block_backward(ParameterValues& to, int64_t layer, const Pack& pack, int64_t rows);
  DecoderBlockTensors tensors(int64_t layer, int64_t rows) const;

  const LanguageConfig& config_;
  const Masters& masters_;
  Device& device_;
  Ops& ops_;
  Gradients& gradients_;
  const bool has_backward_, keep_blocks_;
  Decoder decoder_;
  int64_t max_rows_, max_logits_;
  Kv kv_;                                        // one token a page, so that spans share any prefix
  Tensor residuals_;                             // [layers + 1, rows, dim]
  std::vector<DecoderBlockTensors> blocks_;      // [max_rows, ...]; one for all layers, or one for each
  Tensor dx_, dh_, d_attended_, d_qkv_, d_mid_;  // [rows, dim] twice, [rows, q_dim], [rows, qkv_dim], [rows, ffn]
  Tensor labelled_, labelled_h_, labelled_dh_, labelled_dx_, logits_;  // [max_logits, dim], [max_logits, vocab]
};

}  // namespace drivlm
