#include "serve/prompt_lookup.h"

#include <algorithm>

namespace drivlm {

std::vector<int32_t> draft_from(const std::vector<int32_t>& history, int64_t most) {
  const int64_t size = static_cast<int64_t>(history.size());
  for (int64_t n : {3, 2}) {
    if (most < 1 || size <= n) continue;
    const int32_t* tail = history.data() + size - n;
    for (int64_t start = size - n - 1; start >= 0; --start) {
      if (!std::equal(tail, tail + n, history.data() + start)) continue;
      std::vector<int32_t> draft;
      for (int64_t i = start + n; i < size && static_cast<int64_t>(draft.size()) < most && history[i] >= 0; ++i) {
        draft.push_back(history[i]);
      }
      if (!draft.empty()) return draft;
      break;
    }
  }
  return {};
}

}  // namespace drivlm
