// The addon's module: NativeAddon of lib/native.ts.

#include <thread>
#include <utility>

#include "addon/addon_data.h"
#include "addon/convert.h"
#include "addon/fields.h"
#include "addon/guarded.h"
#include "addon/model_wrap.h"
#include "addon/pictures.h"
#include "addon/trainer_wrap.h"
#include "base/large_pages.h"
#include "device/registry.h"

namespace drivlm {
namespace {

Napi::Value js_system(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const SystemInfo system = system_info();
    auto features = Napi::Array::New(env);
    for (const std::string& feature : system.cpu_features)
      features[features.Length()] = Napi::String::New(env, feature);
    auto devices = Napi::Array::New(env);
    for (const CudaDeviceInfo& device : system.cuda_devices) {
      auto entry = Napi::Object::New(env);
      entry["name"] = device.name;
      entry["computeCapability"] = device.compute_capability;
      entry["memoryBytes"] = static_cast<double>(device.memory_bytes);
      entry["usable"] = device.usable;
      devices[devices.Length()] = entry;
    }
    auto cuda = Napi::Object::New(env);
    cuda["built"] = system.cuda_built;
    cuda["devices"] = devices;
    cuda["reason"] = system.cuda_reason;
    auto object = Napi::Object::New(env);
    object["cpuFeatures"] = features;
    object["cpuTarget"] = system.cpu_target;
    object["cores"] = static_cast<double>(std::thread::hardware_concurrency());
    object["cuda"] = cuda;
    return object;
  });
}

Napi::Value js_memory_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return from_plan(info.Env(),
                     Engine::plan(to_network(info[0]), to_engine_options(info[1]), to_stored_type(info[2], "stored")));
  });
}

Napi::Value js_open_cache(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto* const data = info.Env().GetInstanceData<AddonData>();
    const std::string file = to_text(info[0], "file");
    const int64_t threads = to_integer(info[1], "threads", 1, 1024);
    int64_t number = 0;
    try {
      auto cache = std::make_shared<PackedFile>(file);
      cache->begin_check(static_cast<int>(threads));
      number = ++data->last_cache;
      data->caches[number] = std::move(cache);
    } catch (const Error&) {  // the load tells what is wrong
    }
    return Napi::Number::New(info.Env(), static_cast<double>(number));
  });
}

Napi::Value js_close_cache(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    info.Env().GetInstanceData<AddonData>()->caches.erase(to_integer(info[0], "cache", 0, kMaxInteger));
    return info.Env().Undefined();
  });
}

Napi::Value js_large_pages(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
      fail("buffer", "a Uint8Array");
    auto buffer = info[0].As<Napi::Uint8Array>();
    return Napi::Number::New(info.Env(), static_cast<double>(advise_large_pages(buffer.Data(), buffer.ByteLength())));
  });
}

Napi::Value js_parameters(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const NetworkDescription network = to_network(info[0]);
    network.validate();
    return from_parameters(info.Env(), parameters(network));
  });
}

Napi::Value js_choose_grid(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const int64_t width = to_integer(info[0], "width", 1, kMaxPixels),
                  height = to_integer(info[1], "height", 1, kMaxPixels);
    const int64_t tile_size = to_integer(info[2], "tileSize", 1, 16384);
    const int64_t min_tiles = to_integer(info[3], "minTiles", 1, 4096);
    const int64_t max_tiles = to_integer(info[4], "maxTiles", min_tiles, 4096);
    return from_grid(info.Env(),
                     choose_grid(width, height, tile_size, min_tiles, max_tiles, to_boolean(info[5], "thumbnail")));
  });
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData(env);  // freed by the environment
  env.SetInstanceData(data);
  data->model_class = Napi::Persistent(ModelWrap::define(env));
  data->trainer_class = Napi::Persistent(TrainerWrap::define(env));

  auto build = Napi::Object::New(env);
#ifdef DRIVLM_HAVE_CUDA
  build["cuda"] = true;
#else
  build["cuda"] = false;
#endif
  build["sanitizer"] = DRIVLM_SANITIZER;
  build["compiler"] = __VERSION__;
  exports["build"] = build;
  exports["version"] = DRIVLM_VERSION;
  exports["system"] = Napi::Function::New(env, js_system, "system");
  exports["load"] = Napi::Function::New(env, ModelWrap::load, "load");
  exports["openCache"] = Napi::Function::New(env, js_open_cache, "openCache");
  exports["closeCache"] = Napi::Function::New(env, js_close_cache, "closeCache");
  exports["largePages"] = Napi::Function::New(env, js_large_pages, "largePages");
  exports["cancelLoad"] = Napi::Function::New(env, ModelWrap::cancel_load, "cancelLoad");
  exports["train"] = Napi::Function::New(env, TrainerWrap::train, "train");
  exports["trainingPlan"] = Napi::Function::New(env, TrainerWrap::plan, "trainingPlan");
  exports["memoryPlan"] = Napi::Function::New(env, js_memory_plan, "memoryPlan");
  exports["parameters"] = Napi::Function::New(env, js_parameters, "parameters");
  exports["chooseGrid"] = Napi::Function::New(env, js_choose_grid, "chooseGrid");
  define_pictures(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(drivlm, initialise)

}  // namespace drivlm
