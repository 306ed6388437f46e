// Working memory of one thread, kept from call to call. It grows to the largest need and stays.
#pragma once

#include <cstddef>

namespace drivlm::cpu {

// At least `bytes`, 64-byte aligned, contents undefined; valid until the thread's next call.
void* thread_scratch(size_t bytes);

}  // namespace drivlm::cpu
