#include "failing_new.h"

#include <cstdlib>
#include <new>

namespace {

thread_local bool armed = false;
thread_local size_t fails_at = 0;
thread_local int passes = 0, failures = 0;

bool fails(size_t bytes) {
  if (!armed) return false;
  const bool now = fails_at > 0 ? bytes == fails_at : passes-- == 0;
  failures += now;
  return now;
}

void* allocate(size_t bytes, size_t align) {
  if (fails(bytes)) return nullptr;
  if (align <= alignof(std::max_align_t)) return std::malloc(bytes > 0 ? bytes : 1);
  return std::aligned_alloc(align, (bytes + align - 1) / align * align);
}

void* allocate_or_throw(size_t bytes, size_t align = 1) {
  if (void* memory = allocate(bytes, align)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t bytes) { return allocate_or_throw(bytes); }
void* operator new[](size_t bytes) { return allocate_or_throw(bytes); }
void* operator new(size_t bytes, std::align_val_t align) { return allocate_or_throw(bytes, size_t(align)); }
void* operator new[](size_t bytes, std::align_val_t align) { return allocate_or_throw(bytes, size_t(align)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes, 1); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes, 1); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace drivlm::test {

FailingNew::FailingNew(size_t bytes, int passed) {
  fails_at = bytes, passes = passed, failures = 0;
  armed = true;
}
FailingNew::~FailingNew() { armed = false; }
int FailingNew::failed() const { return failures; }

}  // namespace drivlm::test
