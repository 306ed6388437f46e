#include "serve/engine.h"

#include <array>
#include <chrono>
#include <optional>

#include "device/registry.h"
#include "serve/engine_impl.h"

namespace drivlm {

namespace {

constexpr int64_t kPageTokens = 64;
// Units of other work that a scene or a list of choices lets go before its own, at most: docs/decisions/0019. With both waiting, one more.
constexpr int64_t kMostPassedOver = 4;
// Rows of logits a pass gives at least: the choices of a question in one go, and drafts beside running questions. f32, so 19 MiB
// for a vocabulary of 152 000.
constexpr int64_t kLogitRows = 32;
// The shortest context that is proposed where a model does not fit.
constexpr int64_t kLeastContext = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t most_tiles(const NetworkDescription& network, const EngineOptions& options) {
  return std::max<int64_t>(1, options.max_context / network.vision.tile_tokens());
}

void check_options(const EngineOptions& o) {
  auto range = [](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
      throw Error(Code::bad_argument,
                  text("Expected %lld to %lld for options.%s, received %lld.", static_cast<long long>(low),
                       static_cast<long long>(high), name, static_cast<long long>(value)));
    }
  };
  range("threads", o.threads, 1, 1024);
  range("maxContext", o.max_context, 16, 1 << 20);
  if (o.kv_tokens < 16 || o.kv_tokens > int64_t{1} << 28) {
    throw Error(Code::bad_argument,
                text("options.kvMemory holds %lld tokens; expected room for 16 to %lld.",
                     static_cast<long long>(o.kv_tokens), static_cast<long long>(int64_t{1} << 28)));
  }
  range("maxBatch", o.max_batch, 1, 256);
  range("maxScenes", o.max_scenes, 1, 1 << 30);
  range("visionCache", o.vision_cache_bytes, 0, int64_t{1} << 40);
  range("maxMemory", o.max_memory_bytes, 0, int64_t{1} << 53);
}

KvShape kv_shape(const NetworkDescription& n, const EngineOptions& o) {
  return {n.language.layers,
          n.language.kv_heads,
          n.language.head_dim,
          kPageTokens,
          ceil_div(o.kv_tokens, kPageTokens),
          o.kv};
}

PassLimits pass_limits(const NetworkDescription& n, const EngineOptions& options, const Workspace& workspace) {
  PassLimits limits{workspace.language.max_rows(), options.max_batch, options.max_context, n.language.vocab};
  const int64_t tiles = workspace.vision.max_tiles();
  const auto reads = [&](int64_t rows, int64_t width) {
    limits.input_rows = std::max(limits.input_rows, rows);
    limits.input_values = std::max(limits.input_values, rows * width);
  };
  reads(tiles * n.vision.positions(), std::max(n.vision.dim, n.vision.ffn_dim));
  reads(tiles * n.vision.tile_tokens(), std::max(4 * n.vision.dim, n.language.dim));
  reads(limits.rows, std::max({n.language.dim, n.language.q_dim(), n.language.ffn_dim}));
  const auto holds = [&](int64_t rows, int64_t cols) {
    limits.matrix_rows = std::max(limits.matrix_rows, rows);
    limits.matrix_values = std::max(limits.matrix_values, rows * ceil_div(cols, 128) * 128);
  };
  const LanguageConfig& l = n.language;
  limits.row_widths = {n.vision.dim, n.vision.ffn_dim, l.dim, l.ffn_dim};
  limits.norm_width = std::max(4 * n.vision.dim, l.dim);
  limits.tower_head_dim = n.vision.head_dim;
  holds(l.qkv_dim(), l.dim), holds(l.dim, l.q_dim()), holds(2 * l.ffn_dim, l.dim), holds(l.dim, l.ffn_dim);
  return limits;
}

MemoryPlan make_plan(const NetworkDescription& network, const EngineOptions& options, Device& device, DType stored) {
  const KvShape shape = kv_shape(network, options);
  KvShape one = shape;
  one.pages = 1;
  Arena measure;
  const Weights none;
  const Workspace workspace(network, none, device, options, measure);
  device.ops().reserve(pass_limits(network, options, workspace));
  MemoryPlan plan;
  plan.weights_bytes = static_cast<int64_t>(weights_bytes(network, device, stored));
  plan.kv_bytes = static_cast<int64_t>(device.kv_bytes(shape));
  plan.arena_bytes = static_cast<int64_t>(measure.used() + device.own_bytes());
  plan.kv_bytes_per_token = static_cast<int64_t>(device.kv_bytes(one)) / kPageTokens;
  plan.page_tokens = kPageTokens;
  const size_t free = device.free_bytes();
  plan.free_bytes = free > INT64_MAX / 2 ? INT64_MAX : static_cast<int64_t>(free + device.own_bytes());
  return plan;
}

DType stored_type(const ModelSource& source) {
  return source.tensors.empty() ? DType::bf16 : source.tensors.front().dtype;
}

int64_t total_bytes(const MemoryPlan& plan) { return plan.weights_bytes + plan.kv_bytes + plan.arena_bytes; }

std::string mib(int64_t bytes) { return text("%.1f MiB", static_cast<double>(bytes) / (1 << 20)); }

constexpr const char* kWeightNames[] = {"bf16", "int8", "int4"};

// What a model takes under other settings, without loading it: on `device`, or on one of its own where weights are in another format.
class OtherPlans {
 public:
  OtherPlans(const NetworkDescription& network, const EngineOptions& options, Device& device, DType stored)
      : network_(network), options_(options), device_(device), stored_(stored) {}

