// The engine: scenes, questions, steps. One thread owns an engine and calls everything but the marked parts.
//
//   submit(SceneRequest)     tiles -> vision -> prefill -> pages of the KV cache: a scene
//   submit(GenerateRequest)  forks a scene, prefills the question, joins the running batch
//   step()                   one unit of work: part of a scene or of a question's prefill, and one token for every
//                            running question
//
// Results go through the callbacks of the request, on the engine's thread, exactly one of on_done, on_error and on_evicted
// per request. on_evicted: the scene made room for others before the question began; see it again by its number, and ask again with the
// claim, which holds the question's place in the order of asking until then.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "image/tiles.h"
#include "network/description.h"
#include "network/probe.h"
#include "packed/packed_file.h"

namespace drivlm {

struct EngineOptions : DeviceOptions {
  int64_t max_context = 4096;      // tokens of the longest sequence
  int64_t kv_tokens = 8192;        // tokens of all sequences together
  int64_t max_batch = 16;          // questions decoded together
  int64_t max_scenes = 1 << 30;    // scenes and dialogues in the cache
  bool evict = false;              // idle scenes make room for others
  int64_t vision_cache_bytes = 0;  // image tokens of tiles seen before, on the host
  int64_t max_memory_bytes = 0;    // weights, KV cache and scratch together; 0: what the device has
  WeightCachePlace weight_cache;
};

// Of a load: what came of the cache, and where the time went.
struct LoadReport {
  WeightCacheReport cache;
  double weights_ms =
      0;  // reading, rounding and packing, which are one pass; of a matrix that was in the cache, taking it
  double cache_ms = 0;  // checking the cache, and writing it
};

// arena_bytes: all scratch, with what the device holds for its ops.
struct MemoryPlan {
  int64_t weights_bytes, kv_bytes, arena_bytes, kv_bytes_per_token, page_tokens;
  int64_t free_bytes;  // what the device has for all of them; INT64_MAX where the system decides
};

// Written by any thread, read by the engine between layers and tokens.
struct JobControl {
  std::atomic<bool> cancel{false};  // give up: on_error(ABORTED)
  std::atomic<bool> finish{false};  // stop generating: on_done with Finish::cancelled
};

struct SceneResult {
  int64_t scene = 0;
  int64_t tokens = 0, image_tokens = 0, tiles = 0;
  int64_t cached_tiles = 0;   // found in the vision cache
  int64_t shared_tokens = 0;  // prefix taken over from a scene that is still there
  double queue_ms = 0, preprocess_ms = 0, vision_ms = 0, prefill_ms = 0;
  Probes probes;
};

struct SceneRequest {
  int64_t scene = 0;                                 // the evicted scene that is seen again; 0: a new one
  std::vector<int32_t> ids;                          // -1: image slot
  std::vector<std::shared_ptr<const Tiles>> images;  // in the order of their slots
  std::vector<std::string> probe;
  std::shared_ptr<JobControl> control;
  std::function<void(SceneResult)> on_done;
  std::function<void(const Error&)> on_error;
};

class Vocabulary;  // serve/grammar.h

enum class Finish { stop, length, cancelled };

struct GenerateResult {
  std::vector<int32_t> ids;
  Finish finish = Finish::length;
  int64_t prompt_tokens = 0;
  double queue_ms = 0, prefill_ms = 0, decode_ms = 0;
  std::vector<float> logits;          // [steps, vocab] when asked for
  std::vector<float> logprobs;        // [ids] when asked for; NaN for a token that an automaton forced
  int64_t drafted = 0, accepted = 0;  // of speculation
  Probes probes;
  int64_t scene = 0;  // with keep
};

// A byte automaton that an answer must follow: state 0 starts, a missing transition is -1. The stop ids may be chosen in accepting states only.
struct Automaton {
  std::vector<int32_t> transitions;  // [states, 256]
  std::vector<uint8_t> accepting;    // [states]
};

struct GenerateRequest {
  int64_t scene = 0;  // 0: empty context
  int64_t claim = 0;  // of on_evicted, when it is asked again
  std::vector<int32_t> ids;
  int64_t max_new_tokens = 0;
  int64_t min_new_tokens = 0;
  float temperature = 0, top_p = 1;
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids;
  int64_t vocab_limit = 0;
  std::vector<int32_t> forced;
  bool want_logits = false, want_logprobs = false, keep = false;
  int64_t speculate = 0;  // tokens drafted from the prompt a step, verified together; greedy only, identical output
  std::shared_ptr<const Automaton> automaton;  // needs Engine::set_vocabulary
  std::vector<std::string> probe;
  std::shared_ptr<JobControl> control;
  std::function<void(const int32_t* ids, int64_t count)> on_tokens;  // may be empty
  std::function<void(GenerateResult)> on_done;
  std::function<void(const Error&)> on_error;
  std::function<void(int64_t claim)> on_evicted;
};

// How likely each continuation is after a scene and a question. Continuations share the question's cache.
struct ScoreRequest {
  int64_t scene = 0;
  int64_t claim = 0;  // as in GenerateRequest
  std::vector<int32_t> ids;
  std::vector<std::vector<int32_t>> continuations;  // at least one id each
  int64_t vocab_limit = 0;
  std::shared_ptr<JobControl> control;
  std::function<void(std::vector<std::vector<float>> logprobs)> on_done;  // natural log, [continuations][ids]
  std::function<void(const Error&)> on_error;
  std::function<void(int64_t claim)> on_evicted;
};

struct EngineStats {
  int64_t pages_total = 0, pages_used = 0, scenes = 0, running = 0, waiting = 0;
  int64_t evicted = 0, reseen = 0;        // scenes
  int64_t steps = 0, step_questions = 0;  // decode steps, and questions summed over them
  int64_t prefill_tokens = 0, decode_tokens = 0;
  int64_t shared_tokens = 0;  // prefill saved by a scene's prefix
  int64_t tiles_encoded = 0, tiles_cached = 0;
  int64_t vision_cache_bytes = 0;
  int64_t drafted = 0, accepted = 0;
  double vision_ms = 0, prefill_ms = 0, decode_ms = 0;
};

// Bytes of weights done of all; called on the loading thread.
using Progress = std::function<void(int64_t done, int64_t total)>;

class Engine {
 public:
  // Maps the files, checks every range, reserves all memory, loads. Throws Error; OUT_OF_MEMORY with what is missing and what would fit;
  // ABORTED when `cancel` becomes true.
  static std::unique_ptr<Engine> load(const ModelSource& source, const EngineOptions& options, const Progress& progress,
                                      const std::atomic<bool>& cancel);

