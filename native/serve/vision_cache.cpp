#include "serve/vision_cache.h"

namespace drivlm {

const std::vector<char>* VisionCache::find(const Hash128& tile) {
  const auto found = index_.find(tile);
  if (found == index_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return &found->second->image_tokens;
}

void VisionCache::put(const Hash128& tile, std::vector<char> image_tokens) {
  const int64_t size = static_cast<int64_t>(image_tokens.size());
  if (size > limit_bytes_ || index_.count(tile)) return;
  while (bytes_ + size > limit_bytes_) {
    bytes_ -= static_cast<int64_t>(entries_.back().image_tokens.size());
    index_.erase(entries_.back().tile);
    entries_.pop_back();
  }
  entries_.push_front({tile, std::move(image_tokens)});
  try {
    index_[tile] = entries_.begin();
  } catch (...) {
    entries_.pop_front();
    throw;
  }
  bytes_ += size;
}

}  // namespace drivlm
