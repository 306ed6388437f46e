// One f32 value for each value of a network: masters, gradients, moments. The rows of the table of parameters, one after the other in its order.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "network/parameters.h"
#include "network/weights.h"

namespace drivlm {

// What is trained; the rest gets no gradient, no moment and no update (spec/adaptation.md 10).
struct TrainedParts {
  int64_t first_tower_layer = 0;  // layers from here on; the largest number: none
  bool patches = true;            // patch, class and position embedding
  bool projector = true;
  bool decoder = true;  // its layers and last norm, and the embedding
  bool head = true;     // an untied head; a tied one goes with the embedding
  bool includes(const Parameter& parameter) const;

  // Something is trained that image tokens are made with.
  bool reaches_image_tokens() const {
    return patches || projector || first_tower_layer < std::numeric_limits<int64_t>::max();
  }
  static TrainedParts none() { return {std::numeric_limits<int64_t>::max(), false, false, false, false}; }
};

class ParameterValues {
 public:
  // Zeros for the rows of `parts`, nothing for the others. Throws OUT_OF_MEMORY with `what`.
  ParameterValues(const NetworkDescription& network, Device& device, const char* what, const TrainedParts& parts = {});

  // Bytes that such values take.
  static size_t bytes(const NetworkDescription& network, const TrainedParts& parts = {});

  const std::vector<Parameter>& table() const { return table_; }
  Tensor row(size_t index) const { return tensors_[index]; }  // empty if it has no values

  // In the row's shape; empty if the network has no such parameter, or it has no values.
  Tensor find(const std::string& role) const;

  // Two rows that a device keeps as one matrix, under each other (Parameter::joins_next). Empty as `find`.
  Tensor find_joined(const std::string& first_role, const std::string& second_role) const;

  void clear();

 private:
  std::vector<Parameter> table_;
  std::unique_ptr<Memory> memory_;
  std::vector<Tensor> tensors_;
  std::map<std::string, size_t> index_;
};

// The values that are trained, and the network that reads them where they are: no copy but the resized position table, which `refresh` makes
// anew after an update. Of devices whose memory is the host's.
class Masters : public ParameterValues {
 public:
  // Reads every stored tensor as f32. Throws as load_weights.
  Masters(const ModelSource& source, Device& device);

  // No values: for plans, which want to know what works with them takes.
  Masters(const NetworkDescription& network, Device& device);

  const Weights& weights() const { return weights_; }
  void refresh();

 private:
  class Source;

  const int64_t stored_grid_, grid_;
  std::vector<float> positions_;
  Weights weights_;
};

}  // namespace drivlm
