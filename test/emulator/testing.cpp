#include "testing.h"

#if defined(DRIVLM_EMULATED)
#include "control.h"
#endif

namespace drivlm::cuda::testing {

test::Random& generator() {
  static test::Random instance(1);
  return instance;
}
float uniform(float low, float high) { return generator().uniform(low, high); }
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

test::CaseOutcome run_case(const test::Case& test) {
  generator() = test::Random(1);
#if defined(DRIVLM_EMULATED)
  emu::stats = {};
#endif
  test::CaseOutcome out = test::run_case(test, [] {
    const cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) fail(std::string("the device says: ") + cudaGetErrorString(error));
  });
#if defined(DRIVLM_EMULATED)
  for (const emu::Report& report : emu::reports()) out.failures.push_back("emulator: " + report.text);
  emu::clear_reports();
  emu::revive();
#endif
  cudaGetLastError();
  out.lost = cudaDeviceSynchronize() != cudaSuccess;
  return out;
}

}  // namespace drivlm::cuda::testing
