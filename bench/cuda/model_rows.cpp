// The whole model end to end, through the same engine as the addon.
#include <algorithm>
#include <thread>

#include "bench.h"
#include "kernels/cuda/kernels.h"
#include "model_run.h"
#include "packed/formats.h"

namespace drivlm::gpu {

namespace {

// What the model is kept as, and what its rows are called by.
struct Mode {
  const char* end;
  WeightFormat weights = WeightFormat::bf16;
  bool int8_activations = false;
  KvFormat kv = KvFormat::activation;

  double bytes_of(Use use) const {  // of a weight
    const Encoding encoding = encoding_of(weights, use);
    return encoding == Encoding::bf16 ? 2 : encoding == Encoding::s8 ? 1 : 0.5 + 2.0 / kS4Group;
  }
  // The work of products of many rows.
  Work products(double operations, double bytes) const {
    return int8_activations ? Work{0, bytes, operations} : Work{operations, bytes, 0};
  }
};
constexpr Mode kModes[] = {
    {""},
    {"_int8_a8", WeightFormat::int8, true},
    {"_int4_a8_kv8", WeightFormat::int4, true, KvFormat::int8},
};

Work operator+(const Work& a, const Work& b) { return {a.flops + b.flops, a.bytes + b.bytes, a.byte_ops + b.byte_ops}; }

double layer_weights(const LanguageConfig& l) {
  return static_cast<double>(l.layers) * l.dim * (l.qkv_dim() + l.q_dim() + 3 * l.ffn_dim);
}

// As bench/README.md writes them out.
Work vision_work(const NetworkDescription& n, const Mode& mode, double tiles) {
  const VisionConfig& v = n.vision;
  const double blocks = v.output_layer * (4.0 * v.dim * v.dim + 2.0 * v.dim * v.ffn_dim),
               patch = static_cast<double>(v.dim) * v.patch_values();
  const double projector = 4.0 * v.dim * n.language.dim + 1.0 * n.language.dim * n.language.dim;
  const Work linear = mode.products(2 * tiles * (v.positions() * blocks + v.tile_tokens() * projector),
                                    mode.bytes_of(Use::tower) * (blocks + projector));
  const double attention = 4.0 * v.output_layer * v.positions() * v.positions() * v.dim;
  return linear + Work{tiles * (2 * v.patches() * patch + attention), 2 * patch};
}
Work attention_work(const LanguageConfig& l, double tokens, double past) {
  return {4.0 * l.layers * l.q_dim() * (tokens * past + tokens * (tokens + 1) / 2), 0};
}
Work head_work(const LanguageConfig& l, const Mode& mode) {
  const double weights = static_cast<double>(l.vocab) * l.dim;
  return {2 * weights, mode.bytes_of(Use::head) * weights};
}
Work prefill_work(const LanguageConfig& l, const Mode& mode, double tokens, double past) {
  const double weights = layer_weights(l);
  return mode.products(2 * tokens * weights, mode.bytes_of(Use::decoder) * weights) + attention_work(l, tokens, past);
}
// `questions` share the cache of all but their own tokens.
Work step_work(const LanguageConfig& l, const Mode& mode, double questions, double context) {
  const double weights = layer_weights(l);
  const Work one = Work{2 * weights, 0} + attention_work(l, 1, context) + head_work(l, mode);
  const double cache = context * l.layers * 2 * l.kv_heads *
                       static_cast<double>(cuda::kv_block_bytes(l.head_dim, mode.kv)) / cuda::kPageTokens;
  return {questions * one.flops, one.bytes + mode.bytes_of(Use::decoder) * weights + cache};
}

void bench_mode(Bench& bench, const NetworkDescription& n, const RandomWeights& weights, const Mode& mode) {
  const bool small = bench.options().small;
  const LanguageConfig& l = n.language;
  const int64_t scene_tokens = kSystemTokens + kTiles * n.vision.tile_tokens(), context = small ? 160 : 3500;
  const int64_t steps = small ? 3 : 32, most = small ? 3 : 12;
  const auto fresh = [&](const std::string& name, const char* unit, Work work) {
    return Row{name + mode.end, unit, {}, 0, 0, work, {}};
  };
  const Work tower = vision_work(n, mode, kTiles), prefix = prefill_work(l, mode, static_cast<double>(scene_tokens), 0),
             asked = prefill_work(l, mode, kQuestionTokens, static_cast<double>(scene_tokens)) + head_work(l, mode);
  const std::string step = drivlm::text("model_decode_%d", static_cast<int>(context));
  Row load = fresh("model_load", "s", {}), memory = fresh("model_memory", "MiB", {}),
      cut = fresh("model_preprocess", "ms", {}), vision = fresh("model_vision_13_tiles", "ms", tower),
      prefill = fresh("model_prefill_scene", "ms", prefix), question = fresh("model_prefill_question", "ms", asked),
      first = fresh("model_first_token_13_tiles", "ms", tower + prefix + asked),
      decode = fresh(step, "tok/s", step_work(l, mode, 1, static_cast<double>(context))),
      batch = fresh(step + "_8_questions", "tok/s", step_work(l, mode, 8, static_cast<double>(context)));
  std::vector<Row*> rows{&load, &memory, &cut, &vision, &prefill, &question, &first, &decode, &batch};
  std::string problem;
  if (bench.late()) problem = "out of time";
  try {
    if (problem.empty()) {
      DeviceOptions device;
      device.device = "cuda";
      device.weights = mode.weights, device.int8_activations = mode.int8_activations, device.kv = mode.kv;
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
    bench.report().skipped.push_back(drivlm::text("model%s: out of time", mode.end));
  } else if (!problem.empty()) {
    bench.report().failed.push_back(drivlm::text("model%s: ", mode.end) + problem);
  }
  if (bench.options().save) bench.options().save(bench.report());
}

}  // namespace

void bench_model(Bench& bench) {
  const NetworkDescription n = network(bench.options().small);
  const RandomWeights weights(n);
  for (const Mode& mode : kModes) bench_mode(bench, n, weights, mode);
}

}  // namespace drivlm::gpu
