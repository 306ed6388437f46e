// An engine over the CPU device with a network of two layers and random weights, for tests of the scheduling.
#pragma once

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "network/parameters.h"
#include "serve/engine.h"

namespace drivlm::test {

constexpr int64_t kTileSize = 56, kTileTokens = 4, kVocab = 96;

inline NetworkDescription tiny_network() {
  NetworkDescription network;
  network.vision = {
      32, 2, 2, 16, 64, 14, kTileSize, 4, true, 1e-6f, true, false, 2, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};
  network.projector = {1e-5f, 2};
  network.language = {32, 2, 2, 1, 16, 64, kVocab, 1e-6f, true, false, false, {}};
  return network;
}

// A file of random weights, which goes with it. `damage` puts NaN in place of the head's.
struct TinySource {
  ModelSource source;

  explicit TinySource(bool damage = false) {
    source.network = tiny_network();
    std::string path = (std::filesystem::temp_directory_path() / "drivlm-tiny-XXXXXX").string();
    ::close(::mkstemp(path.data()));
    std::ofstream file(path, std::ios::binary);
    Random random(7);
    int64_t offset = 0;
    for (const Parameter& parameter : parameters(source.network)) {
      std::vector<float> values = random.floats(parameter.count(), 0.5f);
      if (damage && parameter.role.find("head") != std::string::npos) values.assign(values.size(), NAN);
      file.write(reinterpret_cast<const char*>(values.data()),
                 static_cast<std::streamsize>(values.size() * sizeof(float)));
      source.tensors.push_back(
          {parameter.role, DType::f32, parameter.shape, {{0, offset, parameter.rows(), DType::f32}}});
      offset += static_cast<int64_t>(values.size() * sizeof(float));
    }
    source.files = {path};
    source.file_bytes = {offset};
  }
  ~TinySource() { ::unlink(source.files[0].c_str()); }
  TinySource(const TinySource&) = delete;
};

inline std::unique_ptr<Engine> tiny_engine(int64_t kv_tokens, int64_t max_batch, bool damage = false,
                                           int64_t vision_cache_bytes = 0, int64_t max_scenes = 1 << 30,
                                           bool evict = false) {
  const TinySource tiny(damage);
  EngineOptions options;
  options.precision = DType::f32;
  options.max_context = 512;
  options.kv_tokens = kv_tokens;
  options.max_batch = max_batch;
  options.vision_cache_bytes = vision_cache_bytes;
  options.max_scenes = max_scenes;
  options.evict = evict;
  const std::atomic<bool> go_on{false};
  return Engine::load(tiny.source, options, [](int64_t, int64_t) {}, go_on);
}

// What came of a request.
template <class Result>
struct Outcome {
  std::shared_ptr<JobControl> control = std::make_shared<JobControl>();
  bool done = false, failed = false;
  int64_t claim = 0;  // of a question that found its scene evicted
  Result result{};
  Code code = Code::internal;
  std::string message;
  bool ended() const { return done || failed || claim > 0; }
};

template <class Request, class Result>
std::shared_ptr<Outcome<Result>> follow(Request& request) {
  auto outcome = std::make_shared<Outcome<Result>>();
  request.control = outcome->control;
  request.on_done = [outcome](Result result) {
    outcome->result = std::move(result);
    outcome->done = true;
  };
  request.on_error = [outcome](const Error& error) {
    outcome->code = error.code;
    outcome->message = error.what();
    outcome->failed = true;
  };
  if constexpr (requires { request.on_evicted; })
    request.on_evicted = [outcome](int64_t claim) { outcome->claim = claim; };
  return outcome;
}

// A scene of `count` tiles whose pixels follow from the seed.
inline auto see(Engine& engine, int64_t count, unsigned seed, int64_t again = 0) {
  SceneRequest request;
  request.scene = again;
  Random random(seed);
  auto tiles = std::make_shared<Tiles>(count, kTileSize);
  for (int64_t tile = 0; tile < count; ++tile) {
    for (int64_t i = 0; i < tiles->tile_bytes(); ++i) tiles->tile(tile)[i] = static_cast<uint8_t>(random());
    tiles->hash(tile);
  }
  request.ids = {static_cast<int32_t>(seed % 7)};
  request.ids.insert(request.ids.end(), count * kTileTokens, -1);
  request.images.push_back(tiles);
  auto outcome = follow<SceneRequest, SceneResult>(request);
  engine.submit(std::move(request));
  return outcome;
}

inline auto ask(Engine& engine, int64_t scene, int64_t tokens, bool keep = false,
                std::vector<int32_t> ids = {11, 12, 13}, int64_t claim = 0) {
  GenerateRequest request;
  request.scene = scene;
  request.claim = claim;
  request.ids = std::move(ids);
  request.max_new_tokens = request.min_new_tokens = tokens;
  request.vocab_limit = kVocab;
  request.keep = keep;
  auto outcome = follow<GenerateRequest, GenerateResult>(request);
  engine.submit(std::move(request));
  return outcome;
}

inline auto score(Engine& engine, int64_t scene, std::vector<std::vector<int32_t>> continuations, int64_t claim = 0) {
  ScoreRequest request;
  request.scene = scene;
  request.claim = claim;
  request.ids = {11, 12, 13};
  request.continuations = std::move(continuations);
  request.vocab_limit = kVocab;
  auto outcome = follow<ScoreRequest, std::vector<std::vector<float>>>(request);
  engine.submit(std::move(request));
  return outcome;
}

// Steps until it has ended; how many it took, or -1 after `most`.
template <class Result>
int64_t steps_until(Engine& engine, const Outcome<Result>& outcome, int64_t most = 5000) {
  for (int64_t steps = 0; steps < most; ++steps) {
    if (outcome.ended()) return steps;
    engine.step();
  }
  return outcome.ended() ? most : -1;
}

}  // namespace drivlm::test
