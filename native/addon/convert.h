// JS values -> plain structs, and results -> JS values. Every type and range is checked again, whatever lib/ has checked.
#pragma once

#include <string>

#include "addon/napi_setup.h"
#include "addon/settler.h"
#include "network/parameters.h"
#include "serve/engine.h"

namespace drivlm {

// All of these throw Error{BAD_ARGUMENT} with the field's name.
ModelSource to_model_source(Napi::Value value);
NetworkDescription to_network(Napi::Value value);
EngineOptions to_engine_options(Napi::Value value);
DType to_stored_type(Napi::Value value, const std::string& name);
SceneRequest to_scene_request(Napi::Value value, int64_t* job);
GenerateRequest to_generate_request(Napi::Value value, int64_t* job);
ScoreRequest to_score_request(Napi::Value value, int64_t* job);
std::vector<uint8_t> to_bytes(Napi::Value value, const std::string& name);
std::vector<uint32_t> to_offsets(Napi::Value value, const std::string& name);
// An integer in [low, high].
int64_t to_integer(Napi::Value value, const std::string& name, int64_t low, int64_t high);
bool to_boolean(Napi::Value value, const std::string& name);

// JS thread, in bound functions.
Napi::Array from_parameters(Napi::Env env, const std::vector<Parameter>& parameters);
Napi::Object from_plan(Napi::Env env, const MemoryPlan& plan);
Napi::Object from_load_report(Napi::Env env, const LoadReport& report);
Napi::Object from_stats(Napi::Env env, const EngineStats& stats);
Napi::Object from_grid(Napi::Env env, const Grid& grid);

// For settlers: C calls only. The result is moved in.
MakeValue make_scene_result(SceneResult result);
MakeValue make_generate_result(GenerateResult result);
MakeValue make_evicted(int64_t claim);
MakeValue make_float_arrays(std::vector<std::vector<float>> arrays);
MakeValue make_undefined();

}  // namespace drivlm
