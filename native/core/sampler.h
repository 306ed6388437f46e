// Choosing the next token on the host. A device may do the same in a kernel (Ops::sample).
#pragma once

#include "core/ops.h"

namespace drivlm {

// logits [vocab]. Greedy takes the lowest id among the largest logits. Otherwise softmax(logits / temperature), the smallest set of
// most likely ids whose probability reaches top_p, and the id where its cumulated share passes `uniform`.
// Id -1 when no id can be chosen: every logit is NaN or forbidden.
Sample sample_row(const float* logits, int64_t vocab, const SampleParams& params);

}  // namespace drivlm
