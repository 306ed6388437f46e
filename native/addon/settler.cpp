#include "addon/settler.h"

#include <cstring>
#include <mutex>
#include <string>
#include <vector>

namespace drivlm {

// Shared by both sides.
struct Settler::State {
  std::mutex mutex;
  napi_threadsafe_function tsfn = nullptr;  // null once released, or once Node has closed it
  bool called = false;                      // a call is on its way: what is added now travels with it
  std::vector<int32_t> tokens;
  bool has_progress = false;
  double done = 0, total = 0;
  bool settled = false;
  MakeValue make;  // the outcome: a value, or else an error
  Code code = Code::internal;
  std::string message;

  // With the mutex held.
  void wake() {
    if (tsfn == nullptr || called) return;
    if (napi_call_threadsafe_function(tsfn, nullptr, napi_tsfn_nonblocking) == napi_ok) {
      called = true;
    } else {
      tsfn = nullptr;  // Node is closing the function, and has released our reference to it
    }
  }
  void release() {
    if (tsfn != nullptr) napi_release_threadsafe_function(tsfn, napi_tsfn_release);
    tsfn = nullptr;
  }
};

namespace {

// JS thread only.
struct Context {
  std::shared_ptr<Settler::State> state;
  napi_deferred deferred = nullptr;  // null once settled
  napi_ref keep_alive = nullptr;
  napi_ref callback = nullptr;
  std::function<void()> on_closed;

  void close(napi_env env) {
    if (on_closed) on_closed();
    on_closed = nullptr;
    if (keep_alive != nullptr) napi_delete_reference(env, keep_alive);
    if (callback != nullptr) napi_delete_reference(env, callback);
    keep_alive = callback = nullptr;
  }
};

// Calls the callback. If it throws, the promise is rejected with what it threw.
void call_back(napi_env env, Context* context, const napi_value* arguments, size_t count) {
  napi_value callback, undefined;
  if (context->callback == nullptr || context->deferred == nullptr) return;
  if (napi_get_reference_value(env, context->callback, &callback) != napi_ok || callback == nullptr) return;
  if (napi_get_undefined(env, &undefined) != napi_ok) return;
  if (napi_call_function(env, undefined, callback, count, arguments, nullptr) != napi_pending_exception) return;
  napi_value thrown;
  if (napi_get_and_clear_last_exception(env, &thrown) != napi_ok) return;
  napi_reject_deferred(env, context->deferred, thrown);
  context->deferred = nullptr;
  context->close(env);
}

bool make_int32_array(napi_env env, const std::vector<int32_t>& values, napi_value* array) {
  void* data = nullptr;
  napi_value buffer;
  if (napi_create_arraybuffer(env, values.size() * sizeof(int32_t), &data, &buffer) != napi_ok) return false;
  if (!values.empty()) std::memcpy(data, values.data(), values.size() * sizeof(int32_t));
  return napi_create_typedarray(env, napi_int32_array, values.size(), buffer, 0, array) == napi_ok;
}

void deliver(napi_env env, napi_value, void* data, void*) {
  if (env == nullptr) return;
  auto* context = static_cast<Context*>(data);
  std::vector<int32_t> tokens;
  bool has_progress, settled;
  double done, total;
  MakeValue make;
  {
    Settler::State& state = *context->state;
    std::lock_guard lock(state.mutex);
    state.called = false;
    tokens.swap(state.tokens);
    has_progress = state.has_progress;
    state.has_progress = false;
    done = state.done;
    total = state.total;
    settled = state.settled;
    make.swap(state.make);
  }
  if (context->deferred == nullptr) return;
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;

  if (!tokens.empty()) {
    napi_value array;
    if (make_int32_array(env, tokens, &array)) call_back(env, context, &array, 1);
  }
  if (has_progress) {
    napi_value numbers[2];
    if (napi_create_double(env, done, &numbers[0]) == napi_ok &&
        napi_create_double(env, total, &numbers[1]) == napi_ok) {
      call_back(env, context, numbers, 2);
    }
  }
  if (settled && context->deferred != nullptr) {
    napi_value value = make ? make(env) : nullptr;
    if (value != nullptr) {
      napi_resolve_deferred(env, context->deferred, value);
    } else {
      // No value was asked for (an error), or making it failed.
      napi_value thrown;
      bool pending = false;
      napi_is_exception_pending(env, &pending);
      if (pending) napi_get_and_clear_last_exception(env, &thrown);
      const Settler::State& state = *context->state;  // fixed from now on
      napi_value error = make ? make_error(env, Code::internal, "The result could not be handed to JavaScript.")
                              : make_error(env, state.code, state.message.c_str());
      if (error != nullptr) napi_reject_deferred(env, context->deferred, error);
    }
    context->deferred = nullptr;
    context->close(env);
  }
  napi_close_handle_scope(env, scope);
}

// The thread-safe function is freed right after this.
void finalize(napi_env env, void* data, void*) {
  auto* context = static_cast<Context*>(data);
  {
    std::lock_guard lock(context->state->mutex);
    context->state->tsfn = nullptr;
  }
  context->close(env);
  delete context;
}

void check(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

}  // namespace

std::shared_ptr<Settler> Settler::create(Napi::Env env, SettlerSetup setup, Napi::Promise* promise) {
  auto state = std::make_shared<State>();
  auto context = std::make_unique<Context>();
  context->state = state;
  context->on_closed = std::move(setup.on_closed);
  napi_value promise_value;
  check(env, napi_create_promise(env, &context->deferred, &promise_value));
  if (!setup.keep_alive.IsEmpty()) check(env, napi_create_reference(env, setup.keep_alive, 1, &context->keep_alive));
  if (!setup.callback.IsEmpty()) check(env, napi_create_reference(env, setup.callback, 1, &context->callback));
  check(env, napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, setup.name), 0, 1,
                                             context.get(), finalize, context.get(), deliver, &state->tsfn));
  context.release();
  *promise = Napi::Promise(env, promise_value);
  return std::shared_ptr<Settler>(new Settler(std::move(state)));
}

Settler::~Settler() { reject(Code::internal, "The job was dropped without an outcome."); }

void Settler::push_tokens(const int32_t* ids, int64_t count) {
  std::lock_guard lock(state_->mutex);
  if (state_->settled) return;
  state_->tokens.insert(state_->tokens.end(), ids, ids + count);
  state_->wake();
}

void Settler::report(double done, double total) {
  std::lock_guard lock(state_->mutex);
  if (state_->settled) return;
  state_->has_progress = true;
  state_->done = done;
  state_->total = total;
  state_->wake();
}

void Settler::resolve(MakeValue make) {
  std::lock_guard lock(state_->mutex);
  if (state_->settled) return;
  state_->settled = true;
  state_->make = std::move(make);
  state_->wake();
  state_->release();
}

void Settler::reject(Code code, const char* message) {
  std::lock_guard lock(state_->mutex);
  if (state_->settled) return;
  state_->settled = true;
  state_->code = code;
  state_->message = message;
  state_->wake();
  state_->release();
}

napi_value make_error(napi_env env, Code code, const char* message) {
  napi_value code_value, message_value, error;
  if (napi_create_string_utf8(env, code_name(code), NAPI_AUTO_LENGTH, &code_value) != napi_ok) return nullptr;
  if (napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &message_value) != napi_ok) return nullptr;
  if (napi_create_error(env, code_value, message_value, &error) != napi_ok) return nullptr;
  return error;
}

}  // namespace drivlm
