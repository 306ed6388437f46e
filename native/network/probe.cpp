#include "network/probe.h"

#include <algorithm>

#include "base/numeric.h"

namespace drivlm {

bool Probe::wants(const std::string& name) const {
  return std::find(names_.begin(), names_.end(), name) != names_.end();
}

void Probe::take(const std::string& name, const Tensor& tensor) {
  if (!wants(name)) return;
  ProbeTensor& to = out_[name];
  if (to.shape.empty()) {
    to.shape.assign(tensor.shape, tensor.shape + tensor.rank);
  } else {
    to.shape[0] += tensor.shape[0];
  }
  const size_t first = to.data.size(), count = tensor.count();
  to.data.resize(first + count);
  if (tensor.dtype == DType::f32) {
    device_.download(to.data.data() + first, tensor);
  } else {
    std::vector<bf16> half(count);
    device_.download(half.data(), tensor);
    for (size_t i = 0; i < count; ++i) to.data[first + i] = to_float(half[i]);
  }
}

void Probe::put(const std::string& name, std::vector<int64_t> shape, std::vector<float> data) {
  if (wants(name)) out_[name] = {std::move(shape), std::move(data)};
}

}  // namespace drivlm
