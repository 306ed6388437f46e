// The whole list of what a device can do. The network is written once against it, in reference order.
//
// Activations are of Device::activation() unless said otherwise; parameter vectors are f32. Sums are f32.
// Fused ops have a default body made of plain ones; a backend overrides what it does better, and the test
// holds the override to the body. Ops are called from one thread, run in order, and allocate nothing.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "device/device.h"
#include "device/epilogue.h"

namespace drivlm {

struct Norm {
  Tensor weight;      // [dim]
  Tensor bias;        // [dim]; empty for RMS norm
  double eps = 0;     // taken in the type of the sums
  bool layer = true;  // LayerNorm, else RMS norm
};

// The paged KV cache of all layers as ops see it. `data` is laid out as the device likes.
struct Kv {
  void* data = nullptr;
  KvShape shape;
};

// Consecutive rows of one sequence in a forward pass. Row i of it stands at position past + i, attends to positions
// 0..past + i of its own sequence, and is appended to the cache at past + i.
struct Segment {
  int64_t row, rows;        // rows [row, row + rows) of the batch
  int64_t past;             // tokens already cached
  int64_t first_page;       // its page table starts at Batch::pages[first_page]
  int64_t first_angle = 0;  // row i is rotated by row first_angle + i of the table that rope_append is given
};

// One forward pass of the language model over any number of sequences.
struct Batch {
  std::vector<Segment> segments;
  std::vector<int32_t> pages;  // page tables of the segments, ceil((past + rows) / page_tokens) entries each
  int64_t rows = 0;
};

// Every segment's rotations are rows of the table.
inline void expect_angles(const char* op, const Tensor& cos_sin, int64_t head_dim, const Batch& batch) {
  expect_shape(op, "cos_sin", cos_sin, {cos_sin.shape[0], head_dim});
  for (const Segment& segment : batch.segments) {
    if (segment.first_angle < 0 || segment.first_angle + segment.rows > cos_sin.shape[0])
      throw Error(Code::internal, text("%s: rotations outside of the table", op));
  }
}

// The largest pass that a device has to be ready for.
struct PassLimits {
  int64_t rows;       // of one pass
  int64_t sequences;  // of one pass, and rows that are sampled
  int64_t context;    // longest sequence in tokens
  int64_t vocab;
  int64_t input_rows = 0, input_values = 0;  // of what matrix products read: the most rows, and the most values
  // Of the decoder's matrices: the most rows, and the most values with each row filled up to 128.
  int64_t matrix_rows = 0, matrix_values = 0;
  // What a backend may have no kernels for: values of the rows that matrices read, of the longest that a norm reads, and of a head of the tower.
  std::array<int64_t, 4> row_widths{};
  int64_t norm_width = 0, tower_head_dim = 0;
};

struct SampleParams {
  int64_t row = 0;        // of the logits, to choose from
  float temperature = 0;  // 0 is greedy: the lowest id among the largest logits
  float top_p = 1;
  double uniform = 0;               // [0, 1), drawn by the caller
  int64_t vocab_limit = 0;          // ids from here on are never chosen
  const int32_t* banned = nullptr;  // never chosen in this step
  int64_t banned_count = 0;
  const uint32_t* allowed = nullptr;  // bit set of ids that may be chosen, ceil(vocab / 32) words; null: all
  int32_t forced = -1;                // take this id instead of choosing
  bool want_logprob = false;
};

struct Sample {
  int32_t id = -1;    // -1: nothing can be chosen
  float logprob = 0;  // natural log, softmax over [0, vocab_limit) at temperature 1; when asked for
};

class Ops {
 public:
  explicit Ops(Device& device) : device_(device) {}
  virtual ~Ops() = default;

  // Called at load: what a pass needs besides the arena is there from then on, as far as it can be foreseen, and Device::own_bytes counts it.
  virtual void reserve(const PassLimits&) {}

  // ---- vision ----

  // tiles u8 [tiles, size, size, 3] -> patches [tiles * patches, 3 * patch * patch] in (channel, y, x) order,
  // (u8 / 255 - mean) / std, spec/model.md 4.3.
  virtual void patchify(Tensor patches, Tensor tiles, int64_t patch, const std::array<float, 3>& mean,
                        const std::array<float, 3>& std) = 0;

  // x [tiles, 1 + patches, dim]: row 0 class embedding, then the patches [tiles * patches, dim]; plus positions
  // [1 + patches, dim].
  virtual void assemble_tiles(Tensor x, Tensor patches, Tensor class_embedding, Tensor positions) = 0;

  // Bidirectional attention inside each group of `positions` rows. qkv [rows, 3 * heads * head_dim] -> out [rows, heads *
  // head_dim]; scores scaled by head_dim^-0.5.
  virtual void attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) = 0;

  // x [tiles, 1 + grid * grid, dim] -> out [tiles * grid * grid / 4, 4 * dim], class token dropped; version 1 or 2 (spec 3.2).
  virtual void pixel_shuffle(Tensor out, Tensor x, int64_t grid, int version) = 0;

