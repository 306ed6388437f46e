// Recordings of decode steps: a step is some two hundred small kernels, which take longer to launch one by one than to run.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <map>
#include <optional>

namespace drivlm::cuda {

// A recording holds grids and the addresses of lists, so there is one for every shape of a step, and all go when a list moves.
class StepGraphs {
 public:
  // What the grids of a decode step depend on: rows, and the lengths of the attention plan's lists.
  using Shape = std::array<size_t, 4>;

  explicit StepGraphs(cudaStream_t stream) : stream_(stream) {}
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;

  // True: the step is enqueued. False: the caller makes its calls and then calls end(). The first time they run as they are made, since a
  // driver loads kernels when they are first launched and may not do so inside a capture; the second time they are recorded.
  bool replay(const Shape& shape);
  void end();

  // Gives up a step that an error left open.
  void abandon();
  // Forgets all recordings.
  void drop();

 private:
  static constexpr size_t kMost = 64;
  cudaStream_t stream_;
  std::map<Shape, cudaGraphExec_t> recordings_;  // null: the shape ran once
  std::optional<Shape> current_;                 // of the step whose calls are being made
  bool recording_ = false;                       // and they are recorded
};

}  // namespace drivlm::cuda
