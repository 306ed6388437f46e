#include "device/sampling.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace drivlm {

namespace {

bool may_choose(const SampleParams& params, int32_t id) {
  if (params.allowed && !((params.allowed[id / 32] >> (id % 32)) & 1)) return false;
  return std::find(params.banned, params.banned + params.banned_count, id) == params.banned + params.banned_count;
}

// Whether one of logits [0, kBlock) is above `least`; a NaN is not. In vectors, as the compiler makes them of a loop without a way out.
constexpr int64_t kBlock = 64;
bool any_above(const float* logits, float least) {
  int32_t above = 0;
  for (int64_t i = 0; i < kBlock; ++i) above |= logits[i] > least;
  return above != 0;
}

int32_t greedy(const float* logits, int64_t limit, const SampleParams& params) {
  int32_t best = -1;
  for (int64_t from = 0; from < limit; from += kBlock) {
    if (best >= 0 && from + kBlock <= limit && !any_above(logits + from, logits[best])) continue;
    for (int64_t i = from; i < std::min(from + kBlock, limit); ++i) {
      if (logits[i] != logits[i]) continue;
      if ((best < 0 || logits[i] > logits[best]) && may_choose(params, static_cast<int32_t>(i)))
        best = static_cast<int32_t>(i);
    }
  }
  return best;
}

int32_t nucleus(const float* logits, int64_t limit, const SampleParams& params) {
  struct Candidate {
    int32_t id;
    double weight;
  };
  const int32_t best = greedy(logits, limit, params);
  if (best < 0) return best;
  const double top = logits[best];
  std::vector<Candidate> candidates;
  double total = 0;
  for (int64_t i = 0; i < limit; ++i) {
    // Below e^-50 of the best an id cannot be told from impossible.
    const double scaled = (logits[i] - top) / params.temperature;
    if (!(scaled > -50) || !may_choose(params, static_cast<int32_t>(i))) continue;
    candidates.push_back({static_cast<int32_t>(i), std::exp(scaled)});
    total += candidates.back().weight;
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  });
  double kept = 0;
  size_t count = 0;
  while (count < candidates.size() && (count == 0 || kept < params.top_p * total)) kept += candidates[count++].weight;
  double left = params.uniform * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= candidates[i].weight;
    if (left < 0) return candidates[i].id;
  }
  return candidates[count - 1].id;
}

}  // namespace

double log_sum_exp(const float* logits, int64_t limit) {
  float top = -INFINITY;
  for (int64_t i = 0; i < limit; ++i) top = std::max(top, logits[i]);
  double sum = 0;
  for (int64_t i = 0; i < limit; ++i) {
    if (logits[i] == logits[i]) sum += std::exp(static_cast<double>(logits[i]) - top);
  }
  return top + std::log(sum);
}

int32_t choose_row(const float* logits, int64_t vocab, const SampleParams& params) {
  const int64_t limit = sampled_ids(vocab, params);
  if (params.forced >= 0) return params.forced;
  return params.temperature > 0 ? nucleus(logits, limit, params) : greedy(logits, limit, params);
}

Sample sample_row(const float* logits, int64_t vocab, const SampleParams& params) {
  Sample out;
  out.id = choose_row(logits, vocab, params);
  if (out.id >= 0 && params.want_logprob) {
    out.logprob = static_cast<float>(logits[out.id] - log_sum_exp(logits, sampled_ids(vocab, params)));
  }
  return out;
}

void Ops::sample(Sample* samples, Tensor logits, const SampleParams* params, int64_t count) {
  std::vector<float> host(logits.count());
  device_.download(host.data(), logits);
  const int64_t vocab = logits.shape[1];
  for (int64_t i = 0; i < count; ++i) samples[i] = sample_row(host.data() + params[i].row * vocab, vocab, params[i]);
}

}  // namespace drivlm
