// What this machine can do at most, measured: dot products from registers in bf16, u8 * s8 and f32, and reading from
// memory. Every share that the bench prints is against these, from the same run.
//
//   drivlm_peaks [--threads N] [--seconds S] [--rounds N]
//   drivlm_peaks read [--threads N] [--rounds N]             reading alone
//
// One JSON object on stdout: { bf16_gflops, u8s8_gops, f32_gflops, read_gbs, threads, cpu_share, with: { bf16, … } }.
// cpu_share is the part of the wanted processor time that the threads were given; well below 1, other programs were
// running.
//
// Arithmetic  Every thread runs 24 independent chains of sums (12 where there are 16 registers), which hides the latency
//             of all these instructions, with the widest instruction that this CPU has for the type. bf16 is worth at
//             least f32: at best it is widened for nothing. One multiply and one add count as two operations.
// Reading     Every thread reads its own run of a buffer far larger than the caches, four streams with prefetch.
// Best of     Seven rounds, or so many as are asked for, in the given time: a peak is what the machine can do, and other
//             programs only take from it.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMany = 24;  // chains where there are 32 registers
constexpr int kFew = 12;   // and where there are 16
int rounds = 7;

std::atomic<uint64_t> sink;  // results go here, so that nothing is optimised away

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Runs a chain for so many turns; what one turn is worth is in Arithmetic::operations.
using Chain = void (*)(int64_t turns);

struct Arithmetic {
  const char* instruction;
  Chain chain;
  int64_t operations;  // a turn
};

// One instruction on `chains` accumulators. All are opaque to the compiler: equal sums would be computed once.
#define DRIVLM_CHAIN(name, isa, chains, Acc, Operand, zero, value, step, registers) \
  __attribute__((target(isa))) void name(int64_t turns) {                           \
    Acc sums[chains];                                                               \
    Operand x = value, y = value;                                                   \
    _Pragma("GCC unroll 32") for (int i = 0; i < chains; ++i) {                     \
      sums[i] = zero;                                                               \
      asm volatile("" : registers(sums[i]));                                        \
    }                                                                               \
    for (int64_t turn = 0; turn < turns; ++turn) {                                  \
      _Pragma("GCC unroll 32") for (int i = 0; i < chains; ++i) sums[i] = step;     \
      asm volatile("" : registers(x), registers(y));                                \
    }                                                                               \
    uint64_t bits = 0;                                                              \
    _Pragma("GCC unroll 32") for (int i = 0; i < chains; ++i) {                     \
      uint64_t part;                                                                \
      std::memcpy(&part, &sums[i], sizeof part);                                    \
      bits ^= part;                                                                 \
    }                                                                               \
    sink.fetch_xor(bits, std::memory_order_relaxed);                                \
  }

#if defined(__x86_64__)

// As assembly: of the integer intrinsics on many accumulators g++ 12 makes moves between registers, half of the time.
#define DRIVLM_DPBUSD(name, isa, Vector, letter, prefix)                                           \
  __attribute__((target(isa), always_inline)) inline Vector name(Vector sum, Vector x, Vector y) { \
    asm(prefix "vpdpbusd %2, %1, %0" : "+" letter(sum) : letter(x), letter(y));                    \
    return sum;                                                                                    \
  }
DRIVLM_DPBUSD(dpbusd_512, "avx512f,avx512vnni", __m512i, "v", "")
DRIVLM_DPBUSD(dpbusd_256, "avx2,avxvnni", __m256i, "x", "%{vex%} ")

DRIVLM_CHAIN(bf16_512, "avx512f,avx512bf16", kMany, __m512, __m512bh, _mm512_setzero_ps(),
             (__m512bh)_mm512_set1_epi32(0x3f003c00), _mm512_dpbf16_ps(sums[i], x, y), "+v")
