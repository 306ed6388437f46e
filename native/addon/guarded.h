// What C++ throws as errors of JavaScript.
#pragma once

#include <exception>
#include <utility>

#include "addon/napi_setup.h"
#include "addon/settler.h"

namespace drivlm {

inline Napi::Error to_js_error(Napi::Env env, Code code, const char* message) {
  const napi_value error = make_error(env, code, message);
  return error == nullptr ? Napi::Error::New(env, message) : Napi::Error(env, error);
}

// Runs a bound function's body and turns what it throws into a JS error with a code.
template <class Body>
auto guarded(Napi::Env env, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& error) {
    throw to_js_error(env, error.code, error.what());
  } catch (const std::exception& error) {
    throw to_js_error(env, Code::internal, error.what());
  }
}

// The same for functions that return a promise: the promise is rejected instead.
template <class Body>
Napi::Value guarded_promise(Napi::Env env, Body body) {
  try {
    return guarded(env, std::move(body));
  } catch (const Napi::Error& error) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(error.Value());
    return deferred.Promise();
  }
}

}  // namespace drivlm
