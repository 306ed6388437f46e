// Choosing the next token on the host. A device may do the same in a kernel (Ops::sample).
#pragma once

#include "device/ops.h"

namespace drivlm {

// logits [vocab]. Greedy takes the lowest id among the largest logits. Otherwise softmax(logits / temperature), the smallest set of
// most likely ids whose probability reaches top_p, and the id where its cumulated share passes `uniform`.
// Id -1 when no id can be chosen: every logit is NaN or forbidden.
Sample sample_row(const float* logits, int64_t vocab, const SampleParams& params);

// The id alone, and what its logit is to be reduced by for its log-probability: ln sum exp over the ids below `limit`, NaNs ignored.
int32_t choose_row(const float* logits, int64_t vocab, const SampleParams& params);
double log_sum_exp(const float* logits, int64_t limit);

constexpr int64_t sampled_ids(int64_t vocab, const SampleParams& params) {
  return params.vocab_limit > 0 && params.vocab_limit < vocab ? params.vocab_limit : vocab;
}

}  // namespace drivlm
