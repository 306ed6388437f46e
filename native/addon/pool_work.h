// Short work on libuv's thread pool: picture helpers that need no engine.
#pragma once

#include <functional>

#include "addon/napi_setup.h"
#include "addon/settler.h"

namespace drivlm {

// `work` runs once on the pool and says how to make the value; what it throws rejects the promise.
Napi::Promise run_in_pool(Napi::Env env, const char* name, std::function<MakeValue()> work);

}  // namespace drivlm
