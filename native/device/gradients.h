// The gradients of the ops (device/ops.h), for training: what each op's inputs and parameters get of the gradient of its result.
//
// All tensors of a call are of one type: f32, or f64, which is the oracle. dX is the loss' derivative by X. Gradients of activations are
// written, those of parameters (d_weight, d_bias, d_scale, d_table, ...) are added to what is there, unless said otherwise; a parameter's gradient
// that is empty is not computed. Sums over rows are cut at fixed places and added in order, so that bytes do not depend on the threads.
// Formulas: spec/adaptation.md 7 and 8.
#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "device/ops.h"

namespace drivlm {

// Rows that attend together: to the prefix, which is the whole of an earlier span, and to themselves. A span with a prefix comes after the
// span that is its prefix; one without begins a new family.
struct AttentionSpan {
  int64_t row, rows;
  int64_t prefix_row = 0, prefix_rows = 0;
};

struct AdamW {
  double learning_rate = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;           // of bias correction, from 1
  double gradient_scale = 1;  // what gradients are multiplied with first: clipping
};

class Gradients {
 public:
  virtual ~Gradients() = default;

  // ---- linear: y [rows, n] = x [rows, k] * w [n, k]^T + bias [n] ----

  virtual void linear_input(Tensor dx, Tensor dy, Tensor w) = 0;
  virtual void linear_weight(Tensor d_weight, Tensor d_bias, Tensor dy, Tensor x) = 0;

  // ---- norms and residuals ----

  // y = norm(x). Adds to dx: the residual stream's gradient is there already.
  virtual void norm(Tensor dx, Tensor d_weight, Tensor d_bias, Tensor dy, Tensor x, const Norm& norm) = 0;

  // RMS norm of columns [first, first + width) of every row; `d` holds dy there and gets dx. x as it was before.
  virtual void norm_columns(Tensor d, Tensor d_weight, Tensor x, int64_t first, int64_t width, Tensor weight,
                            double eps) = 0;

  // x += scale [dim] * y: dy from dx, which stays. scale may be empty.
  virtual void scale_add(Tensor dy, Tensor d_scale, Tensor dx, Tensor y, Tensor scale) = 0;

  // ---- activations ----

  // y = gelu(u). du may be dy.
  virtual void gelu(Tensor du, Tensor dy, Tensor u) = 0;

  // y [rows, n] = silu(gate) * up of gate_up [rows, 2n]: gate in columns [0, n), up in the others. d_gate_up may be gate_up.
  virtual void gated(Tensor d_gate_up, Tensor dy, Tensor gate_up) = 0;

  // ---- attention ----

  // Of Ops::attention (kv_heads = heads, not causal) and of Ops::attention_cached over rows that all stand in this pass. qkv [rows, (heads + 2 *
  // kv_heads) * head_dim] as the attention read it; d_out [rows, heads * head_dim]. Rows of no span get zeros.
  virtual void attention(Tensor d_qkv, Tensor d_out, Tensor qkv, int64_t heads, int64_t kv_heads, int64_t head_dim,
                         const std::vector<AttentionSpan>& spans, bool causal) = 0;

  // Of Ops::rope_append's rotation, in place over the q and k columns of d_qkv. cos_sin and the batch as there. With per-head norms: qkv as it
  // was before them.
  virtual void rope(Tensor d_qkv, Tensor d_q_norm, Tensor d_k_norm, Tensor qkv, Tensor q_norm, Tensor k_norm,
                    double eps, Tensor cos_sin, const Batch& batch, int64_t heads, int64_t kv_heads) = 0;

  // ---- moves ----

  // dx [tiles, 1 + grid * grid, dim]: zeros at the class token.
  virtual void pixel_shuffle(Tensor dx, Tensor dy, int64_t grid, int version) = 0;

  // dx [tiles, 1 + patches, dim] -> d_patches [tiles * patches, dim]; class [dim] and positions [1 + patches, dim] are added to.
  virtual void assemble_tiles(Tensor d_patches, Tensor d_class, Tensor d_positions, Tensor dx) = 0;

  // Rows of the table that ids [count] name; negative ids name none.
  virtual void gather(Tensor d_table, const int32_t* ids, int64_t count, Tensor dx) = 0;

  // Of network/weights.h resize_positions: tables [1 + side^2, dim].
  virtual void resize_positions(Tensor d_from, int64_t from, Tensor d_to, int64_t to) = 0;

  // ---- loss and update ----

  // losses[r] = weights[r] * cross-entropy of labels[r] under logits [rows, vocab], natural log; d_logits likewise, and may be logits.
  virtual void cross_entropy(Tensor d_logits, double* losses, Tensor logits, const int32_t* labels,
                             const double* weights) = 0;

  // The sum of squares, in f64.
  virtual double sum_of_squares(Tensor x) = 0;

  // One AdamW update of parameter, first and second moment (spec/adaptation.md 11).
  virtual void adamw(Tensor parameter, Tensor m, Tensor v, Tensor gradient, const AdamW& options) = 0;
};

}  // namespace drivlm
