// Prompt-lookup drafting: what followed the last tokens when they stood in the prompt or answer before. Driving answers repeat
// the question's c-tags and option texts.
#pragma once

#include <cstdint>
#include <vector>

namespace drivlm {

// At most `most` tokens that followed the latest earlier occurrence of the last three tokens (else two) of `history`.
std::vector<int32_t> draft_from(const std::vector<int32_t>& history, int64_t most);

}  // namespace drivlm
