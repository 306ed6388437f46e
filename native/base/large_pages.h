// Memory in large pages where the system has them: what is read whole, or at once, pays for a page fault in two million bytes rather than in 4096.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace drivlm {

inline constexpr size_t kLargePage = size_t{2} << 20;

// Of a mapping's memory, before it is touched. The large pages within are asked for; bytes before the first of them are returned.
inline size_t advise_large_pages(void* data, size_t bytes) {
  const size_t before = (kLargePage - reinterpret_cast<uintptr_t>(data) % kLargePage) % kLargePage;
  if (bytes < before + kLargePage) return 0;
  ::madvise(static_cast<char*>(data) + before, (bytes - before) / kLargePage * kLargePage, MADV_HUGEPAGE);
  return before;
}

}  // namespace drivlm
