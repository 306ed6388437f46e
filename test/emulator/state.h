// Inside the emulator: one fiber per CUDA thread, warps as rendezvous groups, a block as an object.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "control.h"
#include "simt.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emu {

constexpr int kMaxThreads = 1024, kMaxWarps = 32;
constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = 17 * kPage;    // lowest page is a guard; an odd count spreads stacks over cache sets
constexpr size_t kStaticShared = 48 << 10;    // arena of SHARED_ARRAYs
constexpr size_t kDynamicShared = 256 << 10;  // dynamic shared memory ends at the end of it, before a guard page
constexpr size_t kSharedSpan = kStaticShared + kDynamicShared;

struct Block;

// A cp.async that was issued; the bytes move when its group is waited for.
struct PendingCopy {
  uint32_t to;
  const void* from;
  uint16_t bytes, from_bytes;
};

struct Lane {
  void* stack_pointer;
  uintptr_t stack;  // lowest address
  Block* block;
  uint3 thread_index;
  uint16_t id;  // in the block
  uint8_t lane, warp;
  Op op;  // what it waits in
  uint32_t mask;
  Site site;
  std::vector<PendingCopy> copies;  // oldest first
  std::vector<int> groups;          // sizes of committed groups, oldest first
  int open_copies;                  // issued and not yet committed
};

struct alignas(64) Warp {
  uint32_t alive, runnable, waiting;  // bit a lane
  Lane* lanes;
  uint32_t sync_epoch;  // counts __syncwarp
  // Operands and results of the collective in progress. With lane = 4 g + t, PTX's fragments make every register of a
  // warp an 8 x 8 row-major block, so [register][lane] arrays are matrices.
  uint64_t value[32];
  int source[32];
  uint32_t a[4][32], b[2][32], result[4][32];
  float c[2][32][2];
  void* tile_d[32];  // f32, or i32 of products of bytes
  const uint32_t *tile_a[32], *tile_b[32];
  int mi, ni, matrices;
};

// Who touched two bytes of shared memory last. Accesses are ordered by a barrier between them (a later epoch), by
// program order of one thread, or by a __syncwarp between lanes of one warp.
struct SharedCell {
  uint32_t epoch, sync_epoch;
  uint16_t thread;
  uint8_t flags;
};
// kLowByte, kHighByte: it was an access to one of the two bytes, which does not race with one to the other.
enum : uint8_t { kInFlight = 1, kWholeWarp = 2, kManyWarps = 4, kLowByte = 8, kHighByte = 16 };
struct SharedShadow {
  SharedCell writer, reader;
};

// Who touched two bytes of global memory: 0 nobody, 1 the host or an earlier launch's copy, else a thread of a launch.
struct GlobalShadow {
  uint32_t writer, reader;
};

struct Block {
  // the launch
  void (*run)(const void*) = nullptr;
  const void* call = nullptr;
  dim3 grid, dimensions;
  int threads = 0, warp_count = 0;
  size_t dynamic_bytes = 0;
  size_t shared_allowed = 0;  // bytes of dynamic shared memory and SHARED_ARRAYs together
  uint32_t first_writer = 0;  // global shadow id of thread 0 of block 0
  // this block
  uint3 index{};
  int alive = 0;
  uint32_t epoch = 0, first_epoch = 0;  // barriers passed, over all blocks ever run
  bool aborted = false;
  unsigned random = 0;
  std::vector<Lane*> at_barrier;
  std::vector<std::pair<const void*, size_t>> static_arrays;  // key, offset
  size_t static_used = 0;
  // reused by every block
  Lane lanes[kMaxThreads];
  Warp warps[kMaxWarps];
  void* scheduler = nullptr;  // stack pointer of the scheduler
  unsigned char* shared;      // kStaticShared, then kDynamicShared, then a guard page
  unsigned char* stacks;
  SharedShadow* shadow;

  Block();
  ~Block();
  Block(const Block&) = delete;

  size_t dynamic_offset() const { return kSharedSpan - (dynamic_bytes + 127) / 128 * 128; }
  uint32_t linear_index() const { return (index.z * grid.y + index.y) * grid.x + index.x; }
  unsigned next_random() { return random = random * 1664525u + 1013904223u, random >> 8; }
  bool shared_ok(uintptr_t offset, size_t bytes) const;
  void run_grid();

 private:
  void run_block();
  void begin_block();
  void report_deadlock();
};

// The fiber that runs on this OS thread; null in host code.
extern thread_local Lane* current __attribute__((tls_model("initial-exec")));

// fiber.cpp
void* prepare_fiber(Lane& lane, void (*entry)());
extern "C" void emu_switch(void** save, void* load);

// scheduler.cpp
[[noreturn]] void abort_block(Lane* lane);

// matrix.cpp
void execute_ldmatrix(Warp& warp, bool trans);
void execute_mma(Warp& warp);
void execute_mma_tile(Warp& warp);
void execute_mma_u8s8_tile(Warp& warp);

// memory.cpp
void* reserve(size_t bytes, bool accessible);
void shared_access(Lane* lane, uintptr_t offset, size_t bytes, bool write, Site site, uint8_t flags = 0);
void global_access(Lane* lane, uintptr_t address, size_t bytes, bool write, Site site);
void any_access(uintptr_t address, size_t bytes, bool write, bool aligned, Site site);
bool is_device(uintptr_t address);
void map_host(const void* p, size_t bytes);  // 0 bytes: no longer
bool is_mapped(uintptr_t address, size_t bytes);
bool device_range_ok(uintptr_t address, size_t bytes);
void mark_written_by_host(const void* p, size_t bytes);
uint32_t reserve_writers(uint64_t threads);
unsigned char* device_allocate(size_t bytes);
bool device_free(void* p);
size_t device_range_left(const void* p);
const char* describe_fault(uintptr_t address, const Lane& lane);

// report.cpp
__attribute__((format(printf, 4, 5))) void report(const char* kind, const Lane* lane, Site site, const char* format,
                                                  ...);
std::string place(const Site& site);
void install_fault_handler();

// sanitizer_hooks.cpp
extern bool instrumented;

}  // namespace emu
