// The register tile of AMX: 32 rows of x against a panel of 32 columns, four tile registers of sums.
//
//   c [rows, 32] = x [rows, k] * panel [32, k]^T
//
// Panel     Sixteen units, 2 KiB, are two tiles of B as they are (gemm.h): the pairs of bf16 or quads of bytes of columns
//           0..15 and 16..31. A step is sixteen units: 32 values of k in bf16, 64 in bytes. Panels that end inside a step
//           are copied with zeros behind.
// x         Packed as [16 rows][step][row][16 words], 1 KiB a tile of A; k is filled up with zeros. Rows past the last are
//           whatever was there: no sum of another row sees them.
// Numerics  tdpbf16ps adds each step's even and odd values of k apart, in f32, then both to the sum; subnormals count as
//           zero. A row's sums depend on nothing but its own values and the panel. Bytes are exact in int32.
// State     Tiles are configured for each share of a product and released after it: other code of the thread pays nothing.
#pragma once

#include "kernels/cpu/simd.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

constexpr int64_t kStepUnits = 16;
constexpr int64_t kStepBytes = kStepUnits * 128;  // of a panel
constexpr int64_t kTileBytes = 1024;

// g++ 12 tells its own intrinsics nothing of the memory they read, hence these.
DRIVLM_INLINE void configure_tiles(const void* config) {
  asm volatile("ldtilecfg %0" ::"m"(*static_cast<const char (*)[64]>(config)));
}
DRIVLM_INLINE void release_tiles() { asm volatile("tilerelease"); }
template <int kTile>
DRIVLM_INLINE void load_tile(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
DRIVLM_INLINE void store_tile(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
DRIVLM_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

// Sums are tiles 0..3, x is 4 and 5, the panel 6 and 7. `rows`: of a tile of x, 1 to 16.
class TileScope {
 public:
  explicit TileScope(int64_t rows) {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    static_assert(sizeof config == 64);
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = i < 6 ? static_cast<uint8_t>(rows) : 16;
    }
    configure_tiles(&config);
  }
  ~TileScope() { release_tiles(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// The sum in tile kSum grows by x in tile kX times the panel in tile kPanel.
struct AmxPairs {
  template <int kSum, int kX, int kPanel>
  DRIVLM_INLINE static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kPanel));
  }
};
struct AmxBytes {
  template <int kSum, int kX, int kPanel>
  DRIVLM_INLINE static void multiply() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kPanel));
  }
};

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
