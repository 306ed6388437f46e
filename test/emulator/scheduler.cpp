// Runs a grid: blocks one after another, lanes as fibers that meet in collectives and barriers.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "state.h"

namespace emu {

Options options;
Stats stats;
thread_local Lane* current = nullptr;

namespace {

void to_scheduler(Lane* lane) {
  current = nullptr;
  emu_switch(&lane->stack_pointer, lane->block->scheduler);
}

int pick(Block& block, uint32_t runnable, int after) {
  if (options.seed == 0) {
    const uint32_t later = after == 31 ? 0 : runnable & ~((2u << after) - 1);
    return __builtin_ctz(later ? later : runnable);
  }
  for (int skip = block.next_random() % __builtin_popcount(runnable); skip > 0; --skip) runnable &= runnable - 1;
  return __builtin_ctz(runnable);
}

// Lets another lane of the warp run, or the scheduler if none can.
void yield(Lane* lane) {
  Warp& warp = lane->block->warps[lane->warp];
  if (warp.runnable == 0) return to_scheduler(lane);
  Lane* next = &warp.lanes[pick(*lane->block, warp.runnable, lane->lane)];
  ++stats.switches;
  current = next;
  emu_switch(&lane->stack_pointer, next->stack_pointer);
}

bool needs_all_lanes(Op op) { return op >= Op::ldmatrix; }

void execute(Warp& warp, Op op, uint32_t mask) {
  ++stats.collectives;
  switch (op) {
    case Op::syncwarp: ++warp.sync_epoch; break;
    case Op::shuffle: {
      uint64_t before[32];
      std::copy(warp.value, warp.value + 32, before);
      for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const int i = __builtin_ctz(rest), source = warp.source[i] & 31;
        if (!(mask >> source & 1)) {
          report("shuffle from an absent lane", &warp.lanes[i], warp.lanes[i].site, "lane %d does not take part",
                 source);
        }
        warp.value[i] = before[source];
      }
      break;
    }
    case Op::ballot: {
      uint32_t votes = 0;
      for (uint32_t rest = mask; rest; rest &= rest - 1) {
        votes |= uint32_t(warp.value[__builtin_ctz(rest)] != 0) << __builtin_ctz(rest);
      }
      for (uint32_t rest = mask; rest; rest &= rest - 1) warp.value[__builtin_ctz(rest)] = votes;
      break;
    }
    case Op::ldmatrix:
    case Op::ldmatrix_trans: execute_ldmatrix(warp, op == Op::ldmatrix_trans); break;
    case Op::mma_bf16: execute_mma(warp); break;
    case Op::mma_tile: execute_mma_tile(warp); break;
    case Op::mma_u8s8_tile: execute_mma_u8s8_tile(warp); break;
    case Op::none:
    case Op::barrier: break;
  }
}

// The living lanes of `mask`, if all of them wait in `op` with this mask; else 0.
uint32_t complete_group(const Warp& warp, Op op, uint32_t mask) {
  const uint32_t needed = mask & warp.alive;
  if ((warp.waiting & needed) != needed) return 0;
  for (uint32_t rest = needed; rest; rest &= rest - 1) {
    const Lane& other = warp.lanes[__builtin_ctz(rest)];
    if (other.op != op || other.mask != mask) return 0;
  }
  return needed;
}

void finish_group(Warp& warp, Op op, uint32_t group, Lane* reporter) {
  if (needs_all_lanes(op) && group != ~0u) {
    report("divergence", reporter, reporter->site, "an instruction for whole warps without lanes %08x", ~group);
  }
  execute(warp, op, group);
  warp.waiting &= ~group;
  warp.runnable |= group;
}

// All living lanes of `mask` meet here; the last one does the work for all.
void collective(Lane* lane, Op op, uint32_t mask, Site site) {
  Warp& warp = lane->block->warps[lane->warp];
  const uint32_t bit = 1u << lane->lane;
  lane->op = op, lane->mask = mask, lane->site = site;
  if (!(mask & bit)) report("bad mask", lane, site, "the calling lane is not in mask %08x", mask);
  warp.waiting |= bit;
  warp.runnable &= ~bit;
  if (const uint32_t group = complete_group(warp, op, mask)) return finish_group(warp, op, group, lane);
  yield(lane);
}

void release_barrier(Block& block) {
  ++block.epoch;
  for (Lane* lane : block.at_barrier) {
    Warp& warp = block.warps[lane->warp];
    warp.runnable |= 1u << lane->lane;
    warp.waiting &= ~(1u << lane->lane);
  }
  block.at_barrier.clear();
}

void lane_exit(Lane* lane) {
  Block& block = *lane->block;
  Warp& warp = block.warps[lane->warp];
  warp.alive &= ~(1u << lane->lane);
  warp.runnable &= ~(1u << lane->lane);
  --block.alive;
  if (!lane->copies.empty()) {
    report("unfinished cp.async", lane, lane->site, "thread ended with %zu copies never waited for",
           lane->copies.size());
  }
  for (uint32_t rest = warp.waiting & warp.alive; rest; rest &= rest - 1) {  // did somebody wait only for this lane?
    Lane& other = warp.lanes[__builtin_ctz(rest)];
    if (other.op == Op::barrier || !(warp.waiting >> other.lane & 1)) continue;
    if (const uint32_t group = complete_group(warp, other.op, other.mask)) finish_group(warp, other.op, group, &other);
  }
  if (!block.at_barrier.empty() && int(block.at_barrier.size()) == block.alive) release_barrier(block);
}

void fiber_main() {
  Lane* lane = current;
  lane->block->run(lane->block->call);
  lane_exit(lane);
  yield(lane);
  __builtin_unreachable();
}

void complete_copies(Lane* lane, int count) {
  Block& block = *lane->block;
  for (int i = 0; i < count; ++i) {
    const PendingCopy& copy = lane->copies[i];
    std::memcpy(block.shared + copy.to, copy.from, copy.from_bytes);
    std::memset(block.shared + copy.to + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
    if (!instrumented) continue;
    const uint32_t sync_epoch = block.warps[lane->warp].sync_epoch;
    for (uint32_t at = copy.to; at < copy.to + copy.bytes; at += 2) {
      block.shadow[at / 2].writer = {block.epoch, sync_epoch, lane->id, 0};
    }
  }
  lane->copies.erase(lane->copies.begin(), lane->copies.begin() + count);
}

}  // namespace

Block::Block() {
  shared = static_cast<unsigned char*>(reserve(kSharedSpan + kPage, true));
  mprotect(shared + kSharedSpan, kPage, PROT_NONE);
  shadow = static_cast<SharedShadow*>(reserve(kSharedSpan / 2 * sizeof(SharedShadow), true));
  stacks = static_cast<unsigned char*>(reserve(kStackBytes * kMaxThreads, true));
  for (int i = 0; i < kMaxThreads; ++i) mprotect(stacks + i * kStackBytes, kPage, PROT_NONE);
}

Block::~Block() {
  munmap(shared, kSharedSpan + kPage);
  munmap(shadow, kSharedSpan / 2 * sizeof(SharedShadow));
  munmap(stacks, kStackBytes * kMaxThreads);
}

bool Block::shared_ok(uintptr_t offset, size_t bytes) const {
  if (offset < kStaticShared) return offset + bytes <= static_used;
  return offset >= dynamic_offset() && offset + bytes <= dynamic_offset() + dynamic_bytes;
}

void abort_block(Lane* lane) {
  lane->block->aborted = true;
  to_scheduler(lane);
  __builtin_unreachable();
}

void Block::begin_block() {
  ++stats.blocks;
  std::memset(shared, 0xff, kStaticShared);  // NaNs
  std::memset(shared + dynamic_offset(), 0xff, kSharedSpan - dynamic_offset());
  static_arrays.clear();
  static_used = 0;
  at_barrier.clear();
  first_epoch = ++epoch;
  alive = threads;
  for (int i = 0; i < warp_count; ++i) {
    Warp& warp = warps[i];
    const int count = std::min(32, threads - i * 32);
    warp.alive = warp.runnable = count == 32 ? ~0u : (1u << count) - 1;
    warp.waiting = 0;
    warp.lanes = &lanes[i * 32];
    warp.sync_epoch = 1;
  }
  for (int i = 0; i < threads; ++i) {
    Lane& lane = lanes[i];
    lane.block = this;
    lane.id = uint16_t(i), lane.lane = i & 31, lane.warp = uint8_t(i >> 5);
    lane.thread_index = {i % dimensions.x, i / dimensions.x % dimensions.y, i / dimensions.x / dimensions.y};
    lane.stack = uintptr_t(stacks) + i * kStackBytes;
    lane.copies.clear(), lane.groups.clear(), lane.open_copies = 0;
    lane.op = Op::none, lane.mask = 0, lane.site = {};
    lane.stack_pointer = prepare_fiber(lane, fiber_main);
  }
}

void Block::report_deadlock() {
  for (int i = 0; i < threads; ++i) {
    const Lane& lane = lanes[i];
    const bool lives = warps[lane.warp].alive >> lane.lane & 1;
    const bool repeats = i > 0 && lanes[i - 1].site.line == lane.site.line && lanes[i - 1].op == lane.op;
    if (!lives || repeats) continue;
    report("deadlock", &lane, lane.site, "%s (of %d living threads) waits here for others that never come",
           lane.op == Op::barrier ? "a barrier" : "a warp collective", alive);
  }
}

void Block::run_block() {
  begin_block();
  int order[kMaxWarps];
  for (int i = 0; i < warp_count; ++i) order[i] = i;
  while (alive > 0 && !aborted) {
    if (options.seed) {
      for (int i = warp_count - 1; i > 0; --i) std::swap(order[i], order[next_random() % (i + 1)]);
    }
    bool progress = false;
    for (int i = 0; i < warp_count && !aborted; ++i) {
      Warp& warp = warps[order[i]];
      if (warp.runnable == 0) continue;
      progress = true;
      Lane* next = &warp.lanes[pick(*this, warp.runnable, 31)];
      current = next;
      ++stats.switches;
      emu_switch(&scheduler, next->stack_pointer);
      current = nullptr;
    }
    if (!progress && alive > 0) {
      report_deadlock();
      aborted = true;
    }
  }
}

void Block::run_grid() {
  ++stats.launches;
  aborted = false;
  random = options.seed;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  first_writer = reserve_writers(blocks * threads);
  for (uint64_t i = 0; i < blocks && !aborted; ++i) {
    index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
    run_block();
  }
}

// ---- what kernels call ----

uint3 thread_index() { return current->thread_index; }
uint3 block_index() { return current->block->index; }
uint3 block_dimensions() {
  const dim3& d = current->block->dimensions;
  return {d.x, d.y, d.z};
}
uint3 grid_dimensions() {
  const dim3& d = current->block->grid;
  return {d.x, d.y, d.z};
}
unsigned lane_index() { return current->lane; }
unsigned char* dynamic_shared_base() { return current->block->shared + current->block->dynamic_offset(); }

void* static_shared(const void* key, size_t bytes) {
  Block& block = *current->block;
  for (const auto& [known, offset] : block.static_arrays) {
    if (known == key) return block.shared + offset;
  }
  const size_t offset = (block.static_used + 15) / 16 * 16;
  if (offset + bytes > kStaticShared) {
    report("too much shared memory", current, {}, "static arrays exceed 48 KiB");
    abort_block(current);
  }
  if (offset + bytes + block.dynamic_bytes > block.shared_allowed) {
    report("bad launch", current, {}, "%zu bytes of shared arrays and %zu of dynamic shared memory, %zu allowed in all",
           offset + bytes, block.dynamic_bytes, block.shared_allowed);
    abort_block(current);
  }
  block.static_arrays.emplace_back(key, offset);
  block.static_used = offset + bytes;
  return block.shared + offset;
}

uint32_t shared_offset(const void* p) {
  const uintptr_t offset = uintptr_t(p) - uintptr_t(current->block->shared);
  if (offset > kSharedSpan) {
    report("wild address", current, {nullptr, 0, __builtin_return_address(0)}, "%p is not shared memory", p);
    abort_block(current);
  }
  return uint32_t(offset);
}

void barrier(Site site) {
  Lane* lane = current;
  Block& block = *lane->block;
  Warp& warp = block.warps[lane->warp];
  if (!block.at_barrier.empty()) {
    const Site& other = block.at_barrier[0]->site;
    if (other.line != site.line || std::strcmp(other.file, site.file) != 0) {
      report("divergent barrier", lane, site, "other threads of the block are at the barrier at %s",
             place(other).c_str());
    }
  }
  lane->op = Op::barrier, lane->mask = 0, lane->site = site;
  warp.waiting |= 1u << lane->lane;
  warp.runnable &= ~(1u << lane->lane);
  block.at_barrier.push_back(lane);
  if (int(block.at_barrier.size()) == block.alive) {
    release_barrier(block);
    to_scheduler(lane);  // which starts again from its first warp
  } else {
    yield(lane);
  }
}

void syncwarp(uint32_t mask, Site site) { collective(current, Op::syncwarp, mask, site); }

uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane, Site site) {
  Lane* lane = current;
  Warp& warp = lane->block->warps[lane->warp];
  warp.value[lane->lane] = value, warp.source[lane->lane] = source_lane;
  collective(lane, Op::shuffle, mask, site);
  return warp.value[lane->lane];
}

