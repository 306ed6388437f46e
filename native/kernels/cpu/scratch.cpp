#include "kernels/cpu/scratch.h"

#include <cstdlib>
#include <memory>

#include "base/error.h"

namespace drivlm::cpu {

void* thread_scratch(size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t held = 0;
  if (bytes > held) {
    memory.reset();
    held = 0;
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    memory.reset(std::aligned_alloc(4096, rounded));
    if (!memory)
      throw Error(Code::out_of_memory, text("no memory for %zu bytes of working space of a thread", rounded));
    held = rounded;
  }
  return memory.get();
}

}  // namespace drivlm::cpu