DRIVLM_CHAIN(u8s8_512, "avx512f,avx512vnni", kMany, __m512i, __m512i, _mm512_setzero_si512(),
             _mm512_set1_epi32(0x01030207), dpbusd_512(sums[i], x, y), "+v")
DRIVLM_CHAIN(f32_512, "avx512f", kMany, __m512, __m512, _mm512_setzero_ps(), _mm512_set1_ps(0.5f),
             _mm512_fmadd_ps(x, y, sums[i]), "+v")
DRIVLM_CHAIN(u8s8_vnni_256, "avx2,avxvnni", kFew, __m256i, __m256i, _mm256_setzero_si256(),
             _mm256_set1_epi32(0x01030207), dpbusd_256(sums[i], x, y), "+x")
DRIVLM_CHAIN(u8s8_256, "avx2", kFew, __m256i, __m256i, _mm256_setzero_si256(), _mm256_set1_epi32(0x01030207),
             _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), y)), "+x")
DRIVLM_CHAIN(f32_256, "avx2,fma", kFew, __m256, __m256, _mm256_setzero_ps(), _mm256_set1_ps(0.5f),
             _mm256_fmadd_ps(x, y, sums[i]), "+x")

// Four chains of sums in the tiles of AMX hide the latency of its products: 16 rows, 16 columns, 64 bytes a turn of each.
#define DRIVLM_TILE_CHAIN(name, op)                                                                    \
  void name(int64_t turns) {                                                                           \
    alignas(64) uint8_t config[64] = {1};                                                              \
    for (int tile = 0; tile < 8; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;           \
    asm volatile("ldtilecfg %1\n1:\n" op " %%tmm6, %%tmm4, %%tmm0\n" op " %%tmm7, %%tmm4, %%tmm1\n" op \
                 " %%tmm6, %%tmm5, %%tmm2\n" op " %%tmm7, %%tmm5, %%tmm3\ndec %0\njnz 1b\ntilerelease" \
                 : "+r"(turns)                                                                         \
                 : "m"(config)                                                                         \
                 : "cc");                                                                              \
  }
DRIVLM_TILE_CHAIN(bf16_amx, "tdpbf16ps")
DRIVLM_TILE_CHAIN(u8s8_amx, "tdpbusd")

// Whether the CPU has AMX and Linux lets this process use it: ARCH_REQ_XCOMP_PERM for the tiles' state.
bool amx() {
#if defined(__linux__)
  static const bool granted = __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") &&
                              ::syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return granted;
#else
  return false;
#endif
}

Arithmetic best_f32() {
  if (__builtin_cpu_supports("avx512f")) return {"vfmadd231ps zmm", f32_512, kMany * 32};
  if (__builtin_cpu_supports("fma")) return {"vfmadd231ps ymm", f32_256, kFew * 16};
  return {nullptr, nullptr, 0};
}
Arithmetic best_bf16() {
  if (amx()) return {"tdpbf16ps tmm", bf16_amx, 4 * 16 * 16 * 64};
  if (__builtin_cpu_supports("avx512bf16")) return {"vdpbf16ps zmm", bf16_512, kMany * 64};
  return {nullptr, nullptr, 0};
}
Arithmetic best_u8s8() {
  if (amx()) return {"tdpbusd tmm", u8s8_amx, 4 * 16 * 16 * 128};
  if (__builtin_cpu_supports("avx512vnni")) return {"vpdpbusd zmm", u8s8_512, kMany * 128};
  if (__builtin_cpu_supports("avxvnni")) return {"vpdpbusd ymm", u8s8_vnni_256, kFew * 64};
  if (__builtin_cpu_supports("avx2")) return {"vpmaddubsw, vpmaddwd, vpaddd ymm", u8s8_256, kFew * 64};
  return {nullptr, nullptr, 0};
}

#elif defined(__aarch64__)

DRIVLM_CHAIN(bf16_neon, "arch=armv8.2-a+bf16", kMany, float32x4_t, bfloat16x8_t, vdupq_n_f32(0),
             vreinterpretq_bf16_u16(vdupq_n_u16(0x3f00)), vbfdotq_f32(sums[i], x, y), "+w")
DRIVLM_CHAIN(s8_neon, "arch=armv8.2-a+dotprod", kMany, int32x4_t, int8x16_t, vdupq_n_s32(0), vdupq_n_s8(3),
             vdotq_s32(sums[i], x, y), "+w")
DRIVLM_CHAIN(f32_neon, "arch=armv8-a", kMany, float32x4_t, float32x4_t, vdupq_n_f32(0), vdupq_n_f32(0.5f),
             vfmaq_f32(sums[i], x, y), "+w")

constexpr unsigned long kHwcapDot = 1ul << 20, kHwcap2Bf16 = 1ul << 14;  // linux/arch/arm64/include/uapi/asm/hwcap.h

Arithmetic best_f32() { return {"fmla 4s", f32_neon, kMany * 8}; }
Arithmetic best_bf16() {
  if (getauxval(AT_HWCAP2) & kHwcap2Bf16) return {"bfdot 4s", bf16_neon, kMany * 16};
  return {nullptr, nullptr, 0};
}
Arithmetic best_u8s8() {
  if (getauxval(AT_HWCAP) & kHwcapDot) return {"sdot 4s", s8_neon, kMany * 32};
  return {nullptr, nullptr, 0};
}

#else

Arithmetic best_f32() { return {nullptr, nullptr, 0}; }
Arithmetic best_bf16() { return best_f32(); }
Arithmetic best_u8s8() { return best_f32(); }

#endif

// What a CPU without any of the above does: the compiler's own vectors.
void plain_chain(int64_t turns) {
  float sums[kMany * 4] = {};
  float x = 0.5f, y = 0.25f;
  for (int64_t turn = 0; turn < turns; ++turn) {
    for (float& sum : sums) sum += x * y;
    asm volatile("" : "+m"(x), "+m"(y));
  }
  float total = 0;
  for (float sum : sums) total += sum;
  uint32_t bits;
  std::memcpy(&bits, &total, sizeof bits);
  sink.fetch_xor(bits, std::memory_order_relaxed);
}

Arithmetic or_plain(Arithmetic best) {
  return best.chain ? best : Arithmetic{"multiply and add as compiled", plain_chain, kMany * 8};
}

// Calls body(thread) on all threads at once; seconds from the common start to the last end.
template <class Body>
double together(int threads, const Body& body) {
  std::atomic<int> waiting{threads};
  std::atomic<bool> go{false};
  std::vector<std::thread> others;
  auto run = [&](int thread) {
    waiting.fetch_sub(1);
    while (!go.load(std::memory_order_acquire)) {
    }
    body(thread);
  };
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  while (waiting.load() > 1) std::this_thread::yield();
  const Clock::time_point begin = Clock::now();
  go.store(true, std::memory_order_release);
  run(0);
  for (std::thread& other : others) other.join();
  return seconds_since(begin);
}

// Operations a second, of all threads together.
double arithmetic_rate(const Arithmetic& arithmetic, int threads, double seconds) {
  int64_t turns = 1 << 14;
  for (;;) {  // warm up, and find out how many turns take a round's time
    const double took = together(threads, [&](int) { arithmetic.chain(turns); });
    if (took >= seconds / rounds / 2) break;
    turns *= 2;
  }
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const double took = together(threads, [&](int) { arithmetic.chain(turns); });
    best = std::max(best, static_cast<double>(threads) * turns * arithmetic.operations / took);
  }
  return best;
}

