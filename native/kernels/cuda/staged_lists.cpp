#include "kernels/cuda/staged_lists.h"

namespace drivlm::cuda {

void StagedLists::reserve(size_t bytes) {
  host_.reserve(bytes);
  if (bytes > memory_->bytes)
    memory_ = std::make_unique<DeviceMemory>(bytes, kWhat);  // the old one goes when the new one is there
}

bool StagedLists::send(Staging& staging) {
  const void* before = memory_->data;
  if (host_.size() > memory_->bytes) reserve(2 * host_.size());
  staging.copy(memory_->data, host_.data(), host_.size());
  return memory_->data != before;
}

}  // namespace drivlm::cuda
