// The device heap and the shadow memory behind every check of a load or store.
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "state.h"

namespace emu {

namespace {

constexpr size_t kHeap = size_t(64) << 30;  // address space, never reused
struct Allocation {
  uintptr_t low = 0, high = 0;
  bool live = false;
};

struct Heap {
  unsigned char* base = static_cast<unsigned char*>(reserve(kHeap, false));
  uint32_t* page_owner = static_cast<uint32_t*>(reserve(kHeap / kPage * sizeof(uint32_t), true));
  GlobalShadow* shadow = static_cast<GlobalShadow*>(reserve(kHeap / 2 * sizeof(GlobalShadow), true));
  std::vector<Allocation> allocations{1};
  size_t used = kPage;  // address space handed out
  size_t bytes = 0;     // live
  uint32_t next_writer = 2;
};
Heap& heap() {
  static Heap* instance = new Heap;  // never destroyed: host code may free device memory while the process ends
  return *instance;
}
std::vector<std::pair<uintptr_t, size_t>> mapped;  // host memory that kernels may read
const unsigned char* heap_base = nullptr;          // heap().base once there is a heap

const Allocation& owner(uintptr_t address) {
  return heap().allocations[heap().page_owner[(address - uintptr_t(heap_base)) / kPage]];
}

size_t printable(uintptr_t offset, const Block& block) {
  return offset < kStaticShared ? offset : offset - block.dynamic_offset();
}

// Did the access in `cell` happen before everything `lane` does now?
bool ordered(const SharedCell& cell, const Lane* lane) {
  const Block& block = *lane->block;
  if (cell.epoch < block.epoch) return true;
  if (cell.flags & kManyWarps) return false;
  const int warp = cell.flags & kWholeWarp ? cell.thread : cell.thread >> 5;
  if (!(cell.flags & kWholeWarp) && cell.thread == lane->id) return true;
  return warp == lane->warp && cell.sync_epoch < block.warps[warp].sync_epoch;
}

__attribute__((noinline)) void race(const char* kind, const SharedCell& cell, const Lane* lane, uintptr_t offset,
                                    Site site) {
  const size_t at = printable(offset, *lane->block);
  if (cell.flags & kManyWarps) {
    report(kind, lane, site, "shared +%zu, against several warps since the last barrier", at);
  } else {
    report(kind, lane, site, "shared +%zu, against %s %d, no barrier between", at,
           cell.flags & kWholeWarp ? "warp" : "thread", cell.thread);
  }
}

bool other_byte(const SharedCell& cell, uint8_t byte) {
  return byte && (cell.flags & (kLowByte | kHighByte)) && !(cell.flags & byte);
}

void note_read(SharedCell& reader, const Lane* lane, uint8_t byte) {
  const Block& block = *lane->block;
  const uint32_t sync_epoch = block.warps[lane->warp].sync_epoch;
  if (ordered(reader, lane)) {
    reader = {block.epoch, sync_epoch, lane->id, byte};
  } else if (!(reader.flags & kManyWarps)) {
    const int warp = reader.flags & kWholeWarp ? reader.thread : reader.thread >> 5;
    if (warp == lane->warp) {
      reader = {block.epoch, sync_epoch, lane->warp, kWholeWarp};
    } else {
      reader = {block.epoch, 0, 0, kManyWarps};
    }
  }
}

// Code and constants of the program itself and its libraries, which kernels may read.
bool is_module(uintptr_t address) {
  static std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
  const auto inside = [&] {
    return std::any_of(ranges.begin(), ranges.end(), [&](auto r) { return address >= r.first && address < r.second; });
  };
  if (inside()) return true;
  ranges.clear();
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& p = info->dlpi_phdr[i];
          if (p.p_type == PT_LOAD)
            ranges.emplace_back(info->dlpi_addr + p.p_vaddr, info->dlpi_addr + p.p_vaddr + p.p_memsz);
        }
        return 0;
      },
      nullptr);
  return inside();
}

}  // namespace

void* reserve(size_t bytes, bool accessible) {
  void* p = mmap(nullptr, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::fprintf(stderr, "emulator: cannot reserve %zu bytes of address space\n", bytes);
    std::abort();
  }
  return p;
}

