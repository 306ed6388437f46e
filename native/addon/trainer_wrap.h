// NativeTrainer of lib/native.ts.
#pragma once

#include <memory>

#include "addon/napi_setup.h"
#include "addon/trainer_thread.h"

namespace drivlm {

class TrainerWrap : public Napi::ObjectWrap<TrainerWrap> {
 public:
  static Napi::Function define(Napi::Env env);

  // train(source, options)
  static Napi::Value train(const Napi::CallbackInfo& info);
  // trainingPlan(network, options)
  static Napi::Value plan(const Napi::CallbackInfo& info);

  explicit TrainerWrap(const Napi::CallbackInfo& info);
  ~TrainerWrap() override;

 private:
  Napi::Value learn(const Napi::CallbackInfo& info);
  Napi::Value update(const Napi::CallbackInfo& info);
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value restore(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value encoded_tiles(const Napi::CallbackInfo& info);
  Napi::Value tower_cache_error(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  // A promise of the number that `work` returns.
  Napi::Value start(const Napi::CallbackInfo& info, const char* name, std::function<double(Trainer&)> work);

  std::shared_ptr<TrainerThread> thread_;
};

}  // namespace drivlm
