#include "addon/trainer_wrap.h"

#include <limits>
#include <utility>

#include "addon/convert.h"
#include "addon/fields.h"
#include "addon/guarded.h"
#include "addon/thread_object.h"

namespace drivlm {
namespace {

// What train() hands to the constructor; alive while the constructor runs.
struct Made {
  std::shared_ptr<TrainerThread> thread;
  static constexpr napi_type_tag kTag{0x6472697677a1c0deULL, 0x747261696e6564ULL};
};

constexpr int64_t kMaxRows = int64_t{1} << 24, kMaxTiles = 1 << 16;

Error disposed() { return {Code::disposed, "This trainer was disposed."}; }

MakeValue make_number(double number) {
  return [number](napi_env env) -> napi_value {
    napi_value value;
    return napi_create_double(env, number, &value) == napi_ok ? value : nullptr;
  };
}

TrainerOptions to_trainer_options(Napi::Value value, const NetworkDescription& network) {
  const Fields fields(value, "options");
  TrainerOptions options;
  options.device.device = fields.string("device");
  constexpr const char* kPrecisions[] = {"f32", "bf16"};
  options.device.precision = fields.choice("precision", kPrecisions) == 0 ? DType::f32 : DType::bf16;
  options.device.threads = static_cast<int>(fields.integer("threads", 1, 1024));
  options.sizes.rows = fields.integer("rows", 1, kMaxRows);
  options.sizes.tiles = fields.integer("tiles", 0, kMaxTiles);
  options.sizes.tiles_at_once = fields.integer("tilesAtOnce", 1, kMaxTiles);
  options.sizes.logits_at_once = fields.integer("logitsAtOnce", 1, kMaxRows);
  const Fields parts = fields.fields("parts");
  const int64_t layers = network.vision.layers, first = parts.integer("firstTowerLayer", 0, layers);
  options.parts.first_tower_layer = first == layers ? std::numeric_limits<int64_t>::max() : first;
  options.parts.patches = parts.boolean("patches");
  options.parts.projector = parts.boolean("projector");
  options.parts.decoder = parts.boolean("decoder");
  options.parts.head = parts.boolean("head");
  options.drop_path.rate = fields.number("dropPath");
  if (!(options.drop_path.rate >= 0 && options.drop_path.rate < 1))
    fail(fields.path("dropPath"), "a number from 0, below 1");
  options.drop_path.seed = static_cast<uint64_t>(fields.integer("seed", 0, int64_t{1} << 53));
  options.mean_decay = fields.number("meanDecay");
  if (!(options.mean_decay >= 0 && options.mean_decay < 1)) fail(fields.path("meanDecay"), "a number from 0, below 1");
  if (fields.has("towerCache")) {
    const Fields cache = fields.fields("towerCache");
    options.tower_cache = {cache.string("file"), cache.string("key"), cache.integer("bytes", 0, int64_t{1} << 53)};
  }
  return options;
}

Pack to_pack(Napi::Value value) {
  const Fields fields(value, "pack");
  Pack pack;
  pack.ids = fields.ids("ids");
  fields.each("spans", kMaxRows, [&](Napi::Value one, const std::string& where) {
    const Fields span(one, where);
    pack.spans.push_back({span.integer("row", 0, kMaxRows), span.integer("rows", 1, kMaxRows),
                          span.integer("prefixRow", 0, kMaxRows), span.integer("prefixRows", 0, kMaxRows)});
  });
  if (const Napi::Value tiles = fields.get("tiles"); !tiles.IsNull()) {
    if (!tiles.IsTypedArray() || tiles.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
      fail(fields.path("tiles"), "a Uint8Array or null");
    const auto array = tiles.As<Napi::Uint8Array>();
    const uint8_t* data = array.Data();
    pack.tiles.assign(data, data + array.ByteLength());
  }
  const Fields targets = fields.fields("targets");
  const std::vector<int32_t> rows = targets.ids("rows"), labels = targets.ids("labels");
  const std::vector<double> weights =
      to_vector<double>(targets.get("weights"), targets.path("weights"), napi_float64_array, "a Float64Array");
  if (rows.size() != labels.size() || rows.size() != weights.size())
    fail(fields.path("targets"), "rows, labels and weights of one length");
  for (size_t i = 0; i < rows.size(); ++i) pack.targets.push_back({rows[i], labels[i], weights[i]});
  return pack;
}

OptimizerSettings to_settings(Napi::Value value) {
  const Fields fields(value, "settings");
  const auto number = [&](const char* key, double low, double high) {
    const double found = fields.number(key);
    if (!(found >= low && found <= high)) fail(fields.path(key), text("a number from %g to %g", low, high).c_str());
    return found;
  };
  constexpr double kBelowOne = 1 - 0x1p-53;
  OptimizerSettings settings;
  settings.learning_rate = number("learningRate", 0, 1e6);
  settings.vision_learning_rate = number("visionLearningRate", 0, 1e6);
  settings.beta1 = number("beta1", 0, kBelowOne);
  settings.beta2 = number("beta2", 0, kBelowOne);
  settings.eps = number("eps", 0, 1);
  settings.weight_decay = number("weightDecay", 0, 1e6);
  constexpr const char* kRules[] = {"all", "standard"};
  settings.decay = fields.choice("decay", kRules) == 0 ? WeightDecay::all : WeightDecay::standard;
  // Absent: no clipping.
  settings.max_norm = fields.has("maxNorm") ? number("maxNorm", 0, 1e30) : std::numeric_limits<double>::infinity();
  return settings;
}

}  // namespace

Napi::Function TrainerWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeTrainer",
                     {
                         InstanceMethod<&TrainerWrap::learn>("learn"),
                         InstanceMethod<&TrainerWrap::update>("update"),
                         InstanceMethod<&TrainerWrap::save>("save"),
                         InstanceMethod<&TrainerWrap::restore>("restore"),
                         InstanceMethod<&TrainerWrap::write>("write"),
                         InstanceMethod<&TrainerWrap::encoded_tiles>("encodedTiles"),
                         InstanceMethod<&TrainerWrap::tower_cache_error>("towerCacheError"),
                         InstanceMethod<&TrainerWrap::dispose>("dispose"),
                     });
}