  // Its options, if the model fits into `room` bytes with them.
  std::optional<EngineOptions> fit(int64_t room, WeightFormat weights, KvFormat kv, int64_t max_context) {
    EngineOptions other = options_;
    other.weights = weights, other.kv = kv;
    if (max_context != options_.max_context)
      other.max_context = max_context, other.kv_tokens = std::min(options_.kv_tokens, 2 * max_context);
    try {
      if (total_bytes(make_plan(network_, other, device_of(other), stored_)) <= room) return other;
    } catch (const Error&) {  // heads that the cache has no format for, or a GPU with no room for a second device
    }
    return std::nullopt;
  }

 private:
  Device& device_of(const EngineOptions& other) {
    if (other.weights == options_.weights) return device_;
    std::unique_ptr<Device>& made = made_[static_cast<size_t>(other.weights)];
    if (!made) made = make_device(other);
    return *made;
  }

  const NetworkDescription& network_;
  const EngineOptions& options_;
  Device& device_;
  const DType stored_;
  std::array<std::unique_ptr<Device>, 3> made_;
};

// Settings under which the model fits into `room` bytes, one of which is enough; where none is, several that are enough together.
std::vector<std::string> what_would_fit(const MemoryPlan& plan, int64_t room, const NetworkDescription& network,
                                        const EngineOptions& options, Device& device, DType stored) {
  std::vector<std::string> settings;
  const int64_t page_bytes = plan.kv_bytes_per_token * plan.page_tokens;
  if (const int64_t pages = (room - plan.weights_bytes - plan.arena_bytes) / page_bytes; pages >= 1) {
    settings.push_back(text("kvMemory: %lld (%lld tokens in all)", static_cast<long long>(pages * page_bytes),
                            static_cast<long long>(pages * plan.page_tokens)));
  }
  OtherPlans plans(network, options, device, stored);
  for (int64_t context = options.max_context / 2; context >= kLeastContext; context /= 2) {
    const auto other = plans.fit(room, options.weights, options.kv, context);
    if (!other) continue;
    settings.push_back(text("maxContext: %lld with a KV cache of %lld tokens", static_cast<long long>(context),
                            static_cast<long long>(other->kv_tokens)));
    break;
  }
  if (options.precision != DType::bf16) return settings;
  std::vector<KvFormat> caches{options.kv};
  if (options.kv == KvFormat::activation) {
    caches.push_back(KvFormat::int8);
    if (plans.fit(room, options.weights, KvFormat::int8, options.max_context)) settings.push_back("kvCache: 'int8'");
  }
  std::vector<WeightFormat> formats;
  for (int format = static_cast<int>(options.weights); format <= static_cast<int>(WeightFormat::int4); ++format)
    formats.push_back(static_cast<WeightFormat>(format));
  for (size_t i = 1; i < formats.size(); ++i) {
    if (!plans.fit(room, formats[i], options.kv, options.max_context)) continue;
    settings.push_back(text("weights: '%s'", kWeightNames[static_cast<int>(formats[i])]));
    break;
  }
  // A moment of six cameras is 3,328 tokens: shorter contexts than 4,096 come after every format.
  for (int64_t least = 4096, most = options.max_context; settings.empty() && least >= kLeastContext;
       most = std::min(most, least / 2), least /= 2) {
    for (const WeightFormat format : formats) {
      for (const KvFormat cache : caches) {
        for (int64_t context = most; settings.empty() && context >= least; context /= 2) {
          if (!plans.fit(room, format, cache, context)) continue;
          settings.push_back(text("weights: '%s', kvCache: '%s' and maxContext: %lld together",
                                  kWeightNames[static_cast<int>(format)], cache == KvFormat::int8 ? "int8" : "bf16",
                                  static_cast<long long>(context)));
        }
      }
    }
  }
  return settings;
}

// The plan, if it keeps to maxMemory and to what the device has left. Throws OUT_OF_MEMORY.
MemoryPlan check_budget(const MemoryPlan& plan, const NetworkDescription& network, const EngineOptions& options,
                        Device& device, DType stored) {
  const bool asked = options.max_memory_bytes > 0 && options.max_memory_bytes < plan.free_bytes;
  const int64_t room = asked ? options.max_memory_bytes : plan.free_bytes, missing = total_bytes(plan) - room;
  if (missing <= 0) return plan;
  std::string fit;
  for (const std::string& setting : what_would_fit(plan, room, network, options, device, stored))
    fit += (fit.empty() ? "" : "; or ") + setting;
  throw Error(
      Code::out_of_memory,
      text("The model takes %s on %s (weights %s, KV cache %s, scratch %s); %s %s, %s are missing. %s%s.",
           mib(total_bytes(plan)).c_str(), options.device.c_str(), mib(plan.weights_bytes).c_str(),
           mib(plan.kv_bytes).c_str(), mib(plan.arena_bytes).c_str(),
           asked ? "options.maxMemory allows" : "the device has", mib(room).c_str(), mib(missing).c_str(),
           fit.empty() ? "No smaller cache or context makes it fit: load a smaller model" : "It would fit with ",
           fit.c_str()));
}

Weights load_through_cache(const ModelSource& source, const EngineOptions& options, Device& device,
                           const Progress& progress, const std::atomic<bool>& cancel, LoadReport& report) {
  const auto timed = [](double& ms, const auto& part) {
    const auto begin = std::chrono::steady_clock::now();
    part();
    ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  };
  WeightCache cache(options.weight_cache);
  Weights weights;
  timed(report.cache_ms, [&] { cache.check(options.threads, cancel); });
  timed(report.weights_ms, [&] { weights = load_weights(source, &cache, device, progress, cancel); });
  timed(report.cache_ms, [&] { report.cache = cache.finish(cancel); });
  return weights;
}

}  // namespace

