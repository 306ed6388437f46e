// The one table of a network's parameters: a row for everything that has a value. Loading, the memory plan, gradients, moments, masters and the
// writer of checkpoints walk it; no other list of tensors exists. The table in lib/native.ts is checked against it, as are the checkpoint
// readers, the stand-in maker and the floors of the bench.
//
// Checked   test/unit/parameters.test.ts
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/device.h"
#include "network/description.h"

namespace drivlm {

struct Parameter {
  // matrix: one side of a product, its storage is the device's. table: rows that are looked up. vector: added or multiplied value by value, f32 on
  // every device.
  enum class Kind : uint8_t { matrix, table, vector };

  // What it is to the layer that has it. Norms and scales start around 1 and are multiplied with, the others start around 0.
  enum class Part : uint8_t { weight, bias, norm, scale, position };

  std::string role;  // lib/native.ts
  std::vector<int64_t> shape;
  Kind kind;
  Part part;
  Use use;
  bool also_head = false;      // a tied head: logits are made with the embedding
  bool joins_next = false;     // a device keeps it and the next row as one matrix: gate and up
  int64_t layer = -1;          // of the tower or the decoder; -1 outside of layers
  bool of_layer_norm = false;  // a norm's weight: the norm centres, and has a bias; an RMSNorm does not

  int64_t count() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
  int64_t rows() const { return shape[0]; }
  int64_t cols() const { return count() / shape[0]; }
};

// Every parameter of a valid description, in the order of the forward pass.
std::vector<Parameter> parameters(const NetworkDescription& network);

// Which parameters AdamW's weight decay shrinks. all: every one, as the published runs had it. standard: every one but biases and the weights of
// LayerNorms, as the Trainer of transformers groups them for these families (docs/decisions/0039).
enum class WeightDecay : uint8_t { all, standard };
bool decays(const Parameter& parameter, WeightDecay rule);

// The position table stands for the tiles it was stored for; the tower works with one that is resized to its own grid.
constexpr const char* kPositionTable = "vision.position";

// The resized table [1 + to^2, dim] of a stored one [1 + from^2, dim]: bicubic, a = -0.75, half-pixel centres, no antialias (spec/model.md 3.1).
// Row 0, the class token's, is copied.
std::vector<float> resize_positions(const std::vector<float>& table, int64_t from, int64_t to, int64_t dim);

}  // namespace drivlm
