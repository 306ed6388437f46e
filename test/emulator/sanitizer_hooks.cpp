// The callbacks that GCC and clang emit under -fsanitize=thread,alignment,bounds. We define them instead of linking
// libtsan, so the compiler reports every plain load and store of a kernel file to the emulator.
#include "state.h"

namespace emu {
bool instrumented = false;
bool checked() { return instrumented; }
}  // namespace emu

using emu::any_access;

#define CALLER \
  emu::Site { nullptr, 0, __builtin_return_address(0) }
#define ACCESSES(n)                                                                             \
  void __tsan_read##n(void* p) { any_access(uintptr_t(p), n, false, true, CALLER); }            \
  void __tsan_write##n(void* p) { any_access(uintptr_t(p), n, true, true, CALLER); }            \
  void __tsan_unaligned_read##n(void* p) { any_access(uintptr_t(p), n, false, false, CALLER); } \
  void __tsan_unaligned_write##n(void* p) { any_access(uintptr_t(p), n, true, false, CALLER); }

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* p, size_t n) { any_access(uintptr_t(p), n, false, false, CALLER); }
void __tsan_write_range(void* p, size_t n) { any_access(uintptr_t(p), n, true, false, CALLER); }
void* __tsan_memset(void* to, int value, size_t n) {
  any_access(uintptr_t(to), n, true, false, CALLER);
  return std::memset(to, value, n);
}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  any_access(uintptr_t(from), n, false, false, CALLER);
  any_access(uintptr_t(to), n, true, false, CALLER);
  return std::memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  any_access(uintptr_t(from), n, false, false, CALLER);
  any_access(uintptr_t(to), n, true, false, CALLER);
  return std::memmove(to, from, n);
}
// Reference counts in the launchers of instrumented files.
int __tsan_atomic32_fetch_add(volatile int* p, int value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_fetch_sub(volatile int* p, int value, int) {
  return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_load(const volatile int* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
long __tsan_atomic64_load(const volatile long* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
char __tsan_atomic8_load(const volatile char* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() { emu::instrumented = true; }

struct UbsanPlace {
  const char* file;
  uint32_t line, column;
};
struct UbsanType {
  UbsanPlace place;
  void* type;
  unsigned char log_alignment, kind;
};
struct UbsanIndex {
  UbsanPlace place;
};
void __ubsan_handle_type_mismatch_v1(UbsanType* data, uintptr_t p) {
  emu::Lane* lane = emu::current;
  if (!lane) return;
  emu::report("misaligned access", lane, {data->place.file, int(data->place.line), nullptr},
              "address %p, the type wants %d bytes", reinterpret_cast<void*>(p), 1 << data->log_alignment);
  emu::abort_block(lane);
}
void __ubsan_handle_out_of_bounds(UbsanIndex* data, uintptr_t index) {
  emu::Lane* lane = emu::current;
  emu::report("array index out of bounds", lane, {data->place.file, int(data->place.line), nullptr}, "index %zd",
              ssize_t(index));
  if (lane) emu::abort_block(lane);
}
}
