#include "testing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#if defined(DRIVLM_EMULATED)
#include "control.h"
#endif

namespace drivlm::cuda::testing {

namespace {
struct Case {
  const char* name;
  void (*body)();
};
std::vector<Case>& cases() {
  static std::vector<Case> list;
  return list;
}
std::vector<std::string> failures;  // of the case that runs, the first of them
size_t failure_count = 0;
constexpr size_t kMostFailures = 20;
}  // namespace

Registration::Registration(const char* name, void (*body)()) { cases().push_back({name, body}); }

void fail(const std::string& message) {
  if (++failure_count <= kMostFailures) failures.push_back(message);
}

std::mt19937& generator() {
  static std::mt19937 instance(1);
  return instance;
}
float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(generator()); }
float to_bf16(float value) { return __bfloat162float(__float2bfloat16(value)); }

Halves::Halves(size_t count, float size, float center) : Buffer<bf16>(count), values(count) {
  for (size_t i = 0; i < count; ++i) {
    host[i] = __float2bfloat16(center + uniform(-size, size));
    values[i] = __bfloat162float(host[i]);
  }
  upload();
}
void Halves::download() {
  Buffer<bf16>::download();
  for (size_t i = 0; i < host.size(); ++i) values[i] = __bfloat162float(host[i]);
}
Floats::Floats(size_t count, float size, float center) : Buffer<float>(count) {
  for (float& value : host) value = center + uniform(-size, size);
  upload();
}

void expect_close(const char* what, const std::vector<float>& got, const std::vector<double>& exact,
                  const std::vector<float>& plain, bool f32) {
  double plain_error = 0;
  for (size_t i = 0; i < exact.size(); ++i) plain_error = std::max(plain_error, std::fabs(plain[i] - exact[i]));
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    int exponent = 0;
    std::frexp(exact[i], &exponent);
    const double unit = std::ldexp(1.0, exponent - (f32 ? 24 : 8)), bound = 2 * plain_error + unit;
    const double error = std::fabs(got[i] - exact[i]) / bound;
    if (!(error <= worst)) worst = error, at = i;
    if (std::isnan(error)) break;
  }
  if (!(worst <= 1)) {
    fail(text("%s: element %zu of %zu is %.9g, exact %.9g, plain %.9g: %.2f times the bound", what, at, exact.size(),
              double(got[at]), exact[at], double(plain[at]), worst));
  }
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const Case& one : cases()) names.push_back(one.name);
  return names;
}

Outcome run_case(const std::string& name) {
  Outcome out{name, 0, {}, false};
  const auto begin = std::chrono::steady_clock::now();
  failures.clear();
  failure_count = 0;
  generator().seed(1);
#if defined(DRIVLM_EMULATED)
  emu::stats = {};
#endif
  const auto found = std::find_if(cases().begin(), cases().end(), [&](const Case& one) { return name == one.name; });
  if (found == cases().end()) fail("there is no such case");
  try {
    if (found != cases().end()) found->body();
    const cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) fail(std::string("the device says: ") + cudaGetErrorString(error));
  } catch (const std::exception& error) {
    fail(std::string("threw: ") + error.what());
  }
#if defined(DRIVLM_EMULATED)
  for (const emu::Report& report : emu::reports()) fail("emulator: " + report.text);
  emu::clear_reports();
  emu::revive();
#endif
  cudaGetLastError();
  out.lost = cudaDeviceSynchronize() != cudaSuccess;
  if (failure_count > failures.size()) failures.push_back(text("and %zu more", failure_count - failures.size()));
  out.failures = std::move(failures);
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return out;
}

}  // namespace drivlm::cuda::testing