  // What load would reserve for weights stored as `stored`, without reserving it. Any thread.
  static MemoryPlan plan(const NetworkDescription& network, const EngineOptions& options, DType stored);

  virtual ~Engine() = default;
  virtual void submit(SceneRequest request) = 0;
  virtual void submit(GenerateRequest request) = 0;
  virtual void submit(ScoreRequest request) = 0;

  // For requests with an automaton.
  virtual void set_vocabulary(std::shared_ptr<const Vocabulary> vocabulary) = 0;

  // A scene or dialogue has one holder when it comes into being; the last release gives it up. Unknown numbers are ignored.
  virtual void hold(int64_t scene) = 0;
  virtual void release(int64_t scene) = 0;

  // Whoever was told of an eviction will not ask again.
  virtual void withdraw(int64_t scene, int64_t claim) = 0;

  // Scenes that were evicted since the last call. Any thread.
  virtual std::vector<int64_t> take_evicted() = 0;

  // Does one unit of work; false when there is none. Never throws: a failure goes to the requests it concerns.
  virtual bool step() = 0;

  // Ends every request with `error`. For disposal.
  virtual void fail_all(const Error& error) = 0;

  virtual EngineStats stats() const = 0;              // any thread
  virtual MemoryPlan memory() const = 0;              // any thread
  virtual const LoadReport& load_report() const = 0;  // any thread
};

}  // namespace drivlm
