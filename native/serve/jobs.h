// What the engine keeps of a request while it works on it.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <random>
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

// An encoded moment: its tokens stand in the cache and are never changed.
struct Scene {
  KvSequence sequence;
  int64_t rope_regime = 0;
  std::vector<int32_t> ids;      // of every cached token; -1 at image slots
  std::vector<Hash128> tiles;    // what the slots show, tile_tokens slots each
  std::vector<int32_t> pending;  // the last answer's tokens that are not cached yet, fed before the next question
  // Host copy of the image tokens, in the activation type; kept only by models whose rotation depends on the prompt's length, which
  // may have to be prefilled anew under another regime.
  std::shared_ptr<const std::vector<char>> image_tokens;
};

struct SceneJob {
  SceneRequest request;
  SceneResult result;
  Clock::time_point submitted = Clock::now();
  bool started = false, reserved = false;
  bool waits_for_pages = false;       // of work that will give some back
  std::vector<const uint8_t*> tiles;  // each u8 [size, size, 3], in the request's images
  std::vector<Hash128> hashes;        // [tiles]
  std::vector<int64_t> to_encode;     // tiles that are in no cache, in order
  size_t encoded = 0;                 // of to_encode
  KvSequence sequence;
  Prompt prompt;
};

// What questions and scores have in common: a scene's fork and a prompt after it.
struct Question {
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
  std::vector<int32_t> uncached;  // chosen and not cached yet; the last one's logits choose the next
  std::vector<int32_t> step_ids;  // rows of the current step: uncached, then drafted
  std::optional<Constraint> constraint;
  std::mt19937_64 random;
};

struct ScoreJob : Question {
  ScoreRequest request;
  Clock::time_point submitted = Clock::now();
  std::vector<std::vector<float>> logprobs;
  bool reserved = false;  // pages of the prompt
  bool waits_for_pages = false;
  std::vector<KvSequence> forks;  // of the question, one a continuation
  std::vector<size_t> fed;        // ids of each continuation that are cached
};

}  // namespace drivlm
