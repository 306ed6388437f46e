// NativeModel of lib/native.ts: JS values -> requests -> the engine's thread -> promises.
#pragma once

#include <map>
#include <memory>

#include "addon/engine_thread.h"
#include "addon/napi_setup.h"
#include "addon/settler.h"

namespace drivlm {

class ModelWrap : public Napi::ObjectWrap<ModelWrap> {
 public:
  static Napi::Function define(Napi::Env env);

  // load(source, options, onProgress?, job?)
  static Napi::Value load(const Napi::CallbackInfo& info);
  // cancelLoad(job)
  static void cancel_load(const Napi::CallbackInfo& info);

  explicit ModelWrap(const Napi::CallbackInfo& info);
  ~ModelWrap() override;

 private:
  // Running jobs by number; the JS thread's alone. Shared with their settlers, which may outlive the wrap.
  using Jobs = std::map<int64_t, std::shared_ptr<JobControl>>;

  Napi::Value see(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  void set_vocabulary(const Napi::CallbackInfo& info);
  void cancel(const Napi::CallbackInfo& info);
  void finish(const Napi::CallbackInfo& info);
  void hold(const Napi::CallbackInfo& info);
  void release(const Napi::CallbackInfo& info);
  void withdraw(const Napi::CallbackInfo& info);
  Napi::Value take_evicted(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value load_report(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  template <class Request>
  Napi::Value start(const Napi::CallbackInfo& info, const char* name, Request request, int64_t job);
  void account(Napi::Env env, int64_t bytes);

  std::shared_ptr<EngineThread> thread_;
  MemoryPlan plan_{};
  LoadReport load_report_;
  std::shared_ptr<Jobs> jobs_ = std::make_shared<Jobs>();
  int64_t accounted_bytes_ = 0;  // told to the garbage collector
};

}  // namespace drivlm