Napi::Value TrainerWrap::train(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded_promise(env, [&]() -> Napi::Value {
    auto source = to_model_source(info[0]);
    const TrainerOptions options = to_trainer_options(info[1], source.network);
    Napi::Promise promise;
    SettlerSetup setup;
    setup.name = "drivlm.train";
    auto settler = Settler::create(env, std::move(setup), &promise);
    auto make = [source = std::move(source), options] { return std::make_unique<Trainer>(source, options); };
    start_thread<Made>(env, settler, &AddonData::trainer_class, [&](const auto& on_ready, const auto& on_failed) {
      return std::make_shared<TrainerThread>(std::move(make), [on_ready] { on_ready({}); }, on_failed);
    });
    return promise;
  });
}

Napi::Value TrainerWrap::plan(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const NetworkDescription network = to_network(info[0]);
    const TrainerPlan plan = Trainer::plan(network, to_trainer_options(info[1], network));
    auto object = Napi::Object::New(env);
    object["weightsBytes"] = static_cast<double>(plan.weights_bytes);
    object["gradientsBytes"] = static_cast<double>(plan.gradients_bytes);
    object["momentsBytes"] = static_cast<double>(plan.moments_bytes);
    object["meanBytes"] = static_cast<double>(plan.mean_bytes);
    object["activationsBytes"] = static_cast<double>(plan.activations_bytes);
    object["towerTileBytes"] = static_cast<double>(plan.tower_tile_bytes);
    return object;
  });
}

TrainerWrap::TrainerWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TrainerWrap>(info) {
  thread_ = std::move(made_of<Made>(info, "A NativeTrainer comes from train().").thread);
}

TrainerWrap::~TrainerWrap() {
  if (thread_) thread_->stop();
}

Napi::Value TrainerWrap::start(const Napi::CallbackInfo& info, const char* name, std::function<double(Trainer&)> work) {
  Napi::Promise promise;
  SettlerSetup setup;
  setup.name = name;
  setup.keep_alive = info.This().As<Napi::Object>();
  auto settler = Settler::create(info.Env(), std::move(setup), &promise);
  const bool posted = thread_->post([settler, work = std::move(work)](Trainer& trainer) {
    run_job(*settler, "There is not enough memory for this step of training.",
            [&] { settler->resolve(make_number(work(trainer))); });
  });
  if (!posted) settler->reject(disposed());
  return promise;
}

Napi::Value TrainerWrap::learn(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    const auto pack = std::make_shared<const Pack>(to_pack(info[0]));
    return start(info, "drivlm.learn", [pack](Trainer& trainer) { return trainer.learn(*pack); });
  });
}

Napi::Value TrainerWrap::update(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    const OptimizerSettings settings = to_settings(info[0]);
    return start(info, "drivlm.update", [settings](Trainer& trainer) { return trainer.update(settings); });
  });
}

Napi::Value TrainerWrap::save(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    const std::string file = to_text(info[0], "file"), key = to_text(info[1], "key");
    return start(info, "drivlm.save", [file, key](Trainer& trainer) {
      trainer.save(file, key);
      return static_cast<double>(trainer.updates());
    });
  });
}

Napi::Value TrainerWrap::restore(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    const std::string file = to_text(info[0], "file"), key = to_text(info[1], "key");
    return start(info, "drivlm.restore", [file, key](Trainer& trainer) {
      trainer.restore(file, key);
      return static_cast<double>(trainer.updates());
    });
  });
}

Napi::Value TrainerWrap::write(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    std::vector<std::string> files;
    each_of(info[0], "files", 4096,
            [&](Napi::Value file, const std::string& where) { files.push_back(to_text(file, where)); });
    return start(info, "drivlm.write", [files = std::move(files)](Trainer& trainer) {
      trainer.write(files);
      return static_cast<double>(trainer.updates());
    });
  });
}

Napi::Value TrainerWrap::encoded_tiles(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    return start(info, "drivlm.encodedTiles",
                 [](Trainer& trainer) { return static_cast<double>(trainer.encoded_tiles()); });
  });
}

Napi::Value TrainerWrap::tower_cache_error(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    return start(info, "drivlm.towerCacheError",
                 [](Trainer& trainer) { return static_cast<double>(trainer.tower_cache_error()); });
  });
}

Napi::Value TrainerWrap::dispose(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&]() -> Napi::Value { return stop_thread(info, *thread_); });
}

}  // namespace drivlm
