#include "addon/convert.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "addon/addon_data.h"
#include "addon/fields.h"
#include "addon/pictures.h"

namespace drivlm {
namespace {

constexpr int64_t kMaxDim = int64_t{1} << 24;
constexpr int64_t kMaxImages = 1024;

VisionConfig to_vision(const Fields& fields) {
  VisionConfig config;
  config.dim = fields.integer("dim", 1, kMaxDim);
  config.layers = fields.integer("layers", 1, 4096);
  config.heads = fields.integer("heads", 1, kMaxDim);
  config.head_dim = fields.integer("headDim", 1, kMaxDim);
  config.ffn_dim = fields.integer("ffnDim", 1, kMaxDim);
  config.patch_size = fields.integer("patchSize", 1, 1024);
  config.tile_size = fields.integer("tileSize", 1, 16384);
  config.position_grid = fields.integer("positionGrid", 1, 4096);
  constexpr const char* kNorms[] = {"rms", "layer"};
  config.layer_norm = fields.choice("norm", kNorms) == 1;
  config.norm_eps = static_cast<float>(fields.number("normEps"));
  config.qkv_bias = fields.boolean("qkvBias");
  config.qk_norm = fields.boolean("qkNorm");
  config.output_layer = fields.integer("outputLayer", 1, config.layers);
  config.mean = fields.triple("mean");
  config.std = fields.triple("std");
  return config;
}

RopeConfig to_rope(const Fields& fields) {
  RopeConfig rope;
  constexpr const char* kKinds[] = {"default", "linear", "dynamic", "longrope"};
  constexpr RopeConfig::Kind kValues[] = {RopeConfig::Kind::plain, RopeConfig::Kind::linear, RopeConfig::Kind::dynamic,
                                          RopeConfig::Kind::longrope};
  rope.kind = kValues[fields.choice("kind", kKinds)];
  rope.theta = fields.number("theta");
  if (rope.kind == RopeConfig::Kind::linear || rope.kind == RopeConfig::Kind::dynamic)
    rope.factor = fields.number("factor");
  if (rope.kind == RopeConfig::Kind::dynamic || rope.kind == RopeConfig::Kind::longrope) {
    rope.original_max = fields.integer("originalMax", 1, kMaxTokens);
  }
  if (rope.kind == RopeConfig::Kind::longrope) {
    rope.short_factors = fields.numbers("shortFactors", 65536);
    rope.long_factors = fields.numbers("longFactors", 65536);
    rope.attention_scale = fields.number("attentionScale");
  }
  return rope;
}

LanguageConfig to_language(const Fields& fields) {
  LanguageConfig config;
  config.dim = fields.integer("dim", 1, kMaxDim);
  config.layers = fields.integer("layers", 1, 4096);
  config.heads = fields.integer("heads", 1, kMaxDim);
  config.kv_heads = fields.integer("kvHeads", 1, kMaxDim);
  config.head_dim = fields.integer("headDim", 1, kMaxDim);
  config.ffn_dim = fields.integer("ffnDim", 1, kMaxDim);
  config.vocab = fields.integer("vocab", 1, kMaxDim);
  config.norm_eps = static_cast<float>(fields.number("normEps"));
  config.qkv_bias = fields.boolean("qkvBias");
  config.qk_norm = fields.boolean("qkNorm");
  config.tied_head = fields.boolean("tiedHead");
  config.rope = to_rope(fields.fields("rope"));
  return config;
}

TensorSource to_tensor(const Fields& fields, int64_t files) {
  TensorSource tensor;
  tensor.role = fields.string("role");
  tensor.dtype = to_stored_type(fields.get("dtype"), fields.path("dtype"));
  fields.each("shape", Tensor::kMaxRank, [&](Napi::Value value, const std::string& where) {
    tensor.shape.push_back(to_integer(value, where, 1, kMaxInteger));
  });
  fields.each("spans", 1 << 20, [&](Napi::Value value, const std::string& where) {
    const Fields span(value, where);
    tensor.spans.push_back({span.integer("file", 0, files - 1), span.integer("offset", 0, kMaxInteger),
                            span.integer("rows", 1, kMaxInteger),
                            span.has("dtype") ? to_stored_type(span.get("dtype"), span.path("dtype")) : tensor.dtype});
  });
  return tensor;
}

std::vector<std::string> to_probe(const Fields& fields) {
  return fields.has("probe") ? fields.strings("probe", 4096) : std::vector<std::string>{};
}

// ---- results: C calls only; every function is false once a call has failed ----

bool set(napi_env env, napi_value object, const char* key, napi_value value) {
  return value != nullptr && napi_set_named_property(env, object, key, value) == napi_ok;
}

bool set_number(napi_env env, napi_value object, const char* key, double number) {
  napi_value value;
  return napi_create_double(env, number, &value) == napi_ok && set(env, object, key, value);
}

bool set_string(napi_env env, napi_value object, const char* key, const char* string) {
  napi_value value;
  return napi_create_string_utf8(env, string, NAPI_AUTO_LENGTH, &value) == napi_ok && set(env, object, key, value);
}

// A typed array with a copy of `bytes` bytes; null on failure.
napi_value typed_array(napi_env env, napi_typedarray_type type, const void* from, size_t count, size_t element_bytes) {
  void* data = nullptr;
  napi_value buffer, array;
  if (napi_create_arraybuffer(env, count * element_bytes, &data, &buffer) != napi_ok) return nullptr;
  if (count > 0) std::memcpy(data, from, count * element_bytes);
  return napi_create_typedarray(env, type, count, buffer, 0, &array) == napi_ok ? array : nullptr;
}

napi_value floats(napi_env env, const std::vector<float>& values) {
  return typed_array(env, napi_float32_array, values.data(), values.size(), sizeof(float));
}

bool set_probes(napi_env env, napi_value object, const Probes& probes) {
  if (probes.empty()) return true;
  napi_value all;
  if (napi_create_object(env, &all) != napi_ok) return false;
  for (const auto& [name, probe] : probes) {
    napi_value entry, shape, dim;
    if (napi_create_object(env, &entry) != napi_ok) return false;
    if (napi_create_array_with_length(env, probe.shape.size(), &shape) != napi_ok) return false;
    for (size_t i = 0; i < probe.shape.size(); ++i) {
      if (napi_create_int64(env, probe.shape[i], &dim) != napi_ok) return false;
      if (napi_set_element(env, shape, static_cast<uint32_t>(i), dim) != napi_ok) return false;
    }
    if (!set(env, entry, "shape", shape) || !set(env, entry, "data", floats(env, probe.data))) return false;
    if (!set(env, all, name.c_str(), entry)) return false;
  }
  return set(env, object, "probes", all);
}

}  // namespace

int64_t to_integer(Napi::Value value, const std::string& name, int64_t low, int64_t high) {
  if (!value.IsNumber()) fail(name, "an integer");
  const double number = value.As<Napi::Number>().DoubleValue();
  // NaN fails the comparison.
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) || number != std::floor(number)) {
    throw Error(Code::bad_argument,
                text("Expected an integer from %lld to %lld for %s, received %.17g.", static_cast<long long>(low),
                     static_cast<long long>(high), name.c_str(), number));
  }
  return static_cast<int64_t>(number);
}

