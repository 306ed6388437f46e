// The paged KV cache: which page belongs to whom. Pages are counted references, so that a scene's prefix is shared by
// all its questions; a partly filled last page is copied when a fork writes to it.
#pragma once

#include <utility>
#include <vector>

#include "device/ops.h"
#include "network/sequence.h"

namespace drivlm {

class KvCache;

// A sequence that owns its references to pages, and gives them back when it goes. The cache outlives it.
class KvSequence : public Sequence {
 public:
  KvSequence() = default;
  KvSequence(KvSequence&& other) noexcept { *this = std::move(other); }
  KvSequence& operator=(KvSequence&& other) noexcept;
  ~KvSequence() { release(); }

  // Gives back the pages past `tokens` tokens (never below the length).
  void trim(int64_t tokens);

  // Gives all pages back.
  void release();

 private:
  friend class KvCache;
  KvCache* cache_ = nullptr;  // where its pages are; null while it has none
};

class KvCache {
 public:
  KvCache(Ops& ops, Kv kv);

  int64_t page_tokens() const { return kv_.shape.page_tokens; }
  int64_t pages_total() const { return kv_.shape.pages; }
  int64_t pages_free() const { return static_cast<int64_t>(free_.size()); }
  const Kv& kv() const { return kv_; }

  // A second sequence of the same tokens, without copying.
  KvSequence fork(const Sequence& sequence);

  // The first `length` tokens of a sequence, shared.
  KvSequence fork_prefix(const Sequence& sequence, int64_t length);

  // Pages that reserve(sequence, tokens) would take from the pool.
  int64_t pages_needed(const Sequence& sequence, int64_t tokens) const;

  // Makes room for the sequence to grow to `tokens` in all, and its last page writable. False, and nothing changed, if the
  // pool has too few pages.
  bool reserve(KvSequence& sequence, int64_t tokens);

 private:
  friend class KvSequence;
  void unref(int32_t page);
  bool must_copy_last(const Sequence& sequence, int64_t tokens) const;

  Ops& ops_;
  Kv kv_;
  std::vector<int32_t> refs_;  // [pages]
  std::vector<int32_t> free_;  // a stack
};

}  // namespace drivlm
