// The checks themselves: what they must find, they find.
#include <functional>
#include <utility>

#include "check.h"

namespace drivlm::test {
namespace {

size_t failures_of(const std::function<void()>& body) {
  const Failures before = std::exchange(failures(), {});
  body();
  return std::exchange(failures(), before).count;
}

TEST(checks_fail_where_they_must) {
  CHECK_EQ(failures_of([] { CHECK(1 + 1 == 2); }), size_t{0});
  CHECK_EQ(failures_of([] { CHECK(1 + 1 == 3); }), size_t{1});
  CHECK_EQ(failures_of([] { CHECK_EQ(1 + 1, 3); }), size_t{1});
  CHECK_EQ(failures_of([] { CHECK_ERROR(Code::busy, throw Error(Code::busy, "")); }), size_t{0});
  CHECK_EQ(failures_of([] { CHECK_ERROR(Code::busy, throw Error(Code::internal, "")); }), size_t{1});
  CHECK_EQ(failures_of([] { CHECK_ERROR(Code::busy, 0); }), size_t{1});
}

TEST(check_close_holds_to_twice_the_plain_error_and_a_last_place_unit) {
  const auto off = [](float found, float plain, int bits) {
    return failures_of([&] { check_close("value", {0, found}, {0, 1.5}, {0, plain}, bits); });
  };
  CHECK_EQ(off(1.5f + 0x1p-7f, 1.5f, 8), size_t{0});
  CHECK_EQ(off(1.5f + 0x1.1p-7f, 1.5f, 8), size_t{1});
  CHECK_EQ(off(1.5f + 0x1p-7f, 1.5f, 24), size_t{1});
  CHECK_EQ(off(1.5f + 0x1p-7f, 1.5f + 0x1p-8f, 24), size_t{0});
  CHECK_EQ(off(NAN, 1.5f, 8), size_t{1});
  CHECK_EQ(failures_of([] { check_close("sizes", {1}, {1, 1}, {1, 1}); }), size_t{1});
}

}  // namespace
}  // namespace drivlm::test