bool to_boolean(Napi::Value value, const std::string& name) {
  if (!value.IsBoolean()) fail(name, "true or false");
  return value.As<Napi::Boolean>().Value();
}

NetworkDescription to_network(Napi::Value value) {
  const Fields fields(value, "network");
  NetworkDescription network;
  network.vision = to_vision(fields.fields("vision"));
  const Fields projector = fields.fields("projector");
  constexpr const char* kShuffles[] = {"v1", "v2"};
  network.projector.norm_eps = static_cast<float>(projector.number("normEps"));
  network.projector.shuffle_version = static_cast<int>(projector.choice("shuffle", kShuffles)) + 1;
  network.language = to_language(fields.fields("language"));
  network.validate();
  return network;
}

ModelSource to_model_source(Napi::Value value) {
  const Fields fields(value, "source");
  ModelSource source;
  source.network = to_network(fields.get("network"));
  source.files = fields.strings("files", 4096);
  fields.each("fileBytes", 4096, [&](Napi::Value bytes, const std::string& where) {
    source.file_bytes.push_back(to_integer(bytes, where, 0, kMaxInteger));
  });
  if (source.files.size() != source.file_bytes.size()) fail(fields.path("fileBytes"), "one entry for every file");
  const auto files = static_cast<int64_t>(source.files.size());
  fields.each("tensors", 1 << 20, [&](Napi::Value tensor, const std::string& where) {
    source.tensors.push_back(to_tensor(Fields(tensor, where), files));
  });
  return source;
}