  // LayerNorm of the shuffled rows.
  virtual void pixel_shuffle_norm(Tensor out, Tensor x, int64_t grid, int version, const Norm& norm) {
    pixel_shuffle(out, x, grid, version);
    this->norm(out, out, norm);
  }

  // ---- both ----

  // out [rows, n] = y or gelu(y), y = x [rows, k] * w^T + bias. out may be f32 whatever the activation type. bias may be empty. `after`:
  // store or gelu; the other epilogues are the ops below.
  virtual void linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) = 0;

  // x [rows, n] += scale * (in [rows, k] * w^T + bias). bias and scale [n] may be empty. scratch [rows, n].
  virtual void linear_add(Tensor x, Tensor in, const Matrix& w, Tensor bias, Tensor scale, Tensor scratch) {
    linear(scratch, in, w, bias, Epilogue::store);
    scale_add(x, scratch, scale);
  }

  // x += scale * y; scale [dim] may be empty.
  virtual void scale_add(Tensor x, Tensor y, Tensor scale) = 0;

  // out [rows, dim] = norm(x). out may be x. RMS: normalised value is rounded to the activation type before the weight (trap 28).
  virtual void norm(Tensor out, Tensor x, const Norm& norm) = 0;

  // out = linear(norm(x)), or linear_gated of it with `after` gated and no bias. normed [rows, dim]: on devices that train it holds norm(x)
  // afterwards, elsewhere it is scratch.
  virtual void norm_linear(Tensor out, Tensor normed, Tensor x, const Norm& norm, const Matrix& w, Tensor bias,
                           Epilogue after) {
    this->norm(normed, x, norm);
    after == Epilogue::gated ? linear_gated(out, normed, w) : linear(out, normed, w, bias, after);
  }

  // RMS norm in place over columns [first, first + width) of every row of x (q/k norm of the vision tower).
  virtual void norm_columns(Tensor x, int64_t first, int64_t width, Tensor weight, float eps) = 0;

  // to [rows, dim] = from; the same shape and type.
  virtual void copy_rows(Tensor to, Tensor from) = 0;

  // ---- language ----

  // out [ids, dim] = rows of the table; ids are on the host, all in range.
  virtual void gather(Tensor out, const int32_t* ids, int64_t count, const Matrix& table) = 0;

  // out [rows, ffn] = silu(gate(x)) * up(x) with a matrix from load_gated.
  virtual void linear_gated(Tensor out, Tensor x, const Matrix& gate_up) = 0;

  // ---- forward passes that a backward pass follows: the two with an activation, and what it was given; drop path.
  // ---- Devices that do not train throw ----

  // before [rows, n] = x * w^T + bias, out = gelu(before).
  virtual void linear_gelu(Tensor /*out*/, Tensor /*before*/, Tensor /*x*/, const Matrix& /*w*/, Tensor /*bias*/) {
    refuse_to_train();
  }

  // gate_up [rows, 2 * ffn] = gate(x), then up(x); out [rows, ffn] = silu(gate) * up.
  virtual void linear_gated_from(Tensor /*out*/, Tensor /*gate_up*/, Tensor /*x*/, const Matrix& /*w*/) {
    refuse_to_train();
  }

  // x [groups * rows, dim]: the rows of each group times its factor.
  virtual void scale_groups(Tensor /*x*/, const float* /*factors*/, int64_t /*rows*/) { refuse_to_train(); }

  // Called once before the layers of a forward pass. The batch outlives the pass. A backend stages page tables here.
  virtual void begin_batch(const Batch& batch) = 0;

  // A decode step (one row a sequence) is the same calls every time, over the same tensors. True: the device has just
  // repeated them for this batch from a recording, and the caller skips them. False: the caller makes them, and ends with
  // end_step, which may keep a recording.
  virtual bool replay_step(Kv, int64_t /*heads*/, const Batch&) { return false; }
  virtual void end_step() {}

  // qkv [rows, (heads + 2 * kv_heads) * head_dim]: per-head RMS norm of q and k if weights are given, rotate-half RoPE of q (in place)
  // and k with each row's row of cos_sin f32 [angles, head_dim] (head_dim / 2 cosines, then sines), then k and v appended to layer `layer` of the
  // cache. Of a cache in 8 bits a device may leave q in the form in which it meets the keys that it keeps (spread_head of packed/formats.h).
  virtual void rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv, int64_t layer,
                           int64_t heads, const Batch& batch) = 0;

  // Causal attention of the batch's queries (in qkv) over the cache. out [rows, heads * head_dim].
  virtual void attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) = 0;

  // All layers of page `from` over page `to` (copy on write).
  virtual void copy_page(Kv kv, int32_t from, int32_t to) = 0;

  // Debug: the cached keys and values of one layer as f32 [kv_heads, tokens, head_dim] on the host.
  virtual void read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) = 0;

  // `count` choices from logits f32 [rows, vocab], any number of them from one row. Blocks until the samples are on the host.
  // The default downloads the logits and runs device/sampling.
  virtual void sample(Sample* samples, Tensor logits, const SampleParams* params, int64_t count);

 protected:
  [[noreturn]] static void refuse_to_train() {
    throw Error(Code::internal, "This device has no kernels for training.");
  }

  Device& device_;
};

}  // namespace drivlm
