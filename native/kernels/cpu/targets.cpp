#include "kernels/cpu/targets.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace drivlm::cpu {

namespace {

// Linux keeps the tiles of AMX from a process that has not asked for them: each thread's state grows by 8 KiB once it uses them.
// Once for all threads; refused where the kernel is older than 5.16, or a sandbox forbids it.
bool granted_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

std::vector<Target> find_targets() {
  std::vector<Target> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  // These also say that the system saves the tiles (XCR0).
  const bool amx = avx512bf16 && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                   __builtin_cpu_supports("amx-int8") && granted_tiles();
  all.push_back({"amx", &kAmxKernels, amx});
  all.push_back({"avx512bf16", &kAvx512Bf16Kernels, avx512bf16});
  all.push_back({"avx512", &kAvx512Kernels, avx512});
  all.push_back({"avxvnni", &kAvxVnniKernels, avx2 && __builtin_cpu_supports("avxvnni")});
  all.push_back({"avx2", &kAvx2Kernels, avx2});
#elif defined(__aarch64__) && defined(__linux__)
  all.push_back({"neon", &kNeonKernels, (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0});
#endif
  all.push_back({"portable", &kPortableKernels, true});
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

std::span<const Target> targets() {
  static const std::vector<Target> all = find_targets();
  return all;
}

const Target& target_named(const char* name) {
  if (!name || !*name) {
    for (const Target& target : targets()) {
      if (target.supported && !(std::strcmp(target.name, "avx512bf16") == 0 && slow_bf16())) return target;
    }
  }
  std::string known;
  for (const Target& target : targets()) {
    if (std::strcmp(target.name, name) != 0) {
      if (target.supported) known += std::string(known.empty() ? "" : ", ") + target.name;
      continue;
    }
    if (target.supported) return target;
    throw Error(
        Code::bad_argument,
        text("DRIVLM_CPU asks for '%s', whose instructions this CPU lacks. Unset it to use the best there is.", name));
  }
  throw Error(Code::bad_argument, text("DRIVLM_CPU: expected one of %s, found '%s'.", known.c_str(), name));
}

const Target& chosen_target() {
  static const Target& target = target_named(std::getenv("DRIVLM_CPU"));
  return target;
}

}  // namespace drivlm::cpu
