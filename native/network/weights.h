// Stored tensors -> what the network needs: every row of the table of parameters (parameters.h), each checked and used exactly once.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "base/mapped_file.h"
#include "device/device.h"
#include "device/ops.h"
#include "network/description.h"
#include "network/parameters.h"

namespace drivlm {

using MatrixPtr = std::unique_ptr<Matrix>;

struct VisionBlock {
  Norm norm1, norm2;
  MatrixPtr qkv, proj, fc1, fc2;
  Tensor qkv_bias, q_norm, k_norm, proj_bias, ls1, ls2, fc1_bias, fc2_bias;
};

struct VisionWeights {
  Tensor class_embedding;  // [dim]
  Tensor positions;        // [1 + patches, dim], resized to the tile's grid
  MatrixPtr patch;         // [dim, 3 * patch * patch]
  Tensor patch_bias;
  std::vector<VisionBlock> blocks;
};

struct ProjectorWeights {
  Norm norm;
  MatrixPtr fc1, fc2;
  Tensor fc1_bias, fc2_bias;
};

struct DecoderBlock {
  Norm norm1, norm2;
  MatrixPtr qkv, out, gate_up, down;
  Tensor qkv_bias, q_norm, k_norm;
};

struct DecoderWeights {
  MatrixPtr embedding;  // a table
  std::vector<DecoderBlock> blocks;
  Norm norm;
  MatrixPtr head;
};

struct Weights {
  std::vector<std::unique_ptr<MappedFile>> files;
  std::vector<std::unique_ptr<float[]>> widened;  // tensors of several dtypes that the device reads in place
  std::vector<std::unique_ptr<Memory>> shared;    // files that the device reads in place; they go before the files do
  VisionWeights vision;
  ProjectorWeights projector;
  DecoderWeights decoder;
};

// Where the parameters of a network come from, by role. Each is asked for once.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  virtual bool has(const std::string& role) const = 0;
  virtual MatrixPtr matrix(const std::string& role) = 0;
  virtual MatrixPtr gated(const std::string& gate_role, const std::string& up_role) = 0;
  virtual MatrixPtr table(const std::string& role) = 0;
  virtual TiedMatrices tied(const std::string& role) = 0;
  virtual Tensor vector(const std::string& role) = 0;
  // The position table resized from a grid of side `from` to one of side `to`, [(1 + to^2) * dim].
  virtual Tensor positions(const std::string& role, int64_t from, int64_t to) = 0;
};

// Every parameter of the table, where the network has it.
void bind_weights(Weights& weights, ParameterSource& source, const NetworkDescription& network);

// The stored values of every parameter as f32, in the order of the table. Throws as load_weights.
void read_parameters(const ModelSource& source, Device& device,
                     const std::function<void(const Parameter&, const std::vector<float>&)>& take);

// `store` may be null. Throws BAD_WEIGHTS naming the tensor, what was expected and what was found; ABORTED when `cancel` becomes true.
Weights load_weights(const ModelSource& source, PackedStore* store, Device& device,
                     const std::function<void(int64_t, int64_t)>& progress, const std::atomic<bool>& cancel);

// Bytes load_weights will take on the device.
size_t weights_bytes(const NetworkDescription& network, const Device& device, DType stored);

}  // namespace drivlm
