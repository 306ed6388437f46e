// Questions: prefill after a scene, then one batch of all running questions, a token each a step. A step may carry
// more rows of a question: tokens that its automaton forced, and tokens drafted from its prompt, verified together.

#include <cmath>
#include <tuple>

#include "serve/engine_impl.h"
#include "serve/prompt_lookup.h"

namespace drivlm {

namespace {
// Rows of a decode step beyond the questions' own: where reading the weights still costs more than multiplying.
constexpr int64_t kSpeculativeRows = 16;
constexpr int64_t kDraftTrial = 24;  // drafted tokens after which a question without luck drafts no more
}  // namespace

void EngineImpl::check(const GenerateRequest& request) const {
  check_ids(request.ids);
  check_ids(request.stop_ids);
  check_ids(request.forced);
  if (request.max_new_tokens < 1) throw Error(Code::bad_argument, "maxNewTokens must be at least 1.");
  if (!(request.temperature >= 0 && request.temperature <= 100))
    throw Error(Code::bad_argument, "temperature must be 0 to 100.");
  if (!(request.top_p > 0 && request.top_p <= 1))
    throw Error(Code::bad_argument, "topP must be above 0 and at most 1.");
  if (request.vocab_limit < 1) throw Error(Code::bad_argument, "vocabLimit must be at least 1.");
  if (request.speculate < 0 || request.speculate > kSpeculativeRows)
    throw Error(Code::bad_argument, "speculate must be 0 to 16.");
  if (request.automaton && !request.forced.empty())
    throw Error(Code::bad_argument, "forced ids and an automaton exclude each other.");
}

// ---- admission ----

// Reserves the pages of the prompt and the longest answer, so that a running question never waits for memory. A dialogue that nobody else
// holds gives its place to what goes on from it.
bool EngineImpl::admit(GenerateJob& job) {
  const GenerateRequest& r = job.request;
  const Scene* scene = job.scene.get();
  job.takes_place = r.keep && scene && scene->dialogue && scene->holders == 1;
  const auto take = [&] { return begin(job, r.ids, r.max_new_tokens); };
  if (!take_room({job, scene, r.keep && !job.takes_place, take}, "The question", "ask for fewer new tokens, "))
    return false;
  job.result.prompt_tokens = job.sequence.length + job.prompt.left();
  job.result.queue_ms = ms_since(job.submitted);
  job.phase_start = Clock::now();
  return true;
}

// Ends questions whose reader left before they were admitted; the model never reads them.
bool EngineImpl::end_unasked() {
  bool ended = false;
  std::vector<GenerateJobPtr> left;
  for (size_t i = 0; i < waiting_.size();) {
    if (waiting_[i]->request.control->finish) {
      left.push_back(std::move(waiting_[i]));
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  for (GenerateJobPtr& job : left) {
    const Scene* scene = job->scene.get();
    job->takes_place = job->request.keep && scene && scene->dialogue && scene->holders == 1;
    const auto take = [&] {
      fork_scene(*job, job->request.ids);
      job->scene.reset();
      return true;
    };
    guarded(
        [&] {
          // It needs no page, and a place if it is kept.
          const bool place = job->request.keep && !job->takes_place;
          if (!place) {
            take();
          } else if (!take_room({*job, scene, place, take}, "The question", "")) {
            waiting_.push_back(std::move(job));
            return;
          }
          ended = true;
          job->result.finish = Finish::cancelled;
          job->result.queue_ms = ms_since(job->submitted);
          job->result.prompt_tokens = job->sequence.length + job->prompt.left();
          job->phase_start = Clock::now();
          job->uncached = job->prompt.ids;  // a dialogue goes on from the question, which is fed before the next one
          complete(*job);
        },
        [&](const Error& error) {
          ended = true;
          fail(*job, error);
        });
  }
  return ended;
}

// Of the waiting questions the first one of the scene with the fewest running: one scene's list does not hold up another's question. Where one
// waits for room, in order of asking.
bool EngineImpl::admit_waiting() {
  bool worked = end_unasked();
  while (!waiting_.empty() && static_cast<int64_t>(running_.size() + prefilling_.size()) < options_.max_batch) {
    std::map<int64_t, int64_t> served;
    for (const GenerateJobPtr& job : running_) ++served[job->request.scene];
    for (const GenerateJobPtr& job : prefilling_) ++served[job->request.scene];
    const bool short_of_room =
        std::any_of(waiting_.begin(), waiting_.end(), [](const auto& job) { return job->waits_for_room; });
    const auto rank = [&](const GenerateJobPtr& job) {
      return std::tuple(short_of_room ? 0 : served[job->request.scene], job->age);
    };
    const auto next = std::min_element(waiting_.begin(), waiting_.end(),
                                       [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
    GenerateJobPtr job = std::move(*next);
    waiting_.erase(next);
    bool admitted = false, failed = false;
    guarded([&] { admitted = admit(*job); },
            [&](const Error& error) {
              failed = true;
              fail(*job, error);
            });
    if (!admitted && !failed) {
      waiting_.push_front(std::move(job));
      break;
    }
    worked = true;
    if (admitted) prefilling_.push_back(std::move(job));
  }
  return worked;
}

// ---- prefill ----

// The next rows of a prompt as a chunk. Image tokens of a scene that is prefilled anew come from its host copy.
Chunk EngineImpl::prompt_chunk(Question& question, int64_t rows, Logits logits) {
  Prompt& prompt = question.prompt;
  const int32_t* ids = prompt.ids.data() + prompt.cursor;
  const int64_t slots = std::count(ids, ids + rows, -1);
  Chunk chunk{&question.sequence, ids, rows, {}, prompt.rope_regime, rows == prompt.left() ? logits : Logits::none};
  if (slots > 0) {
    chunk.image_tokens = space_.chunk_tokens.rows(0, slots);
    const int64_t row_bytes = network_.language.dim * dtype_bytes(device_->activation());
    device_->upload(chunk.image_tokens, question.image_tokens->data() + prompt.slot * row_bytes);
  }
  return chunk;
}

void EngineImpl::advance_prompt(Question& question, int64_t rows) {
  Prompt& prompt = question.prompt;
  prompt.slot += std::count(prompt.ids.begin() + prompt.cursor, prompt.ids.begin() + prompt.cursor + rows, -1);
  question.ids.insert(question.ids.end(), prompt.ids.begin() + prompt.cursor,
                      prompt.ids.begin() + prompt.cursor + rows);
  prompt.cursor += rows;
  question.sequence.length += rows;
}

// One pass over as many waiting prompts as fit; prompts with image slots or probes go alone.
Progressed EngineImpl::prefill_unit() {
  if (prefilling_.empty()) return Progressed::waits;
  auto alone = [](const GenerateJob& job) {
    return !job.request.probe.empty() ||
           std::find(job.prompt.ids.begin() + job.prompt.cursor, job.prompt.ids.end(), -1) != job.prompt.ids.end();
  };
  std::vector<int64_t> rows;
  int64_t left = space_.language.max_rows();
  for (const GenerateJobPtr& job : prefilling_) {
    if (left == 0 || (!rows.empty() && (alone(*job) || alone(*prefilling_.front())))) break;
    rows.push_back(std::min(left, job->prompt.left()));
    left -= rows.back();
  }
  std::vector<GenerateJobPtr> jobs(std::make_move_iterator(prefilling_.begin()),
                                   std::make_move_iterator(prefilling_.begin() + rows.size()));
  prefilling_.erase(prefilling_.begin(), prefilling_.begin() + rows.size());
  in_pass_ = static_cast<int64_t>(jobs.size());
  GenerateJob& first = *jobs.front();
  Probe probe(*device_, first.request.probe, first.result.probes);
  guarded(
      [&] {
        device_->begin_stage();
        std::vector<Chunk> chunks;
        for (size_t i = 0; i < jobs.size(); ++i) chunks.push_back(prompt_chunk(*jobs[i], rows[i], Logits::last));
        Tensor logits =
            space_.language.forward(chunks, cache_.kv(), first.request.probe.empty() ? nullptr : &probe, [&] {
              if (jobs.size() == 1 && first.request.control->cancel) throw aborted();
            });
        counters_.prefill_ms += device_->end_stage();
        int64_t row = 0;
        std::vector<GenerateJobPtr> unfinished;
        for (size_t i = 0; i < jobs.size(); ++i) {
          counters_.prefill_tokens += rows[i];
          advance_prompt(*jobs[i], rows[i]);
          if (jobs[i]->prompt.done()) {
            read_cache_probes(probe, jobs[i]->request.probe, jobs[i]->sequence);
            finish_prefill(std::move(jobs[i]), logits.rows(row++, 1));
          } else {
            unfinished.push_back(std::move(jobs[i]));
          }
        }
        in_pass_ = 0;
        prefilling_.insert(prefilling_.begin(), std::make_move_iterator(unfinished.begin()),
                           std::make_move_iterator(unfinished.end()));
      },
      [&](const Error& error) {
        in_pass_ = 0;
        for (GenerateJobPtr& job : jobs) {
          if (job) fail(*job, error);
        }
      });
  return Progressed::worked;
}

// The first token of an answer. An error concerns this question alone.
void EngineImpl::finish_prefill(GenerateJobPtr job, Tensor logits_row) {
  --in_pass_;
  job->result.prefill_ms = ms_since(job->phase_start);
  job->phase_start = Clock::now();
  bool more = true;
  guarded(
      [&] {
        if (job->constraint) {
          for (int32_t id : job->constraint->forced()) more = more && emit(*job, id, NAN);
        }
        if (more && job->uncached.empty()) {
          const SampleParams params = sample_params(*job);
          Sample sample;
          device_->ops().sample(&sample, logits_row, &params, 1);
          more = take(*job, sample, logits_row);
        }
        if (more) {
          running_.push_back(std::move(job));
        } else {
          complete(*job);
        }
      },
      [&](const Error& error) { fail(*job, error); });
}

// ---- decoding ----

// The rows of a question in the next step: what is chosen and not cached, then a draft if drafting has paid so far.
void EngineImpl::plan_step(GenerateJob& job, int64_t rows_left) {
  job.step_ids = job.uncached;
  const GenerateRequest& r = job.request;
  if (r.speculate == 0 || r.temperature > 0 || job.constraint || !r.forced.empty()) return;
  if (job.result.drafted >= kDraftTrial && 4 * job.result.accepted < job.result.drafted) return;
  // The last token of an answer need not be cached, so a draft of answer_left - 1 is the longest that can be used.
  const int64_t answer_left = r.max_new_tokens - static_cast<int64_t>(job.result.ids.size());
  const int64_t most = std::min({r.speculate, rows_left, answer_left - 1});
  if (most < 1 || job.uncached.size() != 1) return;
  std::vector<int32_t> history = job.ids;
  history.insert(history.end(), job.uncached.begin(), job.uncached.end());
  const std::vector<int32_t> draft = draft_from(history, most);
  job.step_ids.insert(job.step_ids.end(), draft.begin(), draft.end());
  job.result.drafted += static_cast<int64_t>(draft.size());
  counters_.drafted += static_cast<int64_t>(draft.size());
}

bool EngineImpl::decode_unit() {
  if (running_.empty()) return false;
  std::vector<GenerateJobPtr> jobs = std::move(running_);
  running_.clear();
  in_pass_ = static_cast<int64_t>(jobs.size());
  const int64_t count = static_cast<int64_t>(jobs.size());
  // Long forced runs go through in pieces: the rows of a pass are bounded.
  const int64_t most_rows = space_.language.max_rows() / count;
  int64_t speculative = std::min(kSpeculativeRows, space_.language.max_logits()) - count;
  std::vector<Chunk> chunks;
  std::vector<int64_t> drafted, logits_at;  // drafted rows; first row of logits
  int64_t logits_rows = 0;
  for (const GenerateJobPtr& job : jobs) {
    plan_step(*job, speculative);
    const int64_t certain = static_cast<int64_t>(job->uncached.size());
    const int64_t rows = std::min<int64_t>(most_rows, job->step_ids.size());
    drafted.push_back(std::max<int64_t>(0, rows - certain));
    speculative -= drafted.back();
    const Logits logits = rows < certain ? Logits::none : drafted.back() > 0 ? Logits::all : Logits::last;
    chunks.push_back({&job->sequence, job->step_ids.data(), rows, {}, kRopePerRow, logits});
    logits_at.push_back(logits_rows);
    logits_rows += logits == Logits::none ? 0 : logits == Logits::last ? 1 : rows;
  }
  guarded(
      [&] {
        device_->begin_stage();
        Tensor logits = space_.language.forward(chunks, cache_.kv(), nullptr, [] {});
        // The next token of every question in one call; rows of drafts may stand between theirs.
        std::vector<SampleParams> params;
        std::vector<int64_t> whose;
        for (int64_t i = 0; i < count; ++i) {
          if (chunks[i].logits == Logits::none) continue;
          params.push_back(sample_params(*jobs[i]));
          params.back().row = logits_at[i];
          whose.push_back(i);
        }
        std::vector<Sample> chosen(params.size()), samples(count);
        device_->ops().sample(chosen.data(), logits, params.data(), static_cast<int64_t>(params.size()));
        for (size_t i = 0; i < whose.size(); ++i) samples[whose[i]] = chosen[i];
        counters_.decode_ms += device_->end_stage();
        for (int64_t i = 0; i < count; ++i) {
          const Sample& first = samples[i];
          const int64_t rows = chunks[i].logits == Logits::all ? chunks[i].rows : 1;
          Tensor own = chunks[i].logits == Logits::none ? Tensor() : logits.rows(logits_at[i], rows);
          finish_step(std::move(jobs[i]), chunks[i], drafted[i], own, first);
        }
        ++counters_.steps;
        counters_.step_questions += count;
      },
      [&](const Error& error) {
        in_pass_ = 0;
        for (GenerateJobPtr& job : jobs) {
          if (job) fail(*job, error);
        }
      });
  return true;
}

// What one question made of a step: its rows are cached, and each row of logits that can be trusted chooses a token. An error
// concerns this question alone.
void EngineImpl::finish_step(GenerateJobPtr job, const Chunk& chunk, int64_t drafted, Tensor logits,
                             const Sample& first) {
  --in_pass_;
  guarded(
      [&] {
        const int64_t certain = chunk.rows - drafted;
        job->sequence.length += certain;
        job->ids.insert(job->ids.end(), job->step_ids.begin(), job->step_ids.begin() + certain);
        job->uncached.erase(job->uncached.begin(), job->uncached.begin() + certain);
        bool more = true;
        if (logits) {
          Sample sample = first;
          int64_t row = 0;
          more = take(*job, sample, logits.rows(row, 1));
          while (more && row < drafted && sample.id == job->step_ids[certain + row]) {
            // The draft was right: its row is cached, and its logits choose the next.
            ++job->result.accepted;
            ++counters_.accepted;
            ++job->sequence.length;
            job->ids.push_back(sample.id);
            job->uncached.clear();
            ++row;
            const SampleParams params = sample_params(*job);
            device_->ops().sample(&sample, logits.rows(row, 1), &params, 1);
            more = take(*job, sample, logits.rows(row, 1));
          }
        }
        if (more) {
          running_.push_back(std::move(job));
        } else {
          complete(*job);
        }
      },
      [&](const Error& error) { fail(*job, error); });
}

SampleParams EngineImpl::sample_params(GenerateJob& job) {
  const GenerateRequest& r = job.request;
  const size_t done = job.result.ids.size();
  SampleParams params;
  params.temperature = r.temperature;
  params.top_p = r.top_p;
  if (r.temperature > 0) params.uniform = static_cast<double>(job.random() >> 11) * 0x1p-53;
  params.vocab_limit = std::min(r.vocab_limit, network_.language.vocab);
  params.want_logprob = r.want_logprobs;
  if (static_cast<int64_t>(done) < r.min_new_tokens) {
    params.banned = r.stop_ids.data();
    params.banned_count = static_cast<int64_t>(r.stop_ids.size());
  }
  if (job.constraint) params.allowed = job.constraint->allowed(r.stop_ids, network_.language.vocab);
  if (done < r.forced.size()) params.forced = r.forced[done];
  return params;
}

// A chosen token; false when it was the last.
bool EngineImpl::take(GenerateJob& job, const Sample& sample, Tensor logits_row) {
  if (sample.id < 0) {
    std::vector<float> logits(logits_row.count());
    device_->download(logits.data(), logits_row);
    if (std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); }))
      throw damaged_weights();
    throw Error(Code::internal, "No token can be chosen: all are forbidden.");
  }
  const GenerateRequest& r = job.request;
  GenerateResult& result = job.result;
  const bool forced = result.ids.size() < r.forced.size();
  if (r.want_logits) {
    const size_t first = result.logits.size();
    result.logits.resize(first + logits_row.count());
    device_->download(result.logits.data() + first, logits_row);
  }
  if (!forced && std::find(r.stop_ids.begin(), r.stop_ids.end(), sample.id) != r.stop_ids.end()) {
    result.finish = Finish::stop;
    return false;
  }
  if (!emit(job, sample.id, sample.logprob)) return false;
  if (job.constraint) {
    for (int32_t id : job.constraint->forced()) {
      if (!emit(job, id, NAN)) return false;
    }
  }
  return true;
}

// A token of the answer, to be cached by the next step; false when the answer ends with it.
bool EngineImpl::emit(GenerateJob& job, int32_t id, float logprob) {
  const GenerateRequest& r = job.request;
  GenerateResult& result = job.result;
  job.uncached.push_back(id);
  result.ids.push_back(id);
  ++counters_.decode_tokens;
  if (r.want_logprobs) result.logprobs.push_back(logprob);
  if (r.on_tokens) r.on_tokens(&id, 1);
  if (job.constraint) {
    if (!job.constraint->advance(id)) throw Error(Code::internal, "A chosen token left the automaton.");
    if (job.constraint->finished()) {
      result.finish = Finish::stop;
      return false;
    }
  }
  if (static_cast<int64_t>(result.ids.size()) == r.max_new_tokens) {
    result.finish = Finish::length;
    return false;
  }
  if (r.control->finish) {
    result.finish = Finish::cancelled;
    return false;
  }
  return true;
}

void EngineImpl::complete(GenerateJob& job) {
  job.result.decode_ms = ms_since(job.phase_start);
  if (job.request.keep) {
    auto scene = std::make_shared<Scene>();
    scene->dialogue = true;
    scene->place_of = job.takes_place ? job.request.scene : 0;
    CachedTokens& cached = scene->cached.emplace();
    cached.rope_regime = job.prompt.rope_regime;
    cached.pending = std::move(job.uncached);
    cached.ids = std::move(job.ids);
    cached.tiles = std::move(job.tiles);
    cached.image_tokens = job.image_tokens;
    job.sequence.trim(job.sequence.length);
    cached.sequence = std::move(job.sequence);
    job.result.scene = scene->id = next_scene_++;
    scenes_.emplace(scene->id, std::move(scene));
  }
  job.sequence.release();
  publish_stats();  // whoever hears of the answer finds its pages free
  job.request.on_done(std::move(job.result));
}

void EngineImpl::fail(GenerateJob& job, const Error& error) {
  job.scene.reset();
  job.sequence.release();
  publish_stats();
  job.request.on_error(error);
}

}  // namespace drivlm
