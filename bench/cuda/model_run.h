// An engine driven without JavaScript: six views in, tokens out.
#pragma once

#include <memory>

#include "image/canvas.h"
#include "network.h"
#include "serve/engine.h"

namespace drivlm::gpu {

class ModelRun {
 public:
  ModelRun(const RandomWeights& weights, const DeviceOptions& device);

  // The views as the DriveLM canvas, 3 x 2, in 6 x 2 tiles and a thumbnail, prepared on as many threads as the addon does it on.
  SceneRequest scene() const;
  // A question of `tokens` after a scene, answered by `answer` ids that are given.
  GenerateRequest question(int64_t scene, int64_t tokens, int64_t answer) const;

  // Both throw what the engine says.
  SceneResult see(SceneRequest request);
  std::vector<GenerateResult> ask(std::vector<GenerateRequest> requests);
  void release(int64_t scene) { engine_->release(scene); }

  int64_t scene_tokens() const;
  MemoryPlan memory() const { return engine_->memory(); }

 private:
  std::vector<int32_t> ids(int64_t count, uint32_t seed) const;

  const NetworkDescription network_;
  std::unique_ptr<Engine> engine_;
  std::vector<Pixels> pictures_;
};

constexpr int64_t kTiles = 13, kSystemTokens = 40, kQuestionTokens = 24;

}  // namespace drivlm::gpu
