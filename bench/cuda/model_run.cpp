#include "model_run.h"

#include <algorithm>
#include <future>

namespace drivlm::gpu {

ModelRun::ModelRun(const RandomWeights& weights, const DeviceOptions& device) : network_(weights.source().network) {
  EngineOptions options;
  static_cast<DeviceOptions&>(options) = device;
  options.max_batch = 8;
  const std::atomic<bool> cancel{false};
  engine_ = Engine::load(weights.source(), options, {}, cancel);
  // Pictures larger than their cells in the canvas, as nuScenes' 1600 x 900 are at 896 x 448: flat and busy parts.
  const bool small = network_.vision.tile_size < 448;
  const int64_t width = small ? 200 : 1600, height = small ? 112 : 900;
  for (uint32_t view = 0; view < 6; ++view) {
    Pixels picture{std::vector<uint8_t>(static_cast<size_t>(width * height * 3)), width, height};
    uint32_t state = view + 1;
    for (size_t i = 0; i < picture.rgb.size(); ++i) {
      state = state * 1664525u + 1013904223u;
      picture.rgb[i] = static_cast<uint8_t>((i / 300 + 40 * view + (i % 2 ? state >> 28 : 0)) & 0xff);
    }
    pictures_.push_back(std::move(picture));
  }
}

int64_t ModelRun::scene_tokens() const { return kSystemTokens + kTiles * network_.vision.tile_tokens(); }

std::vector<int32_t> ModelRun::ids(int64_t count, uint32_t seed) const {
  std::vector<int32_t> out(static_cast<size_t>(count));
  for (int32_t& id : out) {
    seed = seed * 1664525u + 1013904223u;
    id = static_cast<int32_t>((seed >> 8) % static_cast<uint32_t>(network_.language.vocab));
  }
  return out;
}

SceneRequest ModelRun::scene() const {
  SceneRequest request;
  request.ids = ids(kSystemTokens, 1);
  request.ids.insert(request.ids.end(), static_cast<size_t>(kTiles * network_.vision.tile_tokens()), -1);
  const int64_t size = network_.vision.tile_size;
  const Grid grid{6, 2, true};
  const auto side_by_side = [](int64_t count, const auto& work) {
    std::vector<std::future<void>> parts;
    for (int64_t i = 0; i < count; ++i) parts.push_back(std::async(std::launch::async, [&work, i] { work(i); }));
    for (std::future<void>& part : parts) part.get();
  };
  Canvas canvas;
  canvas.columns = 3;
  canvas.cells.resize(pictures_.size());
  side_by_side(static_cast<int64_t>(pictures_.size()), [&](int64_t i) {
    PixelRows rows(pictures_[static_cast<size_t>(i)]);
    canvas.cells[static_cast<size_t>(i)] = std::make_shared<const Pixels>(make_cell(rows, 2 * size, size, nullptr));
  });
  std::vector<std::unique_ptr<Rows>> readers;
  for (int64_t i = 0; i < TileCutter::parts(grid, true); ++i) readers.push_back(std::make_unique<CanvasRows>(canvas));
  TileCutter cutter(std::move(readers), grid, size);
  side_by_side(cutter.parts(), [&](int64_t i) { cutter.part(i); });
  request.images.push_back(cutter.tiles());
  return request;
}

GenerateRequest ModelRun::question(int64_t scene, int64_t tokens, int64_t answer) const {
  GenerateRequest request;
  request.scene = scene;
  request.ids = ids(tokens, 2);
  request.forced = ids(answer, 3);
  request.max_new_tokens = answer;
  request.vocab_limit = network_.language.vocab;
  return request;
}

SceneResult ModelRun::see(SceneRequest request) {
  SceneResult result;
  bool done = false;
  std::unique_ptr<Error> failure;
  request.on_done = [&](SceneResult got) { result = std::move(got), done = true; };
  request.on_error = [&](const Error& error) { failure = std::make_unique<Error>(error); };
  engine_->submit(std::move(request));
  while (!done && !failure) engine_->step();
  if (failure) throw *failure;
  return result;
}

std::vector<GenerateResult> ModelRun::ask(std::vector<GenerateRequest> requests) {
  std::vector<GenerateResult> results(requests.size());
  size_t done = 0;
  std::unique_ptr<Error> failure;
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].on_done = [&results, &done, i](GenerateResult got) { results[i] = std::move(got), ++done; };
    requests[i].on_error = [&failure](const Error& error) { failure = std::make_unique<Error>(error); };
    engine_->submit(std::move(requests[i]));
  }
  while (done < results.size() && !failure) engine_->step();
  if (failure) throw *failure;
  return results;
}

}  // namespace drivlm::gpu