Workspace::Workspace(const NetworkDescription& network, const Weights& weights, Device& device,
                     const EngineOptions& options, Arena& arena)
    : vision(network, weights.vision, weights.projector, device.ops(), device.activation(),
             std::clamp<int64_t>(device.vision_rows() / network.vision.positions(), 1, most_tiles(network, options)),
             arena),
      language(network.language, weights.decoder, device, options.max_context,
               std::max(device.prefill_rows(), options.max_batch), std::max(kLogitRows, options.max_batch), arena) {
  const int64_t size = network.vision.tile_size, dim = network.language.dim;
  tiles = arena.take(DType::u8, {vision.max_tiles(), size, size, 3});
  image_tokens = arena.take(device.activation(), {most_tiles(network, options) * network.vision.tile_tokens(), dim});
  if (language.rope().depends_on_length()) {
    chunk_tokens = arena.take(device.activation(), {language.max_rows(), dim});
  }
}

EngineImpl::EngineImpl(const ModelSource& source, const EngineOptions& options, const Progress& progress,
                       const std::atomic<bool>& cancel)
    : network_(source.network),
      options_(options),
      device_(make_device(options)),
      plan_(check_budget(make_plan(network_, options, *device_, stored_type(source)), network_, options, *device_,
                         stored_type(source))),
      arena_memory_(device_->allocate(plan_.arena_bytes - device_->own_bytes(), "The arena")),
      kv_memory_(device_->allocate(plan_.kv_bytes, "The KV cache")),
      weights_(load_through_cache(source, options, *device_, progress, cancel, load_report_)),
      arena_(arena_memory_->data, arena_memory_->bytes),
      space_(network_, weights_, *device_, options, arena_),
      cache_(device_->ops(), {kv_memory_->data, kv_shape(network_, options)}),
      vision_cache_(options.vision_cache_bytes) {
  publish_stats();
}

