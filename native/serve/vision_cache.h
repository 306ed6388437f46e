// Image tokens of tiles that were encoded before, on the host, least recently used first out.
#pragma once

#include <list>
#include <map>
#include <vector>

#include "base/hash.h"

namespace drivlm {

class VisionCache {
 public:
  explicit VisionCache(int64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // Null when the tile is not there. Valid until the next put.
  const std::vector<char>* find(const Hash128& tile);
  void put(const Hash128& tile, std::vector<char> image_tokens);

  bool enabled() const { return limit_bytes_ > 0; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    Hash128 tile;
    std::vector<char> image_tokens;
  };
  int64_t limit_bytes_, bytes_ = 0;
  std::list<Entry> entries_;  // most recently used first
  std::map<Hash128, std::list<Entry>::iterator> index_;
};

}  // namespace drivlm
