// What tests of gradients share: values in f64 as tensors of either type, distances, central differences.
//
// Differences need no tuning: with a step of the cube root of the precision both of their errors are near 1e-10 for values around 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "cpu_kernels_testing.h"
#include "kernels/cpu/cpu_gradients.h"

namespace drivlm::gradient_values {

using cpu::Random;
using Values = std::vector<double>;

// f64 values as a tensor of either type, and back.
class Held {
 public:
  Held(DType dtype, std::initializer_list<int64_t> shape, const Values& values)
      : values_(values), narrow_(values.begin(), values.end()) {
    tensor = Tensor(dtype == DType::f64 ? static_cast<void*>(values_.data()) : narrow_.data(), dtype, shape);
    if (tensor.count() != static_cast<int64_t>(values.size()))
      test::fail(__FILE__, __LINE__, "shape and values of a tensor differ");
  }
  Held(DType dtype, std::initializer_list<int64_t> shape)
      : Held(dtype, shape, Values(Tensor(nullptr, dtype, shape).count(), 0.0)) {}
  Held(const Held&) = delete;

  Values values() const { return tensor.dtype == DType::f64 ? values_ : Values(narrow_.begin(), narrow_.end()); }
  operator Tensor() const { return tensor; }

  Tensor tensor;

 private:
  Values values_;
  std::vector<float> narrow_;
};

inline double distance(const Values& found, const Values& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), 1e-300);
}

inline void expect_near(const char* what, const Values& found, const Values& expected, double bound) {
  if (found.size() != expected.size()) return test::fail(__FILE__, __LINE__, std::string(what) + ": sizes differ");
  const double d = distance(found, expected);
  if (!(d <= bound))
    test::fail(__FILE__, __LINE__, std::string(what) + ": off by " + std::to_string(d / bound) + " of the bound");
}

// Every target of this CPU in f32, and f64 once.
inline void on_every_target(const std::function<void(Gradients&, DType, double bound)>& body) {
  for (const cpu::Target& target : cpu::targets()) {
    if (!target.supported) continue;
    CpuGradients gradients(2, *target.kernels);
    body(gradients, DType::f32, 2e-5);
  }
  CpuGradients gradients(2, cpu::kPortableKernels);
  body(gradients, DType::f64, 1e-10);
}

// Central differences of sum(d_out * f(x)) by every entry of x.
inline Values differences(const Values& x, const Values& d_out, const std::function<Values(const Values&)>& f) {
  Values out, moved = x;
  for (size_t i = 0; i < x.size(); ++i) {
    const double step = 6e-6 * std::max(1.0, std::abs(x[i]));
    double slope = 0;
    for (int sign : {1, -1}) {
      moved[i] = x[i] + sign * step;
      const Values y = f(moved);
      for (size_t j = 0; j < y.size(); ++j) slope += sign * d_out[j] * y[j];
    }
    moved[i] = x[i];
    out.push_back(slope / (2 * step));
  }
  return out;
}

constexpr double kDifferences = 1e-8;

inline Values random(Random& numbers, int64_t count, float size = 1) {
  const std::vector<float> values = numbers.floats(count, size);
  return Values(values.begin(), values.end());
}

}  // namespace drivlm::gradient_values
