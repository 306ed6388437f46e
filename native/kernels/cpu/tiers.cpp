#include "kernels/cpu/tiers.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace drivlm::cpu {

namespace {

std::vector<Tier> find_tiers() {
  std::vector<Tier> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  all.push_back({"avx512bf16", &kAvx512Bf16Forms, avx512bf16});
  all.push_back({"avx512", &kAvx512Forms, avx512});
  all.push_back({"avxvnni", &kAvxVnniForms, avx2 && __builtin_cpu_supports("avxvnni")});
  all.push_back({"avx2", &kAvx2Forms, avx2});
#elif defined(__aarch64__) && defined(__linux__)
  all.push_back({"neon", &kNeonForms, (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0});
#endif
  all.push_back({"portable", &kPortableForms, true});
  return all;
}

// Intel's vdpbf16ps does half the work of two f32 FMAs a cycle (Emerald Rapids: 86 against 176 GFLOP/s a core); AMD's
// does twice.
bool slow_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel");
#else
  return false;
#endif
}

}  // namespace

std::span<const Tier> tiers() {
  static const std::vector<Tier> all = find_tiers();
  return all;
}

const Tier& tier_named(const char* name) {
  if (!name || !*name) {
    for (const Tier& tier : tiers()) {
      if (tier.supported && !(std::strcmp(tier.name, "avx512bf16") == 0 && slow_bf16())) return tier;
    }
  }
  std::string known;
  for (const Tier& tier : tiers()) {
    if (std::strcmp(tier.name, name) != 0) {
      if (tier.supported) known += std::string(known.empty() ? "" : ", ") + tier.name;
      continue;
    }
    if (tier.supported) return tier;
    throw Error(
        Code::bad_argument,
        text("DRIVLM_CPU asks for '%s', whose instructions this CPU lacks. Unset it to use the best there is.", name));
  }
  throw Error(Code::bad_argument, text("DRIVLM_CPU: expected one of %s, found '%s'.", known.c_str(), name));
}

const Tier& chosen_tier() {
  static const Tier& tier = tier_named(std::getenv("DRIVLM_CPU"));
  return tier;
}

}  // namespace drivlm::cpu