// ---- requests ----

void EngineImpl::submit(SceneRequest request) {
  auto job = std::make_unique<SceneJob>();
  job->request = std::move(request);
  if (!job->request.control) job->request.control = std::make_shared<JobControl>();
  guarded(
      [&] {
        if (lost_) throw *lost_;
        check(job->request);
        job->age = ++clock_;
        seeing_.push_back(std::move(job));
      },
      [&](const Error& error) { job->request.on_error(error); });
  publish_stats();
}

void EngineImpl::submit(GenerateRequest request) {
  auto job = std::make_unique<GenerateJob>();
  job->request = std::move(request);
  if (!job->request.control) job->request.control = std::make_shared<JobControl>();
  job->random.seed(job->request.seed);
  guarded(
      [&] {
        job->age = age_of(job->request.scene, job->request.claim);
        if (lost_) throw *lost_;
        check(job->request);
        if (job->request.automaton) {
          if (!vocabulary_) throw Error(Code::internal, "An automaton was given before the vocabulary.");
          check_automaton(*job->request.automaton);
          job->constraint.emplace(job->request.automaton, vocabulary_);
        }
        job->scene = scene_to_ask(job->request.scene, job->request.ids);
        if (job->scene && !job->scene->cached) return tell_evicted(*job);
        const int64_t room = options_.max_context - tokens_before_answer(job->scene.get(), job->request.ids);
        job->request.max_new_tokens = std::min(job->request.max_new_tokens, room);
        waiting_.push_back(std::move(job));
      },
      [&](const Error& error) { job->request.on_error(error); });
  publish_stats();
}

void EngineImpl::submit(ScoreRequest request) {
  auto job = std::make_unique<ScoreJob>();
  job->request = std::move(request);
  if (!job->request.control) job->request.control = std::make_shared<JobControl>();
  guarded(
      [&] {
        const ScoreRequest& r = job->request;
        job->age = age_of(r.scene, r.claim);
        if (lost_) throw *lost_;
        check_ids(r.ids);
        if (r.continuations.empty() || r.continuations.size() > 4096)
          throw Error(Code::bad_argument, "Expected 1 to 4096 continuations.");
        if (r.vocab_limit < 1) throw Error(Code::bad_argument, "vocabLimit must be at least 1.");
        size_t longest = 0;
        for (const auto& continuation : r.continuations) {
          check_ids(continuation);
          if (continuation.empty()) throw Error(Code::bad_argument, "A continuation needs at least one token.");
          longest = std::max(longest, continuation.size());
        }
        job->scene = scene_to_ask(r.scene, r.ids);
        if (job->scene && !job->scene->cached) return tell_evicted(*job);
        if (tokens_before_answer(job->scene.get(), r.ids) + static_cast<int64_t>(longest) > options_.max_context) {
          throw Error(
              Code::context_overflow,
              text("The longest choice takes %zu tokens, which do not fit beside the question into a context of %lld.",
                   longest, static_cast<long long>(options_.max_context)));
        }
        scoring_.push_back(std::move(job));
      },
      [&](const Error& error) { job->request.on_error(error); });
  publish_stats();
}