using Words __attribute__((vector_size(64))) = uint64_t;

void read_run(const char* from, const char* to) {
  Words a = {}, b = {}, c = {}, d = {};
  constexpr int64_t kAhead = 4096;
  for (; from < to; from += 4 * sizeof(Words)) {
    for (size_t i = 0; i < 4; ++i) __builtin_prefetch(from + kAhead + i * sizeof(Words));
    const Words* words = reinterpret_cast<const Words*>(from);
    a += words[0];
    b += words[1];
    c += words[2];
    d += words[3];
  }
  const Words sum = a + b + c + d;
  sink.fetch_xor(sum[0] ^ sum[7], std::memory_order_relaxed);
}

// Bytes a second, of all threads together.
double read_rate(int threads) {
  constexpr size_t kAlign = 2 << 20;
  const size_t bytes = size_t{512} << 20, slice = bytes / threads / kAlign * kAlign;
  char* buffer = static_cast<char*>(std::aligned_alloc(kAlign, bytes));
  if (!buffer || slice == 0) {
    std::fprintf(stderr, "no memory for a buffer of 512 MiB, or more threads than it has huge pages\n");
    std::exit(1);
  }
#if defined(__linux__)
  madvise(buffer, bytes, MADV_HUGEPAGE);
#endif
  // Touched by the thread that reads it: its pages are then near that thread.
  together(threads, [&](int thread) { std::memset(buffer + thread * slice, thread + 1, slice); });
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const double took =
        together(threads, [&](int thread) { read_run(buffer + thread * slice, buffer + (thread + 1) * slice); });
    best = std::max(best, static_cast<double>(slice) * threads / took);
  }
  std::free(buffer);
  return best;
}

