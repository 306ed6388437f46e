// The static libstdc++ of Debian 12's g++, built on glibc 2.36, calls two things that the oldest C library we serve does not have. They stand
// here, hidden inside the addon, so that one binary loads with glibc 2.29 and later.

#include <sys/random.h>

#include <cstdint>

#ifdef __GLIBC__
extern "C" {

// glibc 2.32. "There may be more threads" is always right, and in Node it is true.
__attribute__((visibility("hidden"))) extern char __libc_single_threaded;
char __libc_single_threaded = 0;

// glibc 2.36; std::random_device takes its bits here.
__attribute__((visibility("hidden"))) uint32_t arc4random() {
  uint32_t value = 0;
  if (getentropy(&value, sizeof value) != 0) __builtin_trap();
  return value;
}
}
#endif