unsigned char* device_allocate(size_t bytes) {
  Heap& h = heap();
  heap_base = h.base;
  // 256-byte aligned as cudaMalloc's, with less than that between the end and a guard page.
  const size_t rounded = (std::max<size_t>(bytes, 1) + 255) / 256 * 256, pages = (rounded + kPage - 1) / kPage;
  if (h.bytes + bytes > options.device_bytes || h.used + (pages + 1) * kPage > kHeap) return nullptr;
  unsigned char* first = h.base + h.used;
  if (mprotect(first, pages * kPage, PROT_READ | PROT_WRITE)) return nullptr;
  unsigned char* p = first + pages * kPage - rounded;
  std::memset(first, 0xff, pages * kPage);  // NaNs
  for (size_t i = 0; i <= pages; ++i) h.page_owner[h.used / kPage + i] = uint32_t(h.allocations.size());
  h.allocations.push_back({uintptr_t(p), uintptr_t(p) + bytes, true});
  h.used += (pages + 1) * kPage;
  h.bytes += bytes;
  return p;
}

bool device_free(void* p) {
  if (!is_device(uintptr_t(p))) return false;
  Heap& h = heap();
  Allocation& a = h.allocations[h.page_owner[(uintptr_t(p) - uintptr_t(h.base)) / kPage]];
  if (!a.live || a.low != uintptr_t(p)) return false;
  a.live = false;
  h.bytes -= a.high - a.low;
  const uintptr_t low = a.low / kPage * kPage, bytes = (a.high + kPage - 1) / kPage * kPage - low;
  madvise(reinterpret_cast<void*>(low), bytes, MADV_DONTNEED);
  mprotect(reinterpret_cast<void*>(low), bytes, PROT_NONE);
  return true;
}

size_t device_bytes_in_use() { return heap().bytes; }
bool is_device(uintptr_t address) { return heap_base && address - uintptr_t(heap_base) < kHeap; }

void map_host(const void* p, size_t bytes) {
  std::erase_if(mapped, [&](const auto& one) { return one.first == uintptr_t(p); });
  if (bytes) mapped.emplace_back(uintptr_t(p), bytes);
}

bool is_mapped(uintptr_t address, size_t bytes) {
  const bool found = std::any_of(mapped.begin(), mapped.end(), [&](const auto& one) {
    return address >= one.first && address + bytes <= one.first + one.second;
  });
  stats.mapped_reads += found;
  return found;
}

bool device_range_ok(uintptr_t address, size_t bytes) {
  if (!is_device(address)) return false;
  const Allocation& a = owner(address);
  return a.live && address >= a.low && address + bytes <= a.high;
}

size_t device_range_left(const void* p) {
  if (!is_device(uintptr_t(p))) return 0;
  const Allocation& a = owner(uintptr_t(p));
  return a.live && uintptr_t(p) >= a.low && uintptr_t(p) <= a.high ? a.high - uintptr_t(p) : 0;
}

void mark_written_by_host(const void* p, size_t bytes) {
  if (!instrumented || !is_device(uintptr_t(p))) return;
  const uintptr_t offset = uintptr_t(p) - uintptr_t(heap_base);
  for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) heap().shadow[i] = {1, 0};
}

uint32_t reserve_writers(uint64_t threads) {
  Heap& h = heap();
  if (h.next_writer + threads > 0xffffffffu) {  // start again: everything older counts as written by the host
    for (size_t i = 0; i < h.used / 2; ++i) {
      GlobalShadow& s = h.shadow[i];
      if (s.writer | s.reader) s = {s.writer ? 1u : 0u, 0};
    }
    h.next_writer = 2;
  }
  const uint32_t first = h.next_writer;
  h.next_writer += uint32_t(threads);
  return first;
}

void shared_access(Lane* lane, uintptr_t offset, size_t bytes, bool write, Site site, uint8_t flags) {
  Block& block = *lane->block;
  if (!block.shared_ok(offset, bytes)) {
    report("shared out of bounds", lane, site, "%s of %zu bytes at %s +%zd (static %zu, dynamic %zu bytes)",
           write ? "write" : "read", bytes, offset < kStaticShared ? "static" : "dynamic",
           ssize_t(printable(offset, block)), block.static_used, block.dynamic_bytes);
    abort_block(lane);
  }
  if (!instrumented) return;
  const uint32_t sync_epoch = block.warps[lane->warp].sync_epoch;
  const uint8_t byte = bytes == 1 ? (offset & 1 ? kHighByte : kLowByte) : 0;
  const SharedShadow* end = block.shadow + (offset + bytes + 1) / 2;
  for (SharedShadow* cell = block.shadow + offset / 2; cell < end; ++cell, offset += 2) {
    const SharedCell& writer = cell->writer;
    const bool written = writer.epoch >= block.first_epoch;
    if (written && (writer.flags & kInFlight)) {
      report(write ? "write under cp.async" : "read before cp.async completed", lane, site,
             "shared +%zu, the copy issued by thread %u is in flight", printable(offset, block), writer.thread);
    } else if (written && !ordered(writer, lane) && !other_byte(writer, byte)) {
      race(write ? "write-after-write race" : "read-after-write race", writer, lane, offset, site);
    }
    if (write) {
      if (cell->reader.epoch >= block.first_epoch && !ordered(cell->reader, lane) && !other_byte(cell->reader, byte)) {
        race("write-after-read race", cell->reader, lane, offset, site);
      }
      cell->writer = {block.epoch, sync_epoch, lane->id, uint8_t(flags | byte)};
      cell->reader = {};
    } else {
      if (!written) {
        report("uninitialised shared", lane, site, "read of shared +%zu never written by this block",
               printable(offset, block));
      }
      note_read(cell->reader, lane, byte);
    }
  }
}