EngineOptions to_engine_options(Napi::Value value) {
  const Fields fields(value, "options");
  EngineOptions options;
  options.device = fields.string("device");
  constexpr const char* kPrecisions[] = {"f32", "bf16"};
  options.precision = fields.choice("precision", kPrecisions) == 0 ? DType::f32 : DType::bf16;
  options.threads = static_cast<int>(fields.integer("threads", 1, 1024));
  constexpr const char* kWeights[] = {"bf16", "int8", "int4"};
  constexpr WeightFormat kFormats[] = {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4};
  if (fields.has("weights")) options.weights = kFormats[fields.choice("weights", kWeights)];
  options.int8_activations = fields.boolean_or("int8Activations", false);
  constexpr const char* kCaches[] = {"bf16", "int8"};
  if (fields.has("kvCache") && fields.choice("kvCache", kCaches) == 1) options.kv = KvFormat::int8;
  options.max_context = fields.integer("maxContext", 1, kMaxTokens);
  options.kv_tokens = fields.integer("kvTokens", 1, int64_t{1} << 32);
  options.max_batch = fields.integer("maxBatch", 1, 4096);
  options.max_scenes = fields.integer_or("maxScenes", options.max_scenes, 1, options.max_scenes);
  options.evict = fields.boolean_or("evict", false);
  options.vision_cache_bytes = fields.integer_or("visionCacheBytes", 0, 0, kMaxInteger);
  options.max_memory_bytes = fields.integer_or("maxMemoryBytes", 0, 0, kMaxInteger);
  if (fields.has("weightCache")) {
    const Fields place = fields.fields("weightCache");
    options.weight_cache = {place.string("file"), place.string("key")};
    const auto& caches = value.Env().GetInstanceData<AddonData>()->caches;
    if (const auto ahead = caches.find(place.integer_or("ahead", 0, 0, kMaxInteger)); ahead != caches.end())
      options.weight_cache.ahead = ahead->second;
  }
  return options;
}

DType to_stored_type(Napi::Value value, const std::string& name) {
  constexpr const char* kTypes[] = {"F32", "F16", "BF16"};
  constexpr DType kValues[] = {DType::f32, DType::f16, DType::bf16};
  return kValues[to_choice(value, name, kTypes)];
}

SceneRequest to_scene_request(Napi::Value value, int64_t* job) {
  const Fields fields(value, "request");
  SceneRequest request;
  *job = fields.integer("job", 0, kMaxInteger);
  request.scene = fields.integer_or("scene", 0, 0, kMaxInteger);
  request.ids = fields.ids("ids");
  fields.each("images", kMaxImages,
              [&](Napi::Value image, const std::string& where) { request.images.push_back(to_tiles(image, where)); });
  request.probe = to_probe(fields);
  return request;
}

GenerateRequest to_generate_request(Napi::Value value, int64_t* job) {
  const Fields fields(value, "request");
  GenerateRequest request;
  *job = fields.integer("job", 0, kMaxInteger);
  request.scene = fields.integer("scene", 0, kMaxInteger);
  request.claim = fields.integer_or("claim", -1, 0, kMaxInteger);
  request.ids = fields.ids("ids");
  request.max_new_tokens = fields.integer("maxNewTokens", 0, kMaxTokens);
  request.min_new_tokens = fields.integer("minNewTokens", 0, kMaxTokens);
  const double temperature = fields.number("temperature"), top_p = fields.number("topP");
  if (temperature < 0 || temperature > 1e6) fail(fields.path("temperature"), "a number from 0 to 1e6");
  if (top_p <= 0 || top_p > 1) fail(fields.path("topP"), "a number above 0, at most 1");
  request.temperature = static_cast<float>(temperature);
  request.top_p = static_cast<float>(top_p);
  request.seed = static_cast<uint64_t>(fields.integer("seed", 0, kMaxInteger));
  request.stop_ids = fields.ids("stopIds");
  request.vocab_limit = fields.integer("vocabLimit", 1, kMaxDim);
  if (fields.has("forced")) request.forced = fields.ids("forced");
  request.want_logits = fields.boolean_or("wantLogits", false);
  request.want_logprobs = fields.boolean_or("wantLogprobs", false);
  request.keep = fields.boolean_or("keep", false);
  request.speculate = fields.integer_or("speculate", 0, 0, kMaxTokens);
  if (fields.has("automaton")) {
    const Fields automaton = fields.fields("automaton");
    auto parsed = std::make_shared<Automaton>();
    parsed->transitions = automaton.ids("transitions");
    parsed->accepting = to_bytes(automaton.get("accepting"), automaton.path("accepting"));
    request.automaton = std::move(parsed);
  }
  request.probe = to_probe(fields);
  return request;
}