uint32_t ballot(uint32_t mask, bool predicate, Site site) {
  Lane* lane = current;
  Warp& warp = lane->block->warps[lane->warp];
  warp.value[lane->lane] = predicate;
  collective(lane, Op::ballot, mask, site);
  return uint32_t(warp.value[lane->lane]);
}

uint4 ldmatrix(int matrices, bool trans, uint32_t address, Site site) {
  Lane* lane = current;
  Warp& warp = lane->block->warps[lane->warp];
  const int i = lane->lane;
  warp.value[i] = address, warp.matrices = matrices;
  collective(lane, trans ? Op::ldmatrix_trans : Op::ldmatrix, ~0u, site);
  return {warp.result[0][i], warp.result[1][i], warp.result[2][i], warp.result[3][i]};
}

float4 mma_bf16(uint4 a, uint2 b, float4 c, Site site) {
  Lane* lane = current;
  Warp& warp = lane->block->warps[lane->warp];
  const int i = lane->lane;
  warp.a[0][i] = a.x, warp.a[1][i] = a.y, warp.a[2][i] = a.z, warp.a[3][i] = a.w;
  warp.b[0][i] = b.x, warp.b[1][i] = b.y;
  warp.c[0][i][0] = c.x, warp.c[0][i][1] = c.y, warp.c[1][i][0] = c.z, warp.c[1][i][1] = c.w;
  collective(lane, Op::mma_bf16, ~0u, site);
  return {warp.c[0][i][0], warp.c[0][i][1], warp.c[1][i][0], warp.c[1][i][1]};
}

