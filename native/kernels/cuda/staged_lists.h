// The small lists of a pass (page tables, work items, sampling parameters) in device memory, one upload for all of them.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_memory.h"

namespace drivlm::cuda {

// Reserved at load; grows when a pass has longer lists than that holds.
class StagedLists {
 public:
  static constexpr size_t kReserved = size_t(256) << 10;

  StagedLists() : memory_(std::make_unique<DeviceMemory>(kReserved, kWhat)) {}

  // Room for lists of `bytes` in all. What was there stays as it is if there is no memory for more.
  void reserve(size_t bytes);
  size_t bytes() const { return memory_->bytes; }

  void clear() { host_.clear(), offsets_.clear(); }
  template <class T>
  void add(const T* values, size_t count) {
    offsets_.push_back(host_.size());
    host_.resize(room_for(count * sizeof(T)) + host_.size());
    if (count > 0) std::memcpy(host_.data() + offsets_.back(), values, count * sizeof(T));
  }
  template <class T>
  void add(const std::vector<T>& values) {
    add(values.data(), values.size());
  }

  // Enqueues the upload of all lists. True if they lie elsewhere than before.
  bool send(Staging& staging);

  // List `i` on the device, in the order of add().
  template <class T>
  const T* at(int i) const {
    return reinterpret_cast<const T*>(static_cast<const char*>(memory_->data) + offsets_[i]);
  }

  // Bytes that a list of so many takes.
  static constexpr size_t room_for(size_t bytes) { return (bytes + 15) / 16 * 16; }

 private:
  static constexpr const char* kWhat = "The lists of a forward pass";
  std::unique_ptr<DeviceMemory> memory_;
  std::vector<char> host_;
  std::vector<size_t> offsets_;
};

}  // namespace drivlm::cuda