void EngineImpl::check_ids(const std::vector<int32_t>& ids) const {
  for (int32_t id : ids) {
    if (id < 0 || id >= network_.language.vocab)
      throw Error(Code::bad_argument, text("Token id %d is outside the vocabulary.", id));
  }
}

// The scene a question is about; null without one. Throws if the question is empty or does not fit beside the scene, should that be in the cache.
std::shared_ptr<Scene> EngineImpl::scene_to_ask(int64_t id, const std::vector<int32_t>& ids) const {
  std::shared_ptr<Scene> scene;
  if (id != 0) {
    const auto found = scenes_.find(id);
    if (found == scenes_.end()) throw Error(Code::disposed, "The scene was disposed.");
    scene = found->second;
    if (!scene->cached) return scene;
  }
  const int64_t cached = scene ? scene->cached->sequence.length : 0;
  const int64_t total = tokens_before_answer(scene.get(), ids);
  if (total == cached) throw Error(Code::bad_argument, "A question needs at least one token.");
  if (total >= options_.max_context) {
    throw Error(
        Code::context_overflow,
        text(
            "The question takes %lld tokens beside %lld of the scene; the context holds %lld, and an answer needs room. "
            "Ask a shorter question, or load the model with a larger maxContext.",
            static_cast<long long>(total - cached), static_cast<long long>(cached),
            static_cast<long long>(options_.max_context)));
  }
  return scene;
}

int64_t EngineImpl::tokens_before_answer(const Scene* scene, const std::vector<int32_t>& ids) const {
  int64_t tokens = static_cast<int64_t>(ids.size());
  if (scene) tokens += scene->cached->sequence.length + static_cast<int64_t>(scene->cached->pending.size());
  return tokens;
}

// The question holds the scene's pages from now on: the scene may be released or evicted.
void EngineImpl::fork_scene(Question& question, const std::vector<int32_t>& ids) {
  question.prompt = {};
  if (question.scene) {
    const CachedTokens& cached = *question.scene->cached;
    question.sequence = cache_.fork(cached.sequence);
    question.ids = cached.ids;
    question.tiles = cached.tiles;
    question.prompt.ids = cached.pending;
    question.prompt.rope_regime = cached.rope_regime;
    question.image_tokens = cached.image_tokens;
  }
  question.prompt.ids.insert(question.prompt.ids.end(), ids.begin(), ids.end());
}

// Goes on from the scene, with room for the prompt and `extra_tokens` after it. False, and the question holds nothing, if the pool has too few
// pages. Rotations that depend on the prompt's length make a question prefill its scene anew when it crosses the limit: the reference
// rotates the whole prompt under the regime of its length.
bool EngineImpl::begin(Question& question, const std::vector<int32_t>& ids, int64_t extra_tokens) {
  fork_scene(question, ids);
  const int64_t total = question.sequence.length + question.prompt.left();
  const int64_t regime = space_.language.rope().regime(total);
  if (question.sequence.length > 0 && regime != question.prompt.rope_regime) {
    question.sequence.release();
    question.prompt.ids.insert(question.prompt.ids.begin(), question.ids.begin(), question.ids.end());
    question.ids.clear();
  }
  question.prompt.rope_regime = regime;
  if (cache_.reserve(question.sequence, total + extra_tokens)) {
    question.scene.reset();
    return true;
  }
  pages_lacking_ = cache_.pages_needed(question.sequence, total + extra_tokens);
  question.sequence.release();
  question.ids.clear();
  return false;
}

// ---- one unit of work ----

