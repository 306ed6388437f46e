#include "serve/kv_cache.h"

#include <algorithm>

namespace drivlm {

KvCache::KvCache(Ops& ops, Kv kv) : ops_(ops), kv_(kv), refs_(kv.shape.pages, 0) {
  for (int64_t page = kv.shape.pages; page-- > 0;) free_.push_back(static_cast<int32_t>(page));
}

KvSequence KvCache::fork(const Sequence& sequence) { return fork_prefix(sequence, sequence.length); }

KvSequence KvCache::fork_prefix(const Sequence& sequence, int64_t length) {
  KvSequence copy;
  copy.cache_ = this;
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

bool KvCache::reserve(KvSequence& sequence, int64_t tokens) {
  if (pages_needed(sequence, tokens) > pages_free()) return false;
  sequence.cache_ = this;
  // Before any page changes hands: what fails here changes nothing.
  sequence.pages.reserve((tokens + page_tokens() - 1) / page_tokens());
  auto take = [&] {
    const int32_t page = free_.back();
    free_.pop_back();
    refs_[page] = 1;
    return page;
  };
  if (must_copy_last(sequence, tokens)) {
    int32_t& page = sequence.pages[sequence.length / page_tokens()];
    ops_.copy_page(kv_, page, free_.back());
    unref(std::exchange(page, take()));
  }
  while (static_cast<int64_t>(sequence.pages.size()) * page_tokens() < tokens) sequence.pages.push_back(take());
  return true;
}

void KvCache::unref(int32_t page) {
  if (--refs_[page] == 0) free_.push_back(page);
}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  if (this == &other) return *this;
  release();
  pages.swap(other.pages);
  length = std::exchange(other.length, 0);
  cache_ = other.cache_;
  return *this;
}

void KvSequence::trim(int64_t tokens) {
  const int64_t each = cache_ ? cache_->page_tokens() : 1, keep = (std::max(tokens, length) + each - 1) / each;
  while (static_cast<int64_t>(pages.size()) > keep) {
    cache_->unref(pages.back());
    pages.pop_back();
  }
}

void KvSequence::release() {
  for (int32_t page : pages) cache_->unref(page);
  pages.clear();
  length = 0;
}

}  // namespace drivlm
