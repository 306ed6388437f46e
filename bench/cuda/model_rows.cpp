// The whole model end to end, through the same engine as the addon.
#include <algorithm>
#include <thread>

#include "bench.h"
#include "model_run.h"

namespace drivlm::gpu {

namespace {

struct Work {
  double flops, bytes;
};

double layer_weights(const LanguageConfig& l) {
  return static_cast<double>(l.layers) * l.dim * (l.qkv_dim() + l.q_dim() + 3 * l.ffn_dim);
}

// As bench/README.md writes them out.
Work vision_work(const NetworkDescription& n, double tiles) {
  const VisionConfig& v = n.vision;
  const double block = 4.0 * v.dim * v.dim + 2.0 * v.dim * v.ffn_dim,
               patch = static_cast<double>(v.dim) * v.patch_values();
  const double projector = 4.0 * v.dim * n.language.dim + 1.0 * n.language.dim * n.language.dim;
  const double linear =
      2 * (v.positions() * v.output_layer * block + v.patches() * patch + v.tile_tokens() * projector);
  return {tiles * (linear + 4.0 * v.output_layer * v.positions() * v.positions() * v.dim),
          2 * (v.output_layer * block + patch + projector)};
}
Work prefill_work(const LanguageConfig& l, double tokens, double past, bool head) {
  const double weights = layer_weights(l), out = head ? static_cast<double>(l.vocab) * l.dim : 0;
  return {2 * (tokens * weights + out) + 4.0 * l.layers * l.q_dim() * (tokens * past + tokens * (tokens + 1) / 2),
          2 * (weights + out)};
}
// `questions` share the cache of all but their own tokens.
Work step_work(const LanguageConfig& l, double questions, double context) {
  const Work one = prefill_work(l, 1, context, true);
  return {questions * one.flops, one.bytes + 2 * context * l.layers * 2 * l.kv_dim()};
}

}  // namespace

void bench_model(Bench& bench) {
  const bool small = bench.options().small;
  const NetworkDescription n = network(small);
  const LanguageConfig& l = n.language;
  const int64_t scene_tokens = kSystemTokens + kTiles * n.vision.tile_tokens(), context = small ? 160 : 3500;
  const int64_t steps = small ? 3 : 32, most = small ? 3 : 12;
  const auto fresh = [](const std::string& name, const char* unit, Work work) {
    return Row{name, unit, {}, 0, 0, work.flops, work.bytes, {}};
  };
  const Work tower = vision_work(n, kTiles), prefix = prefill_work(l, static_cast<double>(scene_tokens), 0, false);
  const Work asked = prefill_work(l, kQuestionTokens, static_cast<double>(scene_tokens), true);
  const Work whole{tower.flops + prefix.flops + asked.flops, tower.bytes + prefix.bytes + asked.bytes};
  Row load = fresh("model_load", "s", {0, 0}), memory = fresh("model_memory", "MiB", {0, 0}),
      cut = fresh("model_preprocess", "ms", {0, 0}), vision = fresh("model_vision_13_tiles", "ms", tower),
      prefill = fresh("model_prefill_scene", "ms", prefix), question = fresh("model_prefill_question", "ms", asked),
      first = fresh("model_first_token_13_tiles", "ms", whole),
      decode = fresh(drivlm::text("model_decode_%d", static_cast<int>(context)), "tok/s",
                     step_work(l, 1, static_cast<double>(context))),
      batch = fresh(drivlm::text("model_decode_%d_8_questions", static_cast<int>(context)), "tok/s",
                    step_work(l, 8, static_cast<double>(context)));
  std::vector<Row*> rows{&load, &memory, &cut, &vision, &prefill, &question, &first, &decode, &batch};
  std::string problem;
  if (bench.late()) problem = "out of time";
  try {
    if (problem.empty()) {
      const RandomWeights weights(n);
      DeviceOptions device;
      device.device = "cuda";
      device.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
      const Clock::time_point begin = Clock::now();
      ModelRun run(weights, device);
      load.values = {seconds_since(begin)};
      const MemoryPlan plan = run.memory();
      memory.values = {static_cast<double>(plan.weights_bytes + plan.kv_bytes + plan.arena_bytes) / (1 << 20)};

      // Six views from RGB bytes to the first token. Nothing of a run is in a cache when the next begins.
      int64_t scene = 0;
      const auto keep = [](Row& row, double value, bool cold) {
        if (cold) {
          row.cold = value;
        } else {
          row.values.push_back(value);
        }
      };
      for (int64_t i = 0; i <= most; ++i) {
        if (i > 1 && bench.late()) break;
        if (scene != 0) run.release(scene);
        const Clock::time_point shown = Clock::now();
        SceneRequest views = run.scene();
        const double cut_ms = seconds_since(shown) * 1e3;
        const SceneResult seen = run.see(std::move(views));
        const double see_ms = seconds_since(shown) * 1e3;
        std::vector<GenerateRequest> one;
        one.push_back(run.question(seen.scene, kQuestionTokens, 1));
        const Clock::time_point asked_at = Clock::now();
        run.ask(std::move(one));
        const double ask_ms = seconds_since(asked_at) * 1e3;
        scene = seen.scene;
        keep(cut, cut_ms + seen.preprocess_ms, i == 0);
        keep(vision, seen.vision_ms, i == 0);
        keep(prefill, seen.prefill_ms, i == 0);
        keep(question, ask_ms, i == 0);
        keep(first, see_ms + ask_ms, i == 0);
      }

      // Tokens one by one: `steps` of them around the context's length. Their ids are given, so every run does the same.
      const int64_t tokens = context - scene_tokens - steps / 2;
      for (Row* row : {&decode, &batch}) {
        const size_t questions = row == &decode ? 1 : 8;
        for (int64_t i = 0; i <= most; ++i) {
          if (i > 1 && bench.late()) break;
          std::vector<GenerateRequest> requests;
          for (size_t q = 0; q < questions; ++q) requests.push_back(run.question(scene, tokens, steps + 1));
          double ms = 0;
          for (const GenerateResult& result : run.ask(std::move(requests))) {
            if (static_cast<int64_t>(result.ids.size()) != steps + 1)
              throw Error(Code::internal, "decoding ended early");
            ms = std::max(ms, result.decode_ms);
          }
          keep(*row, 1e3 * static_cast<double>(questions) * steps / ms, i == 0);
        }
        row->seconds = static_cast<double>(questions) / median(row->values);
      }
      for (Row* row : {&vision, &prefill, &question, &first}) row->seconds = median(row->values) / 1e3;
    }
  } catch (const std::exception& error) {
    problem = error.what();
  }
  for (Row* row : rows) {
    if (row->values.empty()) {
      row->skipped = problem.empty() ? "out of time" : problem;
    }
    if (bench.wants(row->name)) bench.add(std::move(*row));
  }
  if (problem == "out of time") {
    bench.report().skipped.push_back("model: out of time");
  } else if (!problem.empty()) {
    bench.report().failed.push_back("model: " + problem);
  }
  if (bench.options().save) bench.options().save(bench.report());
}

}  // namespace drivlm::gpu