ScoreRequest to_score_request(Napi::Value value, int64_t* job) {
  const Fields fields(value, "request");
  ScoreRequest request;
  *job = fields.integer("job", 0, kMaxInteger);
  request.scene = fields.integer("scene", 0, kMaxInteger);
  request.claim = fields.integer_or("claim", -1, 0, kMaxInteger);
  request.ids = fields.ids("ids");
  request.vocab_limit = fields.integer("vocabLimit", 1, kMaxDim);
  fields.each("continuations", 4096,
              [&](Napi::Value ids, const std::string& where) { request.continuations.push_back(to_ids(ids, where)); });
  return request;
}

std::vector<uint8_t> to_bytes(Napi::Value value, const std::string& name) {
  return to_vector<uint8_t>(value, name, napi_uint8_array, "a Uint8Array");
}

std::vector<uint32_t> to_offsets(Napi::Value value, const std::string& name) {
  return to_vector<uint32_t>(value, name, napi_uint32_array, "a Uint32Array");
}

Napi::Array from_parameters(Napi::Env env, const std::vector<Parameter>& parameters) {
  constexpr const char* kKinds[] = {"matrix", "table", "vector"};
  constexpr const char* kParts[] = {"weight", "bias", "norm", "scale", "position"};
  constexpr const char* kUses[] = {"patches", "tower", "projector", "decoder", "embedding", "head"};
  const auto name_of = [&](auto value, const auto& names) {
    return Napi::String::New(env, names[static_cast<size_t>(value)]);
  };
  auto rows = Napi::Array::New(env, parameters.size());
  for (uint32_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    auto shape = Napi::Array::New(env), uses = Napi::Array::New(env);
    for (int64_t extent : parameter.shape) shape[shape.Length()] = static_cast<double>(extent);
    uses[uint32_t{0}] = name_of(parameter.use, kUses);
    if (parameter.also_head) uses[uint32_t{1}] = name_of(Use::head, kUses);
    auto row = Napi::Object::New(env);
    row["role"] = parameter.role;
    row["shape"] = shape;
    row["kind"] = name_of(parameter.kind, kKinds);
    row["part"] = name_of(parameter.part, kParts);
    row["uses"] = uses;
    row["layer"] = static_cast<double>(parameter.layer);
    row["decaysByStandard"] = decays(parameter, WeightDecay::standard);
    rows[i] = row;
  }
  return rows;
}

Napi::Object from_plan(Napi::Env env, const MemoryPlan& plan) {
  auto object = Napi::Object::New(env);
  object["weightsBytes"] = static_cast<double>(plan.weights_bytes);
  object["kvBytes"] = static_cast<double>(plan.kv_bytes);
  object["arenaBytes"] = static_cast<double>(plan.arena_bytes);
  object["kvBytesPerToken"] = static_cast<double>(plan.kv_bytes_per_token);
  object["pageTokens"] = static_cast<double>(plan.page_tokens);
  if (plan.free_bytes != INT64_MAX) object["freeBytes"] = static_cast<double>(plan.free_bytes);
  return object;
}

Napi::Object from_load_report(Napi::Env env, const LoadReport& report) {
  constexpr const char* kStates[] = {"off", "read", "written", "none"};
  auto object = Napi::Object::New(env);
  object["cache"] = kStates[static_cast<size_t>(report.cache.state)];
  object["reason"] = report.cache.reason;
  object["weightsMs"] = report.weights_ms;
  object["cacheMs"] = report.cache_ms;
  return object;
}

Napi::Object from_stats(Napi::Env env, const EngineStats& stats) {
  auto object = Napi::Object::New(env);
  const std::pair<const char*, int64_t> counts[] = {
      {"pagesTotal", stats.pages_total},
      {"pagesUsed", stats.pages_used},
      {"scenes", stats.scenes},
      {"evicted", stats.evicted},
      {"reseen", stats.reseen},
      {"running", stats.running},
      {"waiting", stats.waiting},
      {"steps", stats.steps},
      {"stepQuestions", stats.step_questions},
      {"prefillTokens", stats.prefill_tokens},
      {"decodeTokens", stats.decode_tokens},
      {"sharedTokens", stats.shared_tokens},
      {"tilesEncoded", stats.tiles_encoded},
      {"tilesCached", stats.tiles_cached},
      {"visionCacheBytes", stats.vision_cache_bytes},
      {"drafted", stats.drafted},
      {"accepted", stats.accepted},
  };
  for (const auto& [name, count] : counts) object[name] = static_cast<double>(count);
  object["visionMs"] = stats.vision_ms;
  object["prefillMs"] = stats.prefill_ms;
  object["decodeMs"] = stats.decode_ms;
  return object;
}