bool EngineImpl::step() {
  bool worked = drop_cancelled();
  worked |= admit_waiting();
  worked |= model_unit();
  worked |= decode_unit();
  if (lost_) fail_all(*lost_);
  publish_stats();
  return worked;
}

// One unit of a prefill, a score or a scene. A question's prefill is short and somebody waits for its first word, so it goes first; but not
// for ever: what was passed over kMostPassedOver times is next.
bool EngineImpl::model_unit() {
  std::array<size_t, 3> order = {0, 1, 2};
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const auto due = [&](size_t kind) { return passed_over_[kind] >= kMostPassedOver ? passed_over_[kind] : 0; };
    return due(a) > due(b);
  });
  bool worked = false;
  for (size_t kind : order) {
    const bool ready = kind == 0 ? !prefilling_.empty() : kind == 1 ? !scoring_.empty() : !seeing_.empty();
    if (!ready) {
      passed_over_[kind] = 0;
    } else if (worked) {
      ++passed_over_[kind];
    } else {
      const Progressed progressed = kind == 0 ? prefill_unit() : kind == 1 ? score_unit() : scene_unit();
      if (progressed == Progressed::waits) continue;  // for pages: its turn stays due
      worked = true;
      passed_over_[kind] = 0;
    }
  }
  return worked;
}

bool EngineImpl::drop_cancelled() {
  bool dropped = false;
  auto sweep = [&](auto& jobs, const auto& on_drop) {
    for (auto it = jobs.begin(); it != jobs.end();) {
      if (!(*it)->request.control->cancel) {
        ++it;
        continue;
      }
      auto job = std::move(*it);
      it = jobs.erase(it);
      on_drop(*job);
      dropped = true;
    }
  };
  sweep(seeing_, [&](SceneJob& job) {
    job.sequence.release();
    publish_stats();
    job.request.on_error(aborted());
  });
  sweep(scoring_, [&](ScoreJob& job) {
    end(job);
    publish_stats();
    job.request.on_error(aborted());
  });
  auto end_question = [&](GenerateJob& job) { fail(job, aborted()); };
  sweep(waiting_, end_question);
  sweep(prefilling_, end_question);
  sweep(running_, end_question);
  return dropped;
}

void EngineImpl::fail_all(const Error& error) {
  for (auto& job : seeing_) {
    job->sequence.release();
    job->request.on_error(error);
  }
  seeing_.clear();
  for (auto& job : scoring_) {
    end(*job);
    job->request.on_error(error);
  }
  scoring_.clear();
  auto fail_each = [&](auto& jobs) {
    for (auto& job : jobs) fail(*job, error);
    jobs.clear();
  };
  fail_each(waiting_);
  fail_each(prefilling_);
  fail_each(running_);
  publish_stats();
}

EngineStats EngineImpl::stats() const {
  std::lock_guard lock(stats_mutex_);
  return published_;
}

void EngineImpl::publish_stats() {
  counters_.pages_total = cache_.pages_total();
  counters_.pages_used = cache_.pages_total() - cache_.pages_free();
  counters_.scenes =
      std::count_if(scenes_.begin(), scenes_.end(), [](const auto& one) { return one.second->cached.has_value(); });
  counters_.running = static_cast<int64_t>(running_.size() + prefilling_.size()) + in_pass_;
  counters_.waiting = static_cast<int64_t>(waiting_.size() + seeing_.size() + scoring_.size());
  counters_.vision_cache_bytes = vision_cache_.bytes();
  std::lock_guard lock(stats_mutex_);
  published_ = counters_;
}

std::unique_ptr<Engine> Engine::load(const ModelSource& source, const EngineOptions& options, const Progress& progress,
                                     const std::atomic<bool>& cancel) {
  source.network.validate();
  check_options(options);
  return std::make_unique<EngineImpl>(source, options, progress, cancel);
}

MemoryPlan Engine::plan(const NetworkDescription& network, const EngineOptions& options, DType stored) {
  network.validate();
  check_options(options);
  return make_plan(network, options, *make_device(options), stored);
}

}  // namespace drivlm
