// ln sum exp over logits, of every target that this CPU has, against sums in double.
#include <algorithm>
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

// The lowest id among the largest logits that may be chosen, found in blocks, against the plain search.
TEST(greedy_choice) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  test::Random random(3);
  for (const int64_t count : {1, 2, 63, 64, 65, 128, 200, 1000}) {
    for (int round = 0; round < 40; ++round) {
      std::vector<float> logits = random.floats(count, 4);
      for (float& v : logits) v = std::round(v);  // many are the largest
      if (round % 4 == 1) logits[round % count] = nan, logits[count - 1] = nan;
      if (round % 8 == 3) std::fill(logits.begin(), logits.end(), nan);
      if (round % 4 == 2) std::fill(logits.begin(), logits.end(), -infinity), logits[round * 7 % count] = nan;
      std::vector<uint32_t> allowed((count + 31) / 32);
      for (uint32_t& word : allowed) word = static_cast<uint32_t>(std::lround(random.floats(1, 1e9f)[0]));
      const int32_t banned[] = {0, 64, static_cast<int32_t>(count / 2)};
      SampleParams params;
      if (round % 3 == 1) params.banned = banned, params.banned_count = 3;
      if (round % 3 == 2) params.allowed = allowed.data();
      if (round % 5 == 4) params.vocab_limit = (count + 1) / 2;
      int32_t best = -1;
      for (int32_t i = 0; i < sampled_ids(count, params); ++i) {
        const bool may = !(round % 3 == 1 && (i == banned[0] || i == banned[1] || i == banned[2])) &&
                         !(round % 3 == 2 && !(allowed[i / 32] >> (i % 32) & 1));
        if (may && logits[i] == logits[i] && (best < 0 || logits[i] > logits[best])) best = i;
      }
      CHECK(choose_row(logits.data(), count, params) == best);
    }
  }
}