namespace {
void mma_tile(Op op, int mi, int ni, void* d, const uint32_t* a, const uint32_t* b, Site site) {
  Lane* lane = current;
  Warp& warp = lane->block->warps[lane->warp];
  warp.tile_d[lane->lane] = d, warp.tile_a[lane->lane] = a, warp.tile_b[lane->lane] = b;
  warp.mi = mi, warp.ni = ni;
  collective(lane, op, ~0u, site);
}
}  // namespace

void mma_bf16_tile(int mi, int ni, float* d, const uint32_t* a, const uint32_t* b, Site site) {
  mma_tile(Op::mma_tile, mi, ni, d, a, b, site);
}
void mma_u8s8_tile(int mi, int ni, int32_t* d, const uint32_t* a, const uint32_t* b, Site site) {
  mma_tile(Op::mma_u8s8_tile, mi, ni, d, a, b, site);
}

void cp_async(uint32_t to, const void* from, int bytes, int from_bytes, Site site) {
  Lane* lane = current;
  if (((to | uintptr_t(from)) & (bytes - 1)) && from_bytes) {
    report("misaligned access", lane, site, "cp.async of %d bytes: shared +%u, global %p", bytes, to, from);
    abort_block(lane);
  }
  if (from_bytes) {
    if (is_device(uintptr_t(from))) {
      global_access(lane, uintptr_t(from), from_bytes, false, site);
    } else if (!is_mapped(uintptr_t(from), from_bytes)) {
      report("wild address", lane, site, "cp.async source %p was not allocated with cudaMalloc", from);
      abort_block(lane);
    }
  }
  shared_access(lane, to, bytes, true, site, kInFlight);
  std::memset(lane->block->shared + to, 0xff, bytes);  // NaNs until waited for
  lane->copies.push_back({to, from, uint16_t(bytes), uint16_t(from_bytes)});
  lane->open_copies++;
  ++stats.copies;
}

