#include "kernels/cuda/step_graphs.h"

#include "kernels/cuda/launch.h"

namespace drivlm::cuda {

StepGraphs::~StepGraphs() {
  abandon();
  drop();
}

bool StepGraphs::replay(const Shape& shape) {
  const auto found = recordings_.find(shape);
  if (found != recordings_.end() && found->second) {
    check(cudaGraphLaunch(found->second, stream_), "replaying a decode step");
    return true;
  }
  if (found != recordings_.end()) {
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording a decode step");
    recording_ = true;
  }
  current_ = shape;
  return false;
}

void StepGraphs::end() {
  if (!current_) return;
  const Shape shape = *current_;
  current_.reset();
  if (!recording_) {
    if (recordings_.size() >= kMost) drop();
    recordings_.emplace(shape, nullptr);
    return;
  }
  recording_ = false;
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph), "recording a decode step");
  cudaGraphExec_t recording = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&recording, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "recording a decode step");
  recordings_[shape] = recording;
  check(cudaGraphLaunch(recording, stream_), "replaying a decode step");
}

void StepGraphs::abandon() {
  current_.reset();
  if (!recording_) return;
  recording_ = false;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}

void StepGraphs::drop() {
  for (const auto& [shape, recording] : recordings_) {
    if (recording) cudaGraphExecDestroy(recording);
  }
  recordings_.clear();
}

}  // namespace drivlm::cuda