void global_access(Lane* lane, uintptr_t address, size_t bytes, bool write, Site site) {
  if (!device_range_ok(address, bytes)) {
    const Allocation& a = owner(address);
    report("global out of bounds", lane, site, "%s of %zu bytes at %+zd of an allocation of %zu%s",
           write ? "write" : "read", bytes, ssize_t(address - a.low), size_t(a.high - a.low),
           a.live ? "" : " that was freed");
    abort_block(lane);
  }
  if (!instrumented) return;
  const Block& block = *lane->block;
  const uint32_t threads = block.threads, first = block.first_writer + block.linear_index() * threads;
  const auto other_block = [&](uint32_t id) {
    return options.global_races && id >= block.first_writer && id - first >= threads;
  };
  const uintptr_t offset = address - uintptr_t(heap_base);
  GlobalShadow* end = heap().shadow + (offset + bytes + 1) / 2;
  for (GlobalShadow* cell = heap().shadow + offset / 2; cell < end; ++cell) {
    if (other_block(cell->writer)) {
      const uint32_t id = cell->writer - block.first_writer;
      report(write ? "global write-write conflict" : "global read of another block's write", lane, site,
             "with thread %u of block %u of the same launch", id % threads, id / threads);
    }
    if (write) {
      if (other_block(cell->reader)) {
        const uint32_t id = cell->reader - block.first_writer;
        report("global write after another block's read", lane, site, "with thread %u of block %u of the same launch",
               id % threads, id / threads);
      }
      cell->writer = first + lane->id;
    } else {
      if (!cell->writer) {
        report("uninitialised global", lane, site, "read of %zu bytes at %p never written", bytes,
               reinterpret_cast<void*>(address));
      }
      if (!other_block(cell->reader)) cell->reader = first + lane->id;  // keep another block's mark
    }
  }
}

// A plain load or store of instrumented code.
void any_access(uintptr_t address, size_t bytes, bool write, bool aligned, Site site) {
  Lane* lane = current;
  if (!lane || address - lane->stack < kStackBytes) return;  // host code, or a local variable
  const Block& block = *lane->block;
  ++stats.accesses;
  if (aligned && bytes <= 16 && (address & (bytes - 1))) {
    report("misaligned access", lane, site, "%zu-byte %s at %p", bytes, write ? "write" : "read",
           reinterpret_cast<void*>(address));
    abort_block(lane);
  }
  if (address - uintptr_t(block.shared) < kSharedSpan + kPage) {
    shared_access(lane, address - uintptr_t(block.shared), bytes, write, site);
  } else if (is_device(address)) {
    global_access(lane, address, bytes, write, site);
  } else if (address - uintptr_t(block.stacks) < kStackBytes * kMaxThreads) {
    report("another thread's local", lane, site, "%p", reinterpret_cast<void*>(address));
  } else if (is_mapped(address, bytes)) {
    if (write)
      report("host memory written", lane, site, "%p was registered to be read", reinterpret_cast<void*>(address));
  } else if (is_module(address)) {
    if (write) report("host memory written", lane, site, "a kernel may not write host globals");
  } else {
    report("wild address", lane, site, "%p is neither shared nor allocated with cudaMalloc",
           reinterpret_cast<void*>(address));
    abort_block(lane);
  }
}

const char* describe_fault(uintptr_t address, const Lane& lane) {
  if (is_device(address)) return "global memory out of bounds (guard page)";
  if (address - uintptr_t(lane.block->shared) < kSharedSpan + kPage) return "shared memory out of bounds (guard page)";
  if (address - lane.stack < kPage) return "stack overflow of a fiber";
  return "wild address";
}

}  // namespace emu