void cp_async_commit() {
  current->groups.push_back(current->open_copies);
  current->open_copies = 0;
}

void cp_async_wait(int groups) {
  Lane* lane = current;
  const int done = int(lane->groups.size()) - groups;
  if (done <= 0) return;
  int copies = 0;
  for (int i = 0; i < done; ++i) copies += lane->groups[i];
  lane->groups.erase(lane->groups.begin(), lane->groups.begin() + done);
  complete_copies(lane, copies);
}

void check_atomic(const void* p, size_t bytes, Site site) {  // bounds and alignment only: atomics do not race
  Lane* lane = current;
  const uintptr_t address = uintptr_t(p), offset = address - uintptr_t(lane->block->shared);
  const bool ok = offset < kSharedSpan ? lane->block->shared_ok(offset, bytes) : device_range_ok(address, bytes);
  if (!ok || (address & (bytes - 1))) {
    report(ok ? "misaligned access" : "atomic out of bounds", lane, site, "%zu bytes at %p", bytes, p);
    abort_block(lane);
  }
}

uint4 load16(const void* p, Site site) {
  Lane* lane = current;
  const uintptr_t address = uintptr_t(p);
  if ((address & 15) || (!is_device(address) && !is_mapped(address, 16))) {
    report(address & 15 ? "misaligned access" : "wild address", lane, site, "streaming load of 16 bytes at %p", p);
    abort_block(lane);
  }
  if (is_device(address)) global_access(lane, address, 16, false, site);
  uint4 value;
  std::memcpy(&value, p, 16);
  return value;
}

}  // namespace emu
