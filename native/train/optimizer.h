// AdamW over the table of parameters, with clipping by the norm of all gradients (spec/adaptation.md 11).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device/gradients.h"
#include "train/parameter_values.h"

namespace drivlm {

struct OptimizerSettings {
  double learning_rate = 0;
  double vision_learning_rate = 0;  // of the vision tower; the projector is not of it
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0.01;
  WeightDecay decay = WeightDecay::all;
  double max_norm = 1;  // of all trained gradients together; infinity: no clipping
};

class Optimizer {
 public:
  // Moments of zero. Throws OUT_OF_MEMORY.
  Optimizer(const NetworkDescription& network, Device& device, const TrainedParts& parts);

  // Updates the trained parameters by gradients (of their sum, already divided). Returns their norm before clipping. A norm that is no number
  // changes nothing: the caller finds it by std::isfinite.
  double update(Masters& masters, const ParameterValues& gradients, Gradients& ops, const OptimizerSettings& settings);

  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // By rows of the table; empty where nothing is trained.
  const std::vector<Tensor>& first_moments() const { return first_; }
  const std::vector<Tensor>& second_moments() const { return second_; }
  bool trains(size_t row) const { return static_cast<bool>(first_[row]); }

 private:
  int64_t updates_ = 0;
  std::unique_ptr<Memory> memory_;
  std::vector<Tensor> first_, second_;
};

}  // namespace drivlm
