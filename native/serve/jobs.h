// What the engine keeps of a request while it works on it.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/hash.h"
#include "serve/engine.h"
#include "serve/grammar.h"
#include "serve/kv_cache.h"

namespace drivlm {

using Clock = std::chrono::steady_clock;

inline double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Token ids on their way into the cache, with the image tokens of their slots (-1).
struct Prompt {
  std::vector<int32_t> ids;
  size_t cursor = 0;  // ids before it are cached
  int64_t slot = 0;   // image tokens before it are used
  int64_t rope_regime = 0;
  bool done() const { return cursor == ids.size(); }
  int64_t left() const { return static_cast<int64_t>(ids.size() - cursor); }
};

// What stands in the cache, and is never changed.
struct CachedTokens {
  KvSequence sequence;
  int64_t rope_regime = 0;
  std::vector<int32_t> ids;      // of every cached token; -1 at image slots
  std::vector<Hash128> tiles;    // what the slots show, tile_tokens slots each
  std::vector<int32_t> pending;  // the last answer's tokens that are not cached yet, fed before the next question
  // Host copy of the image tokens, in the activation type; kept only by models whose rotation depends on the prompt's length, which
  // may have to be prefilled anew under another regime.
  std::shared_ptr<const std::vector<char>> image_tokens;
};

// An encoded moment, or a dialogue. It keeps its number while it is evicted.
struct Scene {
  int64_t id = 0;
  std::optional<CachedTokens> cached;  // empty while it is evicted
  bool dialogue = false;               // kept after an answer, and never evicted
  int64_t holders = 1;
  int64_t place_of =
      0;  // of the dialogue that this one goes on from and takes the place of; 0 once that one was given up
  int64_t last_used = 0;     // the engine's count of requests
  std::set<int64_t> claims;  // ages of questions that found it evicted and will come again
};

// Requests in order of asking: what comes again after an eviction keeps its age.
struct Job {
  int64_t age = 0;
  bool waits_for_room = false;  // that others will give back
};

struct SceneJob : Job {
  SceneRequest request;
  SceneResult result;
  Clock::time_point submitted = Clock::now();
  bool reserved = false;
  std::vector<const uint8_t*> tiles;  // each u8 [size, size, 3], in the request's images
  std::vector<Hash128> hashes;        // [tiles]
  std::vector<int64_t> to_encode;     // tiles that are in no cache, in order
  size_t encoded = 0;                 // of to_encode
  KvSequence sequence;
  Prompt prompt;
};

// What questions and scores have in common: a scene's fork and a prompt after it. Both are empty until its pages are reserved.
struct Question : Job {
  std::shared_ptr<Scene> scene;  // until it has begun; alive though it may have been released
  KvSequence sequence;
  Prompt prompt;
  std::vector<int32_t> ids;                               // of every cached token
  std::vector<Hash128> tiles;                             // of the scene
  std::shared_ptr<const std::vector<char>> image_tokens;  // to prefill the scene anew
};

struct GenerateJob : Question {
  GenerateRequest request;
  GenerateResult result;
  Clock::time_point submitted = Clock::now(), phase_start;
  bool takes_place = false;       // the dialogue that is kept takes the place of the one it goes on from
  std::vector<int32_t> uncached;  // chosen and not cached yet; the last one's logits choose the next
  std::vector<int32_t> step_ids;  // rows of the current step: uncached, then drafted
  std::optional<Constraint> constraint;
  std::mt19937_64 random;
};

struct ScoreJob : Question {
  ScoreRequest request;
  Clock::time_point submitted = Clock::now();
  std::vector<std::vector<float>> logprobs;
  bool reserved = false;          // pages of the prompt
  std::vector<KvSequence> forks;  // of the question, one a continuation
  std::vector<size_t> fed;        // ids of each continuation that are cached
};

}  // namespace drivlm
