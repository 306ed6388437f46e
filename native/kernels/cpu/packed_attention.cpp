#include "kernels/cpu/packed_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/scratch.h"

namespace drivlm::cpu {

namespace {

constexpr int64_t kChunkTokens = 256;  // of a cached attention
constexpr int64_t kShortRows = 4;      // rows of a segment that may share its prefix

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

void attention(const KernelTable& kernels, uint16_t* out, const uint16_t* qkv, int64_t groups, int64_t positions,
               int64_t heads, int64_t head_dim, bool integers, Workers& workers) {
  integers = integers && kernels.integers != IntegerForm::none;
  const size_t kernel_bytes = integers ? kernels.integers_scratch() : kernels.attend_scratch();
  if (groups == 0 || positions == 0) return;
  // One page for all keys of a head.
  const KvLayout layout{1, 1, head_dim, ceil_div(positions, 32) * 32};
  const int64_t dim = heads * head_dim;
  const int64_t parts = std::min(positions, ceil_div(workers.count(), groups * heads));  // of the queries of one head
  const size_t block_bytes = aligned(static_cast<size_t>(layout.page_bytes()) + 64);
  const size_t rows_bytes = aligned(static_cast<size_t>(ceil_div(positions, parts)) * sizeof(AttendRow));
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const int64_t chunks = ceil_div(positions, kMostChunkTokens),
                chunk_tokens = ceil_div(positions, 32 * chunks) * 32;  // of nearly equal length

  run(workers, groups * heads * parts, [&](int64_t task) {
    const int64_t head = task / parts % heads, group = task / parts / heads, part = task % parts;
    const int64_t first = positions * part / parts, count = positions * (part + 1) / parts - first;
    char* blocks = static_cast<char*>(thread_scratch(block_bytes + rows_bytes + kernel_bytes));
    AttendRow* rows = reinterpret_cast<AttendRow*>(blocks + block_bytes);
    const uint16_t* base = qkv + group * positions * 3 * dim + head * head_dim;
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = {base + (first + i) * 3 * dim, out + (group * positions + first + i) * dim + head * head_dim, nullptr,
                 positions};
    }
    AttendJob job{nullptr, layout.page_bytes(), nullptr,        layout, scale, chunk_tokens,
                  0,       base + dim,          base + 2 * dim, 3 * dim};
    if (!integers || kernels.integers != IntegerForm::bytes) {
      kernels.append(blocks, layout, job.keys, job.values, job.stride, 0, positions);
      job.blocks = blocks;
    }
    void* scratch = blocks + block_bytes + rows_bytes;
    if (integers) return kernels.attend_in_integers(job, rows, count, positions, scratch);
    kernels.attend(job, rows, count, 0, positions, scratch);
  });
}

void AttentionPlan::make(const Batch& batch, int64_t page_tokens, int64_t heads, int64_t kv_heads, int64_t head_dim,
                         int tile_rows, int threads) {
  pages_ = batch.pages.data();
  queries_.clear();
  spans_.clear();
  merges_.clear();
  merge_slots_.clear();
  const int64_t group = heads / kv_heads;
  int64_t slots = 0;

  // Short segments, in groups with a common start of their page tables.
  struct Short {
    const Segment* segment;
    bool taken;
  };
  std::vector<Short> shorts;
  for (const Segment& segment : batch.segments) {
    if (segment.rows > 0 && segment.rows <= kShortRows) shorts.push_back({&segment, false});
  }
  std::vector<const Segment*> members;
  std::vector<std::vector<int64_t>> slots_of(static_cast<size_t>(batch.rows));
  const auto split = [&](int64_t first, int64_t count, int64_t page, int64_t chunk0, int64_t token1) {
    const int64_t chunks = ceil_div(token1, kChunkTokens) - chunk0;
    if (chunks == 0) return;
    // Few and long: a task's first keys are waited for, and of a span from token 0 on, chunks are added up in caches. Cut by rows, each task reads
    // all keys and values: for several tiles.
    const int64_t wanted = ceil_div(2 * threads, kv_heads);
    const int64_t by_rows = chunk0 > 0 ? 1 : std::clamp<int64_t>(count * group / (2 * tile_rows), 1, wanted);
    const int64_t by_tokens = std::min(chunks, ceil_div(wanted, by_rows));
    for (int64_t part = 0; part < by_rows; ++part) {
      const int64_t from_row = first + count * part / by_rows, rows = first + count * (part + 1) / by_rows - from_row;
      for (int64_t i = 0; i < by_tokens; ++i) {
        const int64_t from = chunk0 + chunks * i / by_tokens, to = chunk0 + chunks * (i + 1) / by_tokens;
        spans_.push_back(
            {from_row, rows, page, from * kChunkTokens, std::min(token1, to * kChunkTokens), slots, false});
        for (int64_t left = from == 0 ? 1 : to - from; left > 0; --left, slots += rows) {
          for (int64_t q = 0; q < rows; ++q) slots_of[queries_[from_row + q].row].push_back(slots + q);
        }
      }
    }
  };
  for (size_t i = 0; i < shorts.size(); ++i) {
    if (shorts[i].taken) continue;
    const Segment& leader = *shorts[i].segment;
    const auto common = [&](const Segment& other) {  // whole chunks that every row of both sees
      const int64_t most = std::min(leader.past, other.past) / page_tokens;
      int64_t n = 0;
      while (n < most && pages_[leader.first_page + n] == pages_[other.first_page + n]) ++n;
      return n * page_tokens / kChunkTokens;
    };
    int64_t longest = 0;
    for (size_t j = i + 1; j < shorts.size(); ++j) {
      if (!shorts[j].taken) longest = std::max(longest, common(*shorts[j].segment));
    }
    members.assign(1, &leader);
    int64_t shared = longest;
    for (size_t j = i + 1; j < shorts.size() && longest > 0; ++j) {
      if (shorts[j].taken) continue;
      const int64_t n = common(*shorts[j].segment);
      if (2 * n < longest) continue;  // joining would shorten the others' prefix too much
      shared = std::min(shared, n);
      members.push_back(shorts[j].segment);
      shorts[j].taken = true;
    }
    const int64_t first = static_cast<int64_t>(queries_.size());
    for (const Segment* segment : members) {
      for (int64_t r = 0; r < segment->rows; ++r) queries_.push_back({segment->row + r, segment->past + r + 1});
    }
    split(first, static_cast<int64_t>(queries_.size()) - first, leader.first_page, 0, shared * kChunkTokens);
    int64_t own = first;
    for (const Segment* segment : members) {
      split(own, segment->rows, segment->first_page, shared, segment->past + segment->rows);
      own += segment->rows;
    }
  }
  for (int64_t row = 0; row < batch.rows; ++row) {
    const auto& own = slots_of[row];
    if (own.empty()) continue;
    merges_.push_back({row, static_cast<int64_t>(merge_slots_.size()), static_cast<int64_t>(own.size())});
    merge_slots_.insert(merge_slots_.end(), own.begin(), own.end());
  }

  // Long segments by rows, the costly end first.
  for (const Segment& segment : batch.segments) {
    if (segment.rows <= kShortRows) continue;
    const int64_t tiles = ceil_div(segment.rows * group, tile_rows);
    const int64_t parts = std::clamp<int64_t>(ceil_div(8 * threads, kv_heads), 1, tiles);
    const int64_t first = static_cast<int64_t>(queries_.size());
    for (int64_t r = 0; r < segment.rows; ++r) queries_.push_back({segment.row + r, segment.past + r + 1});
    for (int64_t i = parts - 1; i >= 0; --i) {
      const int64_t from = segment.rows * i / parts, to = segment.rows * (i + 1) / parts;
      if (to > from)
        spans_.push_back(
            {first + from, to - from, segment.first_page, 0, segment.past + to, -1, segment.rows > kStreamRows});
    }
  }
  parts_.resize(static_cast<size_t>(slots * heads * (kPartHead + head_dim)));
}

void AttentionPlan::run(const KernelTable& kernels, uint16_t* out, const uint16_t* qkv, const void* kv,
                        const KvLayout& layout, int64_t layer, int64_t heads, bool integers, Workers& workers) {
  const int64_t dim = layout.head_dim, group = heads / layout.kv_heads, row_size = (heads + 2 * layout.kv_heads) * dim;
  const int64_t spans = static_cast<int64_t>(spans_.size()), stride = kPartHead + dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  cpu::run(workers, spans * layout.kv_heads, [&](int64_t task) {
    const Span& span = spans_[task / layout.kv_heads];
    const int64_t kv_head = task % layout.kv_heads, count = span.count * group;
    const size_t rows_bytes = aligned(static_cast<size_t>(count) * sizeof(AttendRow));
    const bool in_integers = integers && kernels.integers != IntegerForm::none && span.many;
    const size_t kernel_bytes = in_integers ? kernels.integers_scratch() : kernels.attend_scratch();
    char* scratch = static_cast<char*>(thread_scratch(rows_bytes + kernel_bytes));
    AttendRow* rows = reinterpret_cast<AttendRow*>(scratch);
    for (int64_t i = 0; i < count; ++i) {
      const Query& query = queries_[span.first + i / group];
      const int64_t head = kv_head * group + i % group;
      rows[i].q = qkv + query.row * row_size + head * dim;
      rows[i].out = out + (query.row * heads + head) * dim;
      rows[i].partial = span.slot < 0 ? nullptr : parts_.data() + ((span.slot + i / group) * heads + head) * stride;
      rows[i].visible = query.visible;
    }
    const AttendJob job{static_cast<const char*>(kv) + layout.block_offset(0, layer, kv_head),
                        layout.page_bytes(),
                        pages_ + span.page,
                        layout,
                        scale,
                        kChunkTokens,
                        span.count * heads * stride,
                        nullptr,
                        nullptr,
                        0,
                        span.slot >= 0 && span.token0 == 0};
    if (in_integers) return kernels.attend_in_integers(job, rows, count, span.token1, scratch + rows_bytes);
    kernels.attend(job, rows, count, span.token0, span.token1, scratch + rows_bytes);
  });
  cpu::run(workers, static_cast<int64_t>(merges_.size()), [&](int64_t task) {
    const Merge& merge = merges_[task];
    for (int64_t head = 0; head < heads; ++head) {
      kernels.merge(out + (merge.row * heads + head) * dim, parts_.data() + head * stride, heads * stride,
                    merge_slots_.data() + merge.first, merge.count, dim);
    }
  });
}

}  // namespace drivlm::cpu
