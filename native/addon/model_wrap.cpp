#include "addon/model_wrap.h"

#include <type_traits>
#include <utility>

#include "addon/addon_data.h"
#include "addon/convert.h"
#include "addon/guarded.h"
#include "addon/thread_object.h"
#include "serve/grammar.h"

namespace drivlm {
namespace {

// What a load hands to the constructor; alive while the constructor runs.
struct Loaded {
  std::shared_ptr<EngineThread> thread;
  MemoryPlan plan;
  LoadReport report;
  static constexpr napi_type_tag kTag{0x6472697677a1c0deULL, 0x6c6f6164656421ULL};
};

Error disposed() { return {Code::disposed, "The model was disposed; load it again to ask more."}; }

// Progress is worth a call every so many bytes of weights.
constexpr int64_t kProgressSteps = 200;

Napi::Function optional_function(Napi::Value value, const char* name) {
  if (value.IsUndefined() || value.IsNull()) return {};
  if (!value.IsFunction()) throw Error(Code::bad_argument, text("Expected a function for %s.", name));
  return value.As<Napi::Function>();
}

}  // namespace

Napi::Function ModelWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeModel",
                     {
                         InstanceMethod<&ModelWrap::see>("see"),
                         InstanceMethod<&ModelWrap::generate>("generate"),
                         InstanceMethod<&ModelWrap::score>("score"),
                         InstanceMethod<&ModelWrap::set_vocabulary>("setVocabulary"),
                         InstanceMethod<&ModelWrap::cancel>("cancel"),
                         InstanceMethod<&ModelWrap::finish>("finish"),
                         InstanceMethod<&ModelWrap::hold>("hold"),
                         InstanceMethod<&ModelWrap::release>("release"),
                         InstanceMethod<&ModelWrap::withdraw>("withdraw"),
                         InstanceMethod<&ModelWrap::take_evicted>("takeEvicted"),
                         InstanceMethod<&ModelWrap::stats>("stats"),
                         InstanceMethod<&ModelWrap::memory>("memory"),
                         InstanceMethod<&ModelWrap::load_report>("loadReport"),
                         InstanceMethod<&ModelWrap::dispose>("dispose"),
                     });
}

Napi::Value ModelWrap::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded_promise(env, [&]() -> Napi::Value {
    auto* data = env.GetInstanceData<AddonData>();
    auto source = to_model_source(info[0]);
    const EngineOptions options = to_engine_options(info[1]);
    Napi::Function on_progress = optional_function(info[2], "onProgress");
    const int64_t job = info[3].IsUndefined() ? -1 : to_integer(info[3], "job", 0, int64_t{1} << 53);
    if (job >= 0 && data->loads.contains(job)) throw Error(Code::bad_argument, "This job number is in use.");

    Napi::Promise promise;
    SettlerSetup setup;
    setup.name = "drivlm.load";
    setup.callback = on_progress;
    setup.on_closed = [data, job] { data->loads.erase(job); };
    auto settler = Settler::create(env, std::move(setup), &promise);

    auto load = [source = std::move(source), options, settler,
                 reports = !on_progress.IsEmpty()](const std::atomic<bool>& cancel) {
      int64_t reported = -1;
      const Progress progress = [&](int64_t done, int64_t total) {
        const int64_t step = total > 0 ? done * kProgressSteps / total : 0;
        if (!reports || (step == reported && done != total)) return;
        reported = step;
        settler->report(static_cast<double>(done), static_cast<double>(total));
      };
      return Engine::load(source, options, progress, cancel);
    };
    const auto thread =
        start_thread<Loaded>(env, settler, &AddonData::model_class, [&](const auto& on_ready, const auto& on_failed) {
          return std::make_shared<EngineThread>(
              std::move(load),
              [on_ready](const Engine& engine) { on_ready({{}, engine.memory(), engine.load_report()}); }, on_failed);
        });
    if (thread && job >= 0) data->loads[job] = thread;
    return promise;
  });
}

void ModelWrap::cancel_load(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const auto& loads = info.Env().GetInstanceData<AddonData>()->loads;
    const auto found = loads.find(to_integer(info[0], "job", 0, int64_t{1} << 53));
    if (found == loads.end()) return;
    if (const auto thread = found->second.lock()) thread->cancel_load();
  });
}

ModelWrap::ModelWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelWrap>(info) {
  auto& loaded = made_of<Loaded>(info, "A NativeModel comes from load().");
  thread_ = std::move(loaded.thread);
  plan_ = loaded.plan;
  load_report_ = std::move(loaded.report);
  account(info.Env(), plan_.weights_bytes + plan_.kv_bytes + plan_.arena_bytes);
}

// Dropped: no job runs, or it would keep this alive. The thread frees the engine; its environment joins it later.
ModelWrap::~ModelWrap() {
  if (!thread_) return;
  thread_->stop();
  account(Env(), 0);
}

void ModelWrap::account(Napi::Env env, int64_t bytes) {
  int64_t total;
  napi_adjust_external_memory(env, bytes - accounted_bytes_, &total);
  accounted_bytes_ = bytes;
}

