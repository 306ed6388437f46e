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

TEST(cpu_log_sum_exp) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const Target& target : targets()) {
    if (!target.supported) continue;
    for (int64_t count : {1, 3, 15, 16, 17, 31, 513, 1000, 151655}) {
      for (float size : {0.001f, 5.0f, 80.0f, 30000.0f}) {
        std::vector<float> logits = test::Random(7).floats(count, size);
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
