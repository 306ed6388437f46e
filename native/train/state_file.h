// What a run needs to go on: masters, moments and the running mean of what is trained, and the number of updates. Read as hostile input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace drivlm {

constexpr size_t kStateKeyBytes = 64;

// `key`: what the run is of; a state of another key is not taken. `tensors`: f32, in order. The file is there whole or not at all.
// Throws BAD_DATA if it cannot be written.
void write_state(const std::string& path, const std::string& key, int64_t updates, const std::vector<Tensor>& tensors);

// Reads into `tensors`, and returns the number of updates. Throws BAD_DATA for a file that is damaged, of another key or of other tensors;
// their values may then be anything.
int64_t read_state(const std::string& path, const std::string& key, const std::vector<Tensor>& tensors);

}  // namespace drivlm
