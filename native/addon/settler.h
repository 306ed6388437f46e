// Carries one asynchronous job's tokens, progress and outcome from any thread to its promise.
//
// Two sides that share one State:
//   Settler      held by whoever works on the job, on any thread; touches no JavaScript value
//   its context  owned by the thread-safe function, on the JS thread: the promise, the callback, what must stay alive
// While an environment is torn down its loop still runs callbacks in which no JavaScript can run and any C++ exception would end the
// process. So the callback uses plain C calls, checks every status, and gives up quietly.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "addon/napi_setup.h"
#include "base/error.h"

namespace drivlm {

// Builds the value a promise resolves with; null on failure. Runs on the JS thread, if at all: only C calls, no exceptions.
using MakeValue = std::function<napi_value(napi_env)>;

struct SettlerSetup {
  const char* name;                 // for async_hooks
  Napi::Object keep_alive;          // stays alive until the job is settled; may be empty
  Napi::Function callback;          // gets tokens or progress; may be empty
  std::function<void()> on_closed;  // JS thread, once: the job is settled or its environment is going
};

class Settler {
 public:
  // JS thread. The promise of a new job.
  static std::shared_ptr<Settler> create(Napi::Env env, SettlerSetup setup, Napi::Promise* promise);
  ~Settler();

  Settler(const Settler&) = delete;
  Settler& operator=(const Settler&) = delete;

  // Any thread. Handed to the callback, all of them, as few calls as a slow reader needs.
  void push_tokens(const int32_t* ids, int64_t count);
  // Any thread. Handed to the callback; a newer report replaces one that has not been read.
  void report(double done, double total);

  // Any thread; the first of these counts.
  void resolve(MakeValue make);
  void reject(Code code, const char* message);
  void reject(const Error& error) { reject(error.code, error.what()); }

  struct State;

 private:
  explicit Settler(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

// An Error with `code` and `message`; null on failure. C calls only.
napi_value make_error(napi_env env, Code code, const char* message);

}  // namespace drivlm
