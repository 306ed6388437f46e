// An operator new that fails when a test tells it to: what is done about memory that cannot be had.
#pragma once

#include <cstddef>

namespace drivlm::test {

// While it lives, allocations of this thread fail: those of exactly `bytes`, or with 0 the one after `passed` others.
class FailingNew {
 public:
  explicit FailingNew(size_t bytes, int passed = 0);
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  int failed() const;  // how many did
};

}  // namespace drivlm::test
