// A sequence's place in the paged KV cache, as the decoder sees it. Whose pages they are: serve/kv_cache.h.
#pragma once

#include <cstdint>
#include <vector>

namespace drivlm {

struct Sequence {
  std::vector<int32_t> pages;
  int64_t length = 0;  // tokens cached
};

}  // namespace drivlm
