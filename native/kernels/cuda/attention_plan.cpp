#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <map>

namespace drivlm::cuda {

namespace {

constexpr int64_t kMinPages = 4;  // of a split: less is not worth a partial result

// Tokens [token, token + tokens) against keys [begin, end) of the page table at `page`; begin is a multiple of 64.
struct Task {
  int64_t token, tokens, page, begin, end;
  bool narrow;
  int64_t pages() const { return ceil_div(end - begin, kPageTokens); }
};

class Planner {
 public:
  Planner(const Batch& batch, int64_t heads, int64_t kv_heads, int multiprocessors)
      : batch_(batch),
        group_(heads / kv_heads),
        wanted_(std::max<int64_t>(1, ceil_div(2 * multiprocessors, kv_heads))) {
    if (group_ * kv_heads != heads || group_ < 1 || group_ > kAttentionRows) {
      throw Error(Code::internal,
                  text("attention: no kernel for %lld query heads on %lld key heads; up to %d a key head",
                       static_cast<long long>(heads), static_cast<long long>(kv_heads), kAttentionRows));
    }
    std::map<int32_t, std::vector<const Segment*>> decoding;  // by first page
    for (const Segment& segment : batch.segments) {
      if (segment.rows == 1) {
        decoding[batch.pages[segment.first_page]].push_back(&segment);
      } else if (segment.rows > 1) {
        add_prefill(segment);
      }
    }
    for (const auto& [page, segments] : decoding) add_decode(segments);
  }

  AttentionPlan plan(int64_t max_slots) const {
    int64_t work = 0;
    for (const Task& task : tasks_) work += task.pages();
    int64_t chunk = INT64_MAX;
    if (static_cast<int64_t>(tasks_.size()) < wanted_) chunk = std::max(kMinPages, ceil_div(work, wanted_));
    for (;;) {
      AttentionPlan out = cut(chunk);
      if (out.slots <= max_slots) return out;
      chunk = chunk > INT64_MAX / 2 ? INT64_MAX : chunk * 2;
      if (chunk > work && out.slots > 0) chunk = INT64_MAX;
      // A shared prefix and the rest of a question are two partial results even without splits.
      if (chunk == INT64_MAX) return cut_without_sharing();
    }
  }

 private:
  int64_t tokens_per_item(int64_t tokens) const {
    return tokens * group_ <= kAttentionNarrow ? kAttentionNarrow / group_ : kAttentionRows / group_;
  }

  void add_task(int64_t token, int64_t tokens, int64_t page, int64_t begin, int64_t end) {
    tasks_.push_back({token, tokens, page, begin, end, tokens * group_ <= kAttentionNarrow});
  }

  void add_prefill(const Segment& s) {
    const int64_t per_item = tokens_per_item(s.rows);
    for (int64_t first = 0; first < s.rows; first += per_item) {
      const int64_t count = std::min(per_item, s.rows - first), token = static_cast<int64_t>(tokens_.size());
      for (int64_t i = first; i < first + count; ++i) add_token(s, i);
      add_task(token, count, s.first_page, 0, s.past + first + count);
    }
  }