// The value after a flag, in [low, high]; a wrong one ends the program.
double number_after(char** arguments, int count, const char* flag, double otherwise, double low, double high) {
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], flag) != 0) continue;
    char* end = nullptr;
    const double value = i + 1 < count ? std::strtod(arguments[i + 1], &end) : -1;
    if (i + 1 < count && end != arguments[i + 1] && *end == 0 && value >= low && value <= high) return value;
    std::fprintf(stderr, "Expected a number from %g to %g after %s.\n", low, high, flag);
    std::exit(2);
  }
  return otherwise;
}

}  // namespace

int main(int count, char** arguments) {
  const double cores = std::max(1u, std::thread::hardware_concurrency());
  const int threads = static_cast<int>(number_after(arguments, count, "--threads", cores, 1, 256));
  const double seconds = number_after(arguments, count, "--seconds", 1, 0.05, 60);
  rounds = static_cast<int>(number_after(arguments, count, "--rounds", rounds, 1, 1000));
  if (count > 1 && std::strcmp(arguments[1], "read") == 0) {
    std::printf("{\"read_gbs\": %.2f}\n", read_rate(threads) / 1e9);
    return 0;
  }

  const Arithmetic u8s8 = or_plain(best_u8s8()), f32 = or_plain(best_f32());
  Arithmetic bf16 = best_bf16().chain ? best_bf16() : f32;
  const Clock::time_point begin = Clock::now();
  const std::clock_t cpu_begin = std::clock();
  const double f32_rate = arithmetic_rate(f32, threads, seconds);
  const double u8s8_rate = arithmetic_rate(u8s8, threads, seconds);
  double bf16_rate = arithmetic_rate(bf16, threads, seconds);
  if (bf16_rate < f32_rate) {
    bf16 = f32;
    bf16_rate = f32_rate;
  }
  const double cpu_seconds = static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC;
  const double cpu_share = std::min(1.0, cpu_seconds / (seconds_since(begin) * threads));
  const double read = read_rate(threads);
  std::printf(
      "{\"bf16_gflops\": %.1f, \"u8s8_gops\": %.1f, \"f32_gflops\": %.1f, \"read_gbs\": %.2f, \"threads\": %d, "
      "\"cpu_share\": %.3f, \"with\": {\"bf16\": \"%s\", \"u8s8\": \"%s\", \"f32\": \"%s\"}}\n",
      bf16_rate / 1e9, u8s8_rate / 1e9, f32_rate / 1e9, read / 1e9, threads, cpu_share, bf16.instruction,
      u8s8.instruction, f32.instruction);
}
