#include "train/optimizer.h"

#include <cmath>
#include <cstring>

namespace drivlm {

Optimizer::Optimizer(const NetworkDescription& network, Device& device, const TrainedParts& parts) {
  const std::vector<Parameter> table = parameters(network);
  int64_t count = 0;
  for (const Parameter& parameter : table) count += parts.includes(parameter) ? parameter.count() : 0;
  memory_ = device.allocate(2 * count * sizeof(float), "The moments of the optimiser");
  if (count > 0) std::memset(memory_->data, 0, 2 * count * sizeof(float));
  float* at = static_cast<float*>(memory_->data);
  for (std::vector<Tensor>* moments : {&first_, &second_}) {
    for (const Parameter& parameter : table) {
      const bool trained = parts.includes(parameter);
      moments->push_back(trained ? Tensor(at, DType::f32, {parameter.count()}) : Tensor());
      at += trained ? parameter.count() : 0;
    }
  }
}

double Optimizer::update(Masters& masters, const ParameterValues& gradients, Gradients& ops,
                         const OptimizerSettings& settings) {
  const std::vector<Parameter>& table = masters.table();
  double squares = 0;
  for (size_t row = 0; row < table.size(); ++row) {
    if (trains(row)) squares += ops.sum_of_squares(gradients.row(row));
  }
  const double norm = std::sqrt(squares);
  if (!std::isfinite(norm)) return norm;
  AdamW options;
  options.beta1 = settings.beta1;
  options.beta2 = settings.beta2;
  options.eps = settings.eps;
  options.step = ++updates_;
  options.gradient_scale = std::min(1.0, settings.max_norm / (norm + 1e-6));
  for (size_t row = 0; row < table.size(); ++row) {
    if (!trains(row)) continue;
    const bool vision = table[row].use == Use::tower || table[row].use == Use::patches;
    options.learning_rate = vision ? settings.vision_learning_rate : settings.learning_rate;
    options.weight_decay = decays(table[row], settings.decay) ? settings.weight_decay : 0;
    ops.adamw(masters.row(row), first_[row], second_[row], gradients.row(row), options);
  }
  masters.refresh();
  return norm;
}

}  // namespace drivlm