  void add_decode(const std::vector<const Segment*>& segments) {
    // Full pages that all of them have in common and see whole.
    const Segment& model = *segments[0];
    int64_t shared = segments.size() > 1 ? INT64_MAX : 0;
    for (const Segment* s : segments) {
      int64_t same = 0;
      const int64_t limit = std::min(shared, std::min(s->past + 1, model.past + 1) / kPageTokens);
      while (same < limit && batch_.pages[s->first_page + same] == batch_.pages[model.first_page + same]) ++same;
      shared = std::min(shared, same);
    }
    const int64_t first_token = static_cast<int64_t>(tokens_.size()), count = static_cast<int64_t>(segments.size());
    for (const Segment* s : segments) add_token(*s, 0);
    if (shared > 0) {
      const int64_t per_item = tokens_per_item(count);
      for (int64_t i = 0; i < count; i += per_item) {
        add_task(first_token + i, std::min(per_item, count - i), model.first_page, 0, shared * kPageTokens);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const Segment& s = *segments[i];
      if (s.past + 1 > shared * kPageTokens) {
        add_task(first_token + i, 1, s.first_page + shared, shared * kPageTokens, s.past + 1);
      }
    }
  }

  void add_token(const Segment& s, int64_t i) {
    tokens_.push_back({int32_t(s.row + i), int32_t(s.past + i), 0, 0});
    owners_.push_back(&s);
  }

  AttentionPlan cut(int64_t chunk) const {
    AttentionPlan out;
    out.tokens = tokens_;
    for (const Task& task : tasks_) {
      const int64_t pages = task.pages(), parts = chunk >= pages ? 1 : ceil_div(pages, chunk),
                    per_part = ceil_div(pages, parts);
      const int32_t first_split = out.tokens[task.token].splits;  // the same for all tokens of a task
      int32_t split = first_split;
      for (int64_t page = 0; page < pages; page += per_part) {
        const int64_t begin = task.begin + page * kPageTokens, end = std::min(task.end, begin + per_part * kPageTokens);
        (task.narrow ? out.narrow : out.wide)
            .push_back({int32_t(task.token), int32_t(task.tokens), int32_t(task.page + page), int32_t(begin),
                        int32_t(end), split++});
      }
      for (int64_t i = 0; i < task.tokens; ++i) out.tokens[task.token + i].splits = split;
    }
    for (size_t i = 0; i < out.tokens.size(); ++i) {
      AttentionToken& token = out.tokens[i];
      if (token.splits < 2) continue;
      token.slot = int32_t(out.slots);
      out.slots += token.splits;
      out.split_tokens.push_back(int32_t(i));
    }
    return out;
  }

  // One item a token or run of tokens over all its keys: needs no partial results.
  AttentionPlan cut_without_sharing() const {
    AttentionPlan out;
    out.tokens = tokens_;
    for (size_t i = 0; i < tokens_.size();) {
      const Segment& s = *owners_[i];
      size_t count = 1;
      const size_t per_item = size_t(tokens_per_item(s.rows));
      while (count < per_item && i + count < tokens_.size() && owners_[i + count] == &s) ++count;
      const int64_t end = tokens_[i + count - 1].position + 1;
      (int64_t(count) * group_ <= kAttentionNarrow ? out.narrow : out.wide)
          .push_back({int32_t(i), int32_t(count), int32_t(s.first_page), 0, int32_t(end), 0});
      i += count;
    }
    for (AttentionToken& token : out.tokens) token.splits = 1;
    return out;
  }

  const Batch& batch_;
  const int64_t group_, wanted_;  // wanted_: items that fill the device
  std::vector<Task> tasks_;
  std::vector<AttentionToken> tokens_;
  std::vector<const Segment*> owners_;
};

}  // namespace

AttentionPlan plan_attention(const Batch& batch, int64_t heads, int64_t kv_heads, int multiprocessors,
                             int64_t max_slots) {
  return Planner(batch, heads, kv_heads, multiprocessors).plan(max_slots);
}

// What a list of `count` entries is padded to.
static size_t bucket(size_t count) {
  size_t size = 8;
  while (size < count) size *= 2;
  return count == 0 ? 0 : size;
}

size_t plan_bytes(size_t rows, size_t sequences, int multiprocessors) {
  // A task a row at most and one for the prefix of a sequence, and as many splits as fill the device twice over.
  const size_t items = bucket(rows + sequences + 4 * size_t(multiprocessors));
  const auto list = [](size_t count, size_t bytes) { return (count * bytes + 15) / 16 * 16; };
  return 2 * list(items, sizeof(AttentionItem)) + list(rows, sizeof(AttentionToken)) + list(rows, sizeof(int32_t));
}

void pad(AttentionPlan& plan) {
  plan.wide.resize(bucket(plan.wide.size()));  // value-initialised: no tokens
  plan.narrow.resize(bucket(plan.narrow.size()));
  if (!plan.split_tokens.empty()) plan.split_tokens.resize(plan.tokens.size(), -1);
}

}  // namespace drivlm::cuda
