// ln sum exp over logits, of every target that this CPU has, against sums in double.
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "device/sampling.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/targets.h"

using namespace drivlm;
using namespace drivlm::cpu;

namespace {

std::vector<float> logits_of(int64_t count, float size) {
  std::vector<float> values(count);
  uint32_t state = 7;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = size * static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
  }
  return values;
}

}  // namespace

TEST(cpu_log_sum_exp) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const Target& target : targets()) {
    if (!target.supported) continue;
    for (int64_t count : {1, 3, 15, 16, 17, 31, 513, 1000, 151655}) {
      for (float size : {0.001f, 5.0f, 80.0f, 30000.0f}) {
        std::vector<float> logits = logits_of(count, size);
        const auto same = [&] {
          const double got = target.kernels->log_sum_exp(logits.data(), count),
                       want = log_sum_exp(logits.data(), count);
          CHECK(std::abs(got - want) <= 2e-6 + 1e-7 * std::abs(want));
        };
        same();
        if (count < 4) continue;
        logits[0] = nan;
        logits[count - 1] = -infinity;
        logits[count / 2] = nan;
        same();
      }
    }
  }
}
