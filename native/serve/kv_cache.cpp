#include "serve/kv_cache.h"

#include <algorithm>

namespace drivlm {

KvCache::KvCache(Ops& ops, Kv kv) : ops_(ops), kv_(kv), refs_(kv.shape.pages, 0) {
  for (int64_t page = kv.shape.pages; page-- > 0;) free_.push_back(static_cast<int32_t>(page));
}

Sequence KvCache::fork(const Sequence& sequence) { return fork_prefix(sequence, sequence.length); }

Sequence KvCache::fork_prefix(const Sequence& sequence, int64_t length) {
  Sequence copy;
  copy.length = length;
  const int64_t pages = (length + page_tokens() - 1) / page_tokens();
  copy.pages.assign(sequence.pages.begin(), sequence.pages.begin() + pages);
  for (int32_t page : copy.pages) ++refs_[page];
  return copy;
}

// The page that position `length` falls into is partly filled and shared, and the sequence is about to grow.
bool KvCache::must_copy_last(const Sequence& sequence, int64_t tokens) const {
  const int64_t page = sequence.length / page_tokens();
  return tokens > sequence.length && page < static_cast<int64_t>(sequence.pages.size()) &&
         refs_[sequence.pages[page]] > 1;
}

int64_t KvCache::pages_needed(const Sequence& sequence, int64_t tokens) const {
  const int64_t wanted = (tokens + page_tokens() - 1) / page_tokens();
  const int64_t have = static_cast<int64_t>(sequence.pages.size());
  return std::max<int64_t>(0, wanted - have) + (must_copy_last(sequence, tokens) ? 1 : 0);
}

bool KvCache::reserve(Sequence& sequence, int64_t tokens) {
  if (pages_needed(sequence, tokens) > pages_free()) return false;
  auto take = [&] {
    const int32_t page = free_.back();
    free_.pop_back();
    refs_[page] = 1;
    return page;
  };
  if (must_copy_last(sequence, tokens)) {
    int32_t& page = sequence.pages[sequence.length / page_tokens()];
    const int32_t fresh = take();
    ops_.copy_page(kv_, page, fresh);
    unref(page);
    page = fresh;
  }
  while (static_cast<int64_t>(sequence.pages.size()) * page_tokens() < tokens) sequence.pages.push_back(take());
  return true;
}

void KvCache::trim(Sequence& sequence, int64_t tokens) {
  const int64_t keep = (std::max(tokens, sequence.length) + page_tokens() - 1) / page_tokens();
  while (static_cast<int64_t>(sequence.pages.size()) > keep) {
    unref(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

void KvCache::release(Sequence& sequence) {
  for (int32_t page : sequence.pages) unref(page);
  sequence = {};
}

void KvCache::unref(int32_t page) {
  if (--refs_[page] == 0) free_.push_back(page);
}

}  // namespace drivlm
