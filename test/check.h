// What the C++ tests of test/native, test/network and test/emulator have in common: cases, checks, the rule for results that are rounded, random
// data. A test is a function; a failed check says where and what, and the test goes on.
//
//   TEST(resize_keeps_flat_colours) { CHECK_EQ(resized.width, 7); CHECK_ERROR(Code::bad_view, validate(image)); }
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/numeric.h"

namespace drivlm::test {

// ---- cases ----

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

struct CaseOutcome {
  std::string name;
  double seconds = 0;
  std::vector<std::string> failures;  // the first of them, and how many more there were
  bool lost = false;                  // the device answers no more calls of this process
};

// Of the case that runs.
struct Failures {
  static constexpr size_t kMost = 20;
  std::vector<std::string> first;
  size_t count = 0;
};

inline Failures& failures() {
  static Failures all;
  return all;
}

inline void fail(const std::string& what) {
  if (++failures().count <= Failures::kMost) failures().first.push_back(what);
}

inline void fail(const char* file, int line, const std::string& what) {
  fail(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

// The body, then `after`, whose failures are the case's too.
template <class After>
CaseOutcome run_case(const Case& test, const After& after) {
  failures() = {};
  const auto begin = std::chrono::steady_clock::now();
  try {
    test.body();
    after();
  } catch (const std::exception& error) {
    fail(std::string("unexpected exception: ") + error.what());
  }
  CaseOutcome outcome{test.name, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
                      std::move(failures().first), false};
  if (failures().count > Failures::kMost)
    outcome.failures.push_back("and " + std::to_string(failures().count - Failures::kMost) + " more");
  return outcome;
}

// What a test program ends with.
struct Tally {
  int passed = 0, failed = 0;

  void count(bool ok) { ++(ok ? passed : failed); }
  int exit_code(const char* program) const {  // prints the sums
    std::printf("%s: %d passed, %d failed\n", program, passed, failed);
    return failed > 0 || passed == 0;
  }
};

// A test program: the cases whose names contain one of the arguments, or all of them. `run` gives a case's outcome, `note` what else is to be
// said of it.
template <class Run, class Note>
int run_cases(int argc, char** argv, const char* program, const Run& run, const Note& note) {
  Tally tally;
  for (const Case& test : cases()) {
    const auto named = [&](const char* part) { return std::string_view(test.name).find(part) != std::string::npos; };
    if (argc > 1 && std::none_of(argv + 1, argv + argc, named)) continue;
    const CaseOutcome outcome = run(test);
    for (const std::string& failure : outcome.failures) std::printf("  %s\n", failure.c_str());
    const std::string more = note();
    if (!outcome.failures.empty() || !more.empty())
      std::printf("%-4s %s%s\n", outcome.failures.empty() ? "ok" : "FAIL", test.name, more.c_str());
    std::fflush(stdout);
    tally.count(outcome.failures.empty());
  }
  return tally.exit_code(program);
}

// ---- checks ----

template <class A, class B>
void check_equal(const char* file, int line, const char* what, const A& found, const B& expected) {
  if (found == expected) return;
  std::ostringstream message;
  message << what << ": expected " << expected << ", found " << found;
  fail(file, line, message.str());
}

// Runs `body`, which must throw Error of that code; its message.
template <class Body>
std::string check_error(const char* file, int line, const char* what, Code code, Body body) {
  std::string found = "no error", message;
  try {
    body();
  } catch (const Error& error) {
    message = error.what();
    if (error.code == code) return message;
    found = std::string(code_name(error.code)) + ": " + message;
  }
  fail(file, line, std::string(what) + ": expected " + code_name(code) + ", found " + found);
  return message;
}

// The rule for results that are rounded: a value may miss that of the same computation in f64, `exact`, by twice what the plain computation
// misses it by anywhere (f32 sums, rounded where the network rounds), plus one last-place unit of a number of `bits` significant bits.
inline void check_close(const std::string& what, const std::vector<float>& found, const std::vector<double>& exact,
                        const std::vector<float>& plain, int bits = 8) {
  if (found.size() != exact.size() || plain.size() != exact.size()) return fail(what + ": sizes differ");
  double plain_error = 0, worst = 0;
  for (size_t i = 0; i < exact.size(); ++i) plain_error = std::max(plain_error, std::fabs(plain[i] - exact[i]));
  size_t at = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    int exponent = 0;
    std::frexp(exact[i], &exponent);
    const double difference = std::fabs(found[i] - exact[i]);
    const double times = difference == 0 ? 0 : difference / (2 * plain_error + std::ldexp(1.0, exponent - bits));
    if (!(times <= worst)) worst = times, at = i;
    if (std::isnan(times)) break;
  }
  if (worst <= 1) return;
  fail(text("%s: element %zu of %zu is %.9g, exact %.9g, plain %.9g: %.2f times the bound", what.c_str(), at,
            exact.size(), double(found[at]), exact[at], double(plain[at]), worst));
}

// ---- random data, the same on every machine ----

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  uint32_t operator()() { return static_cast<uint32_t>(engine_()); }
  float next() { return static_cast<float>(static_cast<int32_t>((*this)())) * 0x1p-31f; }  // [-1, 1]
  float uniform(float low, float high) { return low + (high - low) * (0.5f + 0.5f * next()); }

  std::vector<float> floats(int64_t count, float size) {
    std::vector<float> values(count);
    for (float& v : values) v = next() * size;
    return values;
  }
  // bf16 bits
  std::vector<uint16_t> halves(int64_t count, float size) {
    std::vector<uint16_t> values(count);
    for (uint16_t& v : values) v = from_float<bf16>(next() * size).bits;
    return values;
  }
  // Values that bf16 holds exactly, so that devices of every precision start from the same numbers.
  std::vector<float> narrow(int64_t count, float size) {
    std::vector<float> values(count);
    for (float& v : values) v = to_float(from_float<bf16>(next() * size));
    return values;
  }

 private:
  std::mt19937 engine_;
};

}  // namespace drivlm::test

#define TEST(name)                                                           \
  static void test_##name();                                                 \
  static const ::drivlm::test::Register register_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) ::drivlm::test::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

#define CHECK_EQ(found, expected) ::drivlm::test::check_equal(__FILE__, __LINE__, #found, found, expected)

#define CHECK_ERROR(code, ...) \
  ::drivlm::test::check_error(__FILE__, __LINE__, #__VA_ARGS__, code, [&] { (void)(__VA_ARGS__); })
