// Context switches between fibers: callee-saved registers and the stack pointer.
#include "state.h"

// The switch ends with `ret`: lanes resume at the same place, so the return predictor stays right.
#if defined(__x86_64__)
asm(R"(.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emu_switch,.-emu_switch
)");
#elif defined(__aarch64__)
asm(R"(.text
.globl emu_switch
.type emu_switch,%function
emu_switch:
  sub sp,sp,#160
  stp x19,x20,[sp,#0]
  stp x21,x22,[sp,#16]
  stp x23,x24,[sp,#32]
  stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]
  stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]
  stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x19,x20,[sp,#0]
  ldp x21,x22,[sp,#16]
  ldp x23,x24,[sp,#32]
  ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]
  ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]
  ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
)");
#else
#error "the emulator knows x86-64 and aarch64"
#endif

namespace emu {

void* prepare_fiber(Lane& lane, void (*entry)()) {
  // Coloured by thread, or all stacks would share the same cache sets.
  void** sp = reinterpret_cast<void**>(lane.stack + kStackBytes - (lane.id * 5 % 16) * 256);
#if defined(__x86_64__)
  *--sp = nullptr;  // so that the stack is 8 past a multiple of 16 on entry
  *--sp = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
#else
  sp -= 20;
  std::memset(sp, 0, 160);
  sp[11] = reinterpret_cast<void*>(entry);
#endif
  return sp;
}

}  // namespace emu
