// One f32 value for each value of a network: masters, gradients, moments. The rows of the table of parameters, one after the other in its order.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "network/parameters.h"
#include "network/weights.h"

namespace drivlm {

class ParameterValues {
 public:
  // Zeros. Throws OUT_OF_MEMORY with `what`.
  ParameterValues(const NetworkDescription& network, Device& device, const char* what);

  const std::vector<Parameter>& table() const { return table_; }
  Tensor row(size_t index) const { return tensors_[index]; }

  // In the row's shape; empty if the network has no such parameter.
  Tensor find(const std::string& role) const;

  // Two rows that a device keeps as one matrix, under each other (Parameter::joins_next).
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

  const Weights& weights() const { return weights_; }
  void refresh();

 private:
  class Source;

  const int64_t stored_grid_, grid_;
  std::vector<float> positions_;
  Weights weights_;
};

}  // namespace drivlm
