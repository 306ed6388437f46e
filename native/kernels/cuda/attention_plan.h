// How the attention of a forward pass over the paged cache is cut into blocks. Host only.
#pragma once

#include <vector>

#include "device/ops.h"
#include "kernels/cuda/kernels.h"

namespace drivlm::cuda {

struct AttentionPlan {
  std::vector<AttentionItem> wide, narrow;
  std::vector<AttentionToken> tokens;
  std::vector<int32_t> split_tokens;  // tokens whose keys are split; -1 is none
  int64_t slots = 0;                  // partial results in all
};

// Queries that see the same pages share items: the rows of a prefill, and questions that decode after the same prefix.
// Keys are split where that fills the multiprocessors, into at most max_slots partial results.
AttentionPlan plan_attention(const Batch& batch, int64_t heads, int64_t kv_heads, int multiprocessors,
                             int64_t max_slots);

// The most bytes that the lists of a plan take on the device, one after another, for passes of `rows` rows of `sequences` sequences.
size_t plan_bytes(size_t rows, size_t sequences, int multiprocessors);

// Fills the lists up to lengths that few steps differ in, with items and tokens that do nothing, so that a recorded step
// can be replayed over other contexts.
void pad(AttentionPlan& plan);

}  // namespace drivlm::cuda
