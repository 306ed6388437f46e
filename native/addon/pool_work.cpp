#include "addon/pool_work.h"

#include <memory>
#include <new>
#include <string>
#include <utility>

namespace drivlm {
namespace {

struct PoolWork {
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  std::function<MakeValue()> run;
  MakeValue make;
  Code code = Code::internal;
  std::string message = "The work was not run.";
};

void execute(napi_env, void* data) {
  auto* self = static_cast<PoolWork*>(data);
  try {
    self->make = self->run();
  } catch (const Error& error) {
    self->code = error.code;
    self->message = error.what();
  } catch (const std::bad_alloc&) {
    self->code = Code::out_of_memory;
    self->message = "There is not enough memory for this picture.";
  } catch (const std::exception& error) {
    self->message = error.what();
  }
}

// As in settler.cpp: C calls only, nothing thrown, since the environment may be going.
void complete(napi_env env, napi_status, void* data) {
  const std::unique_ptr<PoolWork> self(static_cast<PoolWork*>(data));
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) == napi_ok) {
    napi_value value = self->make ? self->make(env) : nullptr;
    if (value != nullptr) {
      napi_resolve_deferred(env, self->deferred, value);
    } else {
      napi_value error = make_error(env, self->code, self->message.c_str());
      if (error != nullptr) napi_reject_deferred(env, self->deferred, error);
    }
    napi_close_handle_scope(env, scope);
  }
  napi_delete_async_work(env, self->work);
}

void check(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

}  // namespace

Napi::Promise run_in_pool(Napi::Env env, const char* name, std::function<MakeValue()> work) {
  auto self = std::make_unique<PoolWork>();
  self->run = std::move(work);
  napi_value promise;
  check(env, napi_create_promise(env, &self->deferred, &promise));
  check(env, napi_create_async_work(env, nullptr, Napi::String::New(env, name), execute, complete, self.get(), &self->work));
  check(env, napi_queue_async_work(env, self->work));
  self.release();
  return {env, promise};
}

}  // namespace drivlm