template <class Request>
Napi::Value ModelWrap::start(const Napi::CallbackInfo& info, const char* name, Request request, int64_t job) {
  if (thread_->stopping()) throw disposed();
  if (jobs_->contains(job)) throw Error(Code::bad_argument, "This job number is in use.");
  const auto control = std::make_shared<JobControl>();
  Napi::Promise promise;
  SettlerSetup setup;
  setup.name = name;
  setup.keep_alive = info.This().As<Napi::Object>();
  setup.callback = optional_function(info[1], "onTokens");
  setup.on_closed = [jobs = jobs_, job, control] {
    control->cancel = true;  // of a job that has not ended: its environment is going, so nobody will read the result
    jobs->erase(job);
  };
  const bool streams = !setup.callback.IsEmpty();
  auto settler = Settler::create(info.Env(), std::move(setup), &promise);
  jobs_->emplace(job, control);

  request.control = control;
  request.on_error = [settler, thread = thread_.get()](const Error& error) {
    settler->reject(thread->stopping() && error.code == Code::aborted ? disposed() : error);
  };
  if constexpr (!std::is_same_v<Request, SceneRequest>) {
    if (request.claim >= 0) request.on_evicted = [settler](int64_t claim) { settler->resolve(make_evicted(claim)); };
  }
  if constexpr (std::is_same_v<Request, SceneRequest>) {
    request.on_done = [settler](SceneResult result) { settler->resolve(make_scene_result(std::move(result))); };
  } else if constexpr (std::is_same_v<Request, ScoreRequest>) {
    request.on_done = [settler](std::vector<std::vector<float>> logprobs) {
      settler->resolve(make_float_arrays(std::move(logprobs)));
    };
  } else {
    request.on_done = [settler](GenerateResult result) { settler->resolve(make_generate_result(std::move(result))); };
    if (streams) request.on_tokens = [settler](const int32_t* ids, int64_t count) { settler->push_tokens(ids, count); };
  }
  thread_->watch(control);
  const auto shared = std::make_shared<Request>(std::move(request));  // std::function wants to be copyable
  const bool posted = thread_->post([shared, settler](Engine& engine) {
    run_job(*settler, "There is not enough memory for this request.", [&] { engine.submit(std::move(*shared)); });
  });
  if (!posted) settler->reject(disposed());
  return promise;
}

Napi::Value ModelWrap::see(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    int64_t job;
    SceneRequest request = to_scene_request(info[0], &job);
    return start(info, "drivlm.see", std::move(request), job);
  });
}

Napi::Value ModelWrap::generate(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    int64_t job;
    GenerateRequest request = to_generate_request(info[0], &job);
    return start(info, "drivlm.generate", std::move(request), job);
  });
}

Napi::Value ModelWrap::score(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&] {
    int64_t job;
    ScoreRequest request = to_score_request(info[0], &job);
    return start(info, "drivlm.score", std::move(request), job);
  });
}

void ModelWrap::set_vocabulary(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    // Parsed here, so that a mistake is thrown to the caller; the engine only takes it over.
    auto vocabulary = std::make_shared<const Vocabulary>(to_bytes(info[0], "bytes"), to_offsets(info[1], "offsets"));
    if (!thread_->post([vocabulary](Engine& engine) { engine.set_vocabulary(vocabulary); })) throw disposed();
  });
}

void ModelWrap::cancel(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const auto found = jobs_->find(to_integer(info[0], "job", 0, int64_t{1} << 53));
    if (found != jobs_->end()) found->second->cancel = true;
  });
}

void ModelWrap::finish(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const auto found = jobs_->find(to_integer(info[0], "job", 0, int64_t{1} << 53));
    if (found != jobs_->end()) found->second->finish = true;
  });
}

void ModelWrap::hold(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const int64_t scene = to_integer(info[0], "scene", 0, int64_t{1} << 53);
    thread_->post([scene](Engine& engine) { engine.hold(scene); });
  });
}

void ModelWrap::release(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const int64_t scene = to_integer(info[0], "scene", 0, int64_t{1} << 53);
    thread_->post([scene](Engine& engine) { engine.release(scene); });
  });
}

void ModelWrap::withdraw(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const int64_t scene = to_integer(info[0], "scene", 0, int64_t{1} << 53);
    const int64_t claim = to_integer(info[1], "claim", 0, int64_t{1} << 53);
    thread_->post([scene, claim](Engine& engine) { engine.withdraw(scene, claim); });
  });
}

Napi::Value ModelWrap::take_evicted(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto list = Napi::Array::New(info.Env());
    for (int64_t scene : thread_->take_evicted()) list[list.Length()] = static_cast<double>(scene);
    return list;
  });
}

Napi::Value ModelWrap::stats(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return from_stats(info.Env(), thread_->stats()); });
}

Napi::Value ModelWrap::memory(const Napi::CallbackInfo& info) { return from_plan(info.Env(), plan_); }

Napi::Value ModelWrap::load_report(const Napi::CallbackInfo& info) {
  return from_load_report(info.Env(), load_report_);
}

Napi::Value ModelWrap::dispose(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&]() -> Napi::Value {
    const Napi::Promise promise = stop_thread(info, *thread_);
    account(info.Env(), 0);
    return promise;
  });
}

}  // namespace drivlm
