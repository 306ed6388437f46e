// A test is a function; a failed check prints where and what, and the test goes on.
//
//   TEST(resize_keeps_flat_colours) { CHECK_EQ(resized.width, 7); CHECK_ERROR(Code::bad_view, validate(image)); }
#pragma once

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"

namespace drivlm::test {

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::cerr << file << ":" << line << ": " << what << "\n";
}

template <class A, class B>
void check_equal(const char* file, int line, const char* what, const A& found, const B& expected) {
  if (found == expected) return;
  std::ostringstream message;
  message << what << ": expected " << expected << ", found " << found;
  fail(file, line, message.str());
}

// Runs `body`, which must throw Error of that code.
template <class Body>
void check_error(const char* file, int line, const char* what, Code code, Body body) {
  try {
    body();
  } catch (const Error& error) {
    if (error.code == code) return;
    return fail(
        file, line,
        std::string(what) + ": expected " + code_name(code) + ", found " + code_name(error.code) + ": " + error.what());
  }
  fail(file, line, std::string(what) + ": expected " + code_name(code) + ", found no error");
}

}  // namespace drivlm::test

#define TEST(name)                                                    \
  static void name();                                                 \
  static const ::drivlm::test::Register register_##name(#name, name); \
  static void name()

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) ::drivlm::test::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

#define CHECK_EQ(found, expected) ::drivlm::test::check_equal(__FILE__, __LINE__, #found, found, expected)

#define CHECK_ERROR(code, ...) \
  ::drivlm::test::check_error(__FILE__, __LINE__, #__VA_ARGS__, code, [&] { (void)(__VA_ARGS__); })
