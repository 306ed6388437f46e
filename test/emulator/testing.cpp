#include "testing.h"

#include <cmath>
#include <cstdio>
#include <cstring>

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
int failures = 0;
}  // namespace

Registration::Registration(const char* name, void (*body)()) { cases().push_back({name, body}); }

void fail(const std::string& message) {
  if (++failures <= 20) std::printf("  %s\n", message.c_str());
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

}  // namespace drivlm::cuda::testing

// Arguments: name prefixes of the cases to run; none runs all.
int main(int argc, char** argv) {
  using namespace drivlm::cuda::testing;
  int run = 0, failed = 0;
  for (const auto& test : cases()) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted |= std::strncmp(test.name, argv[i], std::strlen(argv[i])) == 0;
    if (!wanted) continue;
    ++run;
    failures = 0;
    generator().seed(1);
    try {
      test.body();
      cudaError_t error = cudaDeviceSynchronize();
      if (error != cudaSuccess) fail(std::string("the device says: ") + cudaGetErrorString(error));
    } catch (const std::exception& error) {
      fail(std::string("threw: ") + error.what());
    }
#if defined(DRIVLM_EMULATED)
    for (const emu::Report& report : emu::reports()) fail("emulator: " + report.text);
    emu::clear_reports();
    emu::revive();
    const auto stats = std::exchange(emu::stats, {});
    std::printf("%-4s %-28s %5llu launches %8llu blocks %.3gM products %.3gM accesses, %llu bank conflicts\n",
                failures ? "FAIL" : "ok", test.name, stats.launches, stats.blocks, stats.matrix_products * 1e-6,
                stats.accesses * 1e-6, stats.ldmatrix_conflicts);
#else
    std::printf("%-4s %s\n", failures ? "FAIL" : "ok", test.name);
#endif
    std::fflush(stdout);
    failed += failures > 0;
  }
  std::printf("%d cases, %d failed\n", run, failed);
  return failed > 0 || run == 0;
}
