// Log-likelihoods of given continuations: the question is prefilled once, every continuation forks it, and their rows go through
// the model together, a pass a unit.

#include <cmath>

#include "serve/engine_impl.h"

namespace drivlm {

namespace {

float checked_logprob(const Sample& sample) {
  if (std::isnan(sample.logprob)) throw damaged_weights();
  return sample.logprob;
}

}  // namespace

Progressed EngineImpl::score_unit() {
  if (scoring_.empty()) return Progressed::waits;
  if (!scoring_.front()->reserved) {
    std::iter_swap(scoring_.begin(), std::min_element(scoring_.begin(), scoring_.end(),
                                                      [](const auto& a, const auto& b) { return a->age < b->age; }));
  }
  ScoreJob& job = *scoring_.front();
  Progressed progressed = Progressed::waits;
  std::unique_ptr<Error> failure;
  guarded([&] { progressed = advance(job); }, [&](const Error& error) { failure = std::make_unique<Error>(error); });
  if (progressed != Progressed::done && !failure) return progressed;
  ScoreJobPtr finished = std::move(scoring_.front());
  scoring_.pop_front();
  end(*finished);
  publish_stats();
  if (failure) {
    finished->request.on_error(*failure);
  } else {
    finished->request.on_done(std::move(finished->logprobs));
  }
  return Progressed::done;
}

// Gives its pages back: whoever hears of the scores finds them free.
void EngineImpl::end(ScoreJob& job) {
  job.scene.reset();
  job.forks.clear();
  job.sequence.release();
}

// One pass of the prompt, or of the continuations.
Progressed EngineImpl::advance(ScoreJob& job) {
  if (!job.reserved) {
    const auto take = [&] { return begin(job, job.request.ids, 0); };
    if (!take_room({job, job.scene.get(), false, take}, "The question", "")) return Progressed::waits;
    job.reserved = true;
  }
  device_->begin_stage();
  const Progressed progressed = job.prompt.done() ? score_pass(job) : score_prompt(job);
  counters_.prefill_ms += device_->end_stage();
  return progressed;
}

// What reads the log-probability of `id` from a row of logits.
SampleParams EngineImpl::scored(const ScoreRequest& request, int64_t row, int32_t id) const {
  SampleParams params;
  params.row = row;
  params.forced = id;
  params.vocab_limit = std::min(request.vocab_limit, network_.language.vocab);
  params.want_logprob = true;
  return params;
}

Progressed EngineImpl::score_prompt(ScoreJob& job) {
  const int64_t rows = std::min(space_.language.max_rows(), job.prompt.left());
  Tensor logits = space_.language.forward({prompt_chunk(job, rows, Logits::last)}, cache_.kv(), nullptr, [&] {
    if (job.request.control->cancel) throw aborted();
  });
  advance_prompt(job, rows);
  counters_.prefill_tokens += rows;
  if (!job.prompt.done()) return Progressed::worked;
  // The first token of every continuation is chosen by the question's last row.
  std::vector<SampleParams> params;
  for (const std::vector<int32_t>& continuation : job.request.continuations) {
    params.push_back(scored(job.request, 0, continuation.front()));
    job.forks.push_back(cache_.fork(job.sequence));
  }
  std::vector<Sample> samples(params.size());
  device_->ops().sample(samples.data(), logits, params.data(), static_cast<int64_t>(params.size()));
  for (const Sample& sample : samples) job.logprobs.push_back({checked_logprob(sample)});
  job.fed.assign(job.request.continuations.size(), 0);
  return Progressed::worked;
}

// As many rows as a pass gives logits for; the last id of a continuation is only read, never fed.
Progressed EngineImpl::score_pass(ScoreJob& job) {
  const auto& continuations = job.request.continuations;
  std::vector<Chunk> chunks;
  std::vector<size_t> which;
  int64_t left = std::min(space_.language.max_logits(), space_.language.max_rows());
  for (size_t i = 0; i < continuations.size() && left > 0; ++i) {
    const int64_t rows =
        std::min<int64_t>(left, static_cast<int64_t>(continuations[i].size()) - 1 - static_cast<int64_t>(job.fed[i]));
    if (rows <= 0) continue;
    KvSequence& fork = job.forks[i];
    const auto take = [&] {
      if (cache_.reserve(fork, fork.length + rows)) return true;
      pages_lacking_ = cache_.pages_needed(fork, fork.length + rows);
      return false;
    };
    if (!take()) {
      if (!chunks.empty()) break;
      if (!take_room({job, nullptr, false, take, true}, "The list of choices", "offer shorter choices, "))
        return Progressed::waits;
    }
    chunks.push_back({&fork, continuations[i].data() + job.fed[i], rows, {}, kRopePerRow, Logits::all});
    which.push_back(i);
    left -= rows;
  }
  if (chunks.empty()) return Progressed::done;
  Tensor logits = space_.language.forward(chunks, cache_.kv(), nullptr, [&] {
    if (job.request.control->cancel) throw aborted();
  });
  std::vector<SampleParams> params;
  for (size_t c = 0; c < chunks.size(); ++c) {
    for (int64_t row = 0; row < chunks[c].rows; ++row) {
      const int64_t at = static_cast<int64_t>(params.size());
      params.push_back(scored(job.request, at, continuations[which[c]][job.fed[which[c]] + row + 1]));
    }
  }
  std::vector<Sample> samples(params.size());
  device_->ops().sample(samples.data(), logits, params.data(), static_cast<int64_t>(params.size()));
  size_t n = 0;
  for (size_t c = 0; c < chunks.size(); ++c) {
    const size_t i = which[c];
    for (int64_t row = 0; row < chunks[c].rows; ++row) job.logprobs[i].push_back(checked_logprob(samples[n++]));
    job.forks[i].length += chunks[c].rows;
    job.fed[i] += chunks[c].rows;
    if (job.fed[i] + 1 == continuations[i].size()) job.forks[i].release();
  }
  return Progressed::worked;
}

}  // namespace drivlm