Napi::Object from_grid(Napi::Env env, const Grid& grid) {
  auto object = Napi::Object::New(env);
  object["columns"] = static_cast<double>(grid.columns);
  object["rows"] = static_cast<double>(grid.rows);
  object["thumbnail"] = grid.thumbnail;
  return object;
}

MakeValue make_scene_result(SceneResult moved) {
  return [result = std::make_shared<SceneResult>(std::move(moved))](napi_env env) -> napi_value {
    napi_value object;
    const bool made = napi_create_object(env, &object) == napi_ok &&
                      set_number(env, object, "scene", static_cast<double>(result->scene)) &&
                      set_number(env, object, "tokens", static_cast<double>(result->tokens)) &&
                      set_number(env, object, "imageTokens", static_cast<double>(result->image_tokens)) &&
                      set_number(env, object, "tiles", static_cast<double>(result->tiles)) &&
                      set_number(env, object, "cachedTiles", static_cast<double>(result->cached_tiles)) &&
                      set_number(env, object, "sharedTokens", static_cast<double>(result->shared_tokens)) &&
                      set_number(env, object, "queueMs", result->queue_ms) &&
                      set_number(env, object, "preprocessMs", result->preprocess_ms) &&
                      set_number(env, object, "visionMs", result->vision_ms) &&
                      set_number(env, object, "prefillMs", result->prefill_ms) &&
                      set_probes(env, object, result->probes);
    return made ? object : nullptr;
  };
}

MakeValue make_generate_result(GenerateResult moved) {
  return [result = std::make_shared<GenerateResult>(std::move(moved))](napi_env env) -> napi_value {
    constexpr const char* kFinish[] = {"stop", "length", "cancelled"};
    napi_value object;
    bool made = napi_create_object(env, &object) == napi_ok &&
                set(env, object, "ids",
                    typed_array(env, napi_int32_array, result->ids.data(), result->ids.size(), sizeof(int32_t))) &&
                set_string(env, object, "finish", kFinish[static_cast<int>(result->finish)]) &&
                set_number(env, object, "promptTokens", static_cast<double>(result->prompt_tokens)) &&
                set_number(env, object, "queueMs", result->queue_ms) &&
                set_number(env, object, "drafted", static_cast<double>(result->drafted)) &&
                set_number(env, object, "accepted", static_cast<double>(result->accepted)) &&
                set_number(env, object, "prefillMs", result->prefill_ms) &&
                set_number(env, object, "decodeMs", result->decode_ms) && set_probes(env, object, result->probes);
    if (!result->logits.empty()) made = made && set(env, object, "logits", floats(env, result->logits));
    if (!result->logprobs.empty()) made = made && set(env, object, "logprobs", floats(env, result->logprobs));
    if (result->scene != 0) made = made && set_number(env, object, "scene", static_cast<double>(result->scene));
    return made ? object : nullptr;
  };
}

MakeValue make_evicted(int64_t claim) {
  return [claim](napi_env env) -> napi_value {
    napi_value object;
    const bool made =
        napi_create_object(env, &object) == napi_ok && set_number(env, object, "claim", static_cast<double>(claim));
    return made ? object : nullptr;
  };
}

MakeValue make_float_arrays(std::vector<std::vector<float>> moved) {
  return [arrays = std::make_shared<std::vector<std::vector<float>>>(std::move(moved))](napi_env env) -> napi_value {
    napi_value list;
    if (napi_create_array_with_length(env, arrays->size(), &list) != napi_ok) return nullptr;
    for (size_t i = 0; i < arrays->size(); ++i) {
      const napi_value array = floats(env, (*arrays)[i]);
      if (array == nullptr || napi_set_element(env, list, static_cast<uint32_t>(i), array) != napi_ok) return nullptr;
    }
    return list;
  };
}

MakeValue make_undefined() {
  return [](napi_env env) -> napi_value {
    napi_value value;
    return napi_get_undefined(env, &value) == napi_ok ? value : nullptr;
  };
}

}  // namespace drivlm
