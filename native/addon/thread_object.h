// What NativeModel and NativeTrainer have in common: an object that owns a thread, which makes what the object stands for and works on it.
#pragma once

#include <future>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "addon/addon_data.h"
#include "addon/convert.h"
#include "addon/owned_thread.h"
#include "addon/settler.h"

namespace drivlm {

// A thread that is ready, on its way to JavaScript; one that never gets there is stopped.
template <class Thread>
struct Unclaimed {
  explicit Unclaimed(std::weak_ptr<Thread> thread) : thread(std::move(thread)) {}
  ~Unclaimed() {
    if (const auto owner = thread.lock()) owner->stop();
  }
  std::weak_ptr<Thread> thread;
};

// Below, Made is what a constructor of the addon is given: its thread, in `thread`, and more. Made::kTag tells that an External holds one.

// JS thread, C calls only: a new object of `object_class` around `made`, which lives until the constructor is done. Null on failure.
template <class Made>
napi_value make_object(napi_env env, Napi::FunctionReference AddonData::* object_class, Made* made) {
  void* data = nullptr;
  napi_value constructor, external, object;
  if (napi_get_instance_data(env, &data) != napi_ok || data == nullptr) return nullptr;
  const napi_ref reference = static_cast<AddonData*>(data)->*object_class;
  if (napi_get_reference_value(env, reference, &constructor) != napi_ok) return nullptr;
  if (napi_create_external(env, made, nullptr, nullptr, &external) != napi_ok) return nullptr;
  if (napi_type_tag_object(env, external, &Made::kTag) != napi_ok) return nullptr;
  return napi_new_instance(env, constructor, 1, &external, &object) == napi_ok ? object : nullptr;
}

// What the constructor was given by make_object. Throws a TypeError with `message` when JavaScript called it.
template <class Made>
Made& made_of(const Napi::CallbackInfo& info, const char* message) {
  bool tagged = false;
  if (!info[0].IsExternal() || napi_check_object_type_tag(info.Env(), info[0], &Made::kTag, &tagged) != napi_ok ||
      !tagged) {
    throw Napi::TypeError::New(info.Env(), message);
  }
  return *info[0].As<Napi::External<Made>>().Data();
}

// Starts a thread; the settler's promise becomes an object around it. `start(on_ready, on_failed)` makes the thread, which calls
// on_ready(Made without its thread) or on_failed(Error) once. Null if the system refuses a thread: the promise is rejected then.
template <class Made, class Start>
auto start_thread(Napi::Env env, const std::shared_ptr<Settler>& settler,
                  Napi::FunctionReference AddonData::* object_class, const Start& start) {
  using Thread = typename decltype(Made::thread)::element_type;
  // The thread is told of itself only once it exists, and waits for that: what it resolves with has to share it.
  auto self = std::make_shared<std::promise<std::weak_ptr<Thread>>>();
  const auto on_ready = [settler, self, object_class](const Made& without) {
    const auto unclaimed = std::make_shared<Unclaimed<Thread>>(self->get_future().get());
    settler->resolve([unclaimed, object_class, without](napi_env environment) -> napi_value {
      Made made = without;
      made.thread = unclaimed->thread.lock();
      if (!made.thread) return nullptr;
      const napi_value object = make_object(environment, object_class, &made);
      if (object != nullptr) unclaimed->thread.reset();
      return object;
    });
  };
  std::shared_ptr<Thread> thread;
  try {
    thread = start(on_ready, [settler](const Error& error) { settler->reject(error); });
  } catch (const std::system_error& error) {
    settler->reject(no_thread(error));  // the promise that exists already, not a second one beside it
    return thread;
  }
  self->set_value(thread);
  env.GetInstanceData<AddonData>()->adopt(thread);
  return thread;
}

// Runs work of a job on its thread; what it throws rejects the job's promise. `no_memory` is the message where memory ran out.
template <class Work>
void run_job(Settler& settler, const char* no_memory, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    settler.reject(error);
  } catch (const std::bad_alloc&) {
    settler.reject(Code::out_of_memory, no_memory);
  } catch (const std::exception& error) {
    settler.reject(Code::internal, error.what());
  }
}

// dispose(): a promise that resolves when the thread has freed everything and ends.
inline Napi::Promise stop_thread(const Napi::CallbackInfo& info, OwnedThread& thread) {
  Napi::Promise promise;
  SettlerSetup setup;
  setup.name = "drivlm.dispose";
  setup.keep_alive = info.This().As<Napi::Object>();
  auto settler = Settler::create(info.Env(), std::move(setup), &promise);
  thread.stop([settler] { settler->resolve(make_undefined()); });
  info.Env().GetInstanceData<AddonData>()->reap();
  return promise;
}

}  // namespace drivlm
