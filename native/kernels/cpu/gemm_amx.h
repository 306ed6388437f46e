// One thread's share of a matrix product on AMX: rows of x packed as tiles, every panel over all of them.
//
// All of bf16 weights but for a few rows and, where there are more than kStreamRows rows, of quantised ones: those in bytes against x in bytes, the
// others expanded to bf16 a panel at a time.
#pragma once

#include "kernels/cpu/amx.h"
#include "kernels/cpu/gemm_formats.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

// Sums of up to 16 (kTiles 1) or 32 (2) rows. `ahead` bytes from `next` on are fetched a step.
template <class Dot, int kTiles>
void amx_tile(float* sums, const char* w, const char* x, int64_t steps, const char* next, int64_t ahead) {
  clear_tile<0>();
  clear_tile<1>();
  if constexpr (kTiles == 2) {
    clear_tile<2>();
    clear_tile<3>();
  }
  const char* x1 = x + steps * kTileBytes;
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t i = 0; i < ahead; i += 64) fetch_ahead(next + i);
    next += ahead;
    load_tile<4>(x, 64);
    load_tile<6>(w, 128);
    Dot::template multiply<0, 4, 6>();
    load_tile<7>(w + 64, 128);
    Dot::template multiply<1, 4, 7>();
    if constexpr (kTiles == 2) {
      load_tile<5>(x1, 64);
      Dot::template multiply<2, 5, 6>();
      Dot::template multiply<3, 5, 7>();
    }
    w += kStepBytes;
    x += kTileBytes;
    x1 += kTileBytes;
  }
  store_tile<0>(sums, 128);
  store_tile<1>(sums + 16, 128);
  if constexpr (kTiles == 2) {
    store_tile<2>(sums + 16 * 32, 128);
    store_tile<3>(sums + 16 * 32 + 16, 128);
  }
}

// 32 values in bf16 from the first n of `from`, zeros behind.
DRIVLM_INLINE U pairs_of(const float* from, int64_t n) {
  const F low = n > 0 ? load_first(from, n) : F{}, high = n > 16 ? load_first(from + 16, n - 16) : F{};
  return NarrowedWords::narrowed(low, high);
}
DRIVLM_INLINE U pairs_of(const uint16_t* from, int64_t n) {
  if (n >= 32) return load_bits(from);
  return reinterpret_cast<U>(_mm512_maskz_loadu_epi16((1u << n) - 1, from));
}

template <class T>
void pack_tile_rows(char* out, const T* in, int64_t stride, int64_t rows, int64_t k, int64_t steps) {
  for (int64_t r = 0; r < rows; ++r, in += stride) {
    char* to = out + (r / 16 * steps * 16 + r % 16) * 64;
    for (int64_t step = 0; step < steps; ++step, to += kTileBytes)
      store_bits(to, pairs_of(in + step * 32, k - step * 32));
  }
}

// x by columns: value (i, p) at in[p * stride + i].
void pack_tile_columns(char* out, const float* in, int64_t stride, int64_t rows, int64_t k, int64_t steps) {
  for (int64_t r = 0; r < rows; r += 16) {
    const int64_t count = min_of(16, rows - r);
    for (int64_t step = 0; step < steps; ++step, out += kTileBytes) {
      U words[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t p = step * 32 + i * 2;
        const float* low = in + p * stride + r;
        words[i] = p < k ? paired(low, p + 1 < k ? low + stride : nullptr, count) : U{};
      }
      transpose(words);
      for (int64_t i = 0; i < 16; ++i) store_bits(out + i * 64, words[i]);
    }
  }
}

// Rows of x as tiles of bf16.
void pack_tiles(char* out, const GemmJob& job, int64_t row, int64_t rows, int64_t steps) {
  if (job.x_by_columns) {
    pack_tile_columns(out, static_cast<const float*>(job.x) + row, job.x_stride, rows, job.k, steps);
  } else if (job.x_f32) {
    pack_tile_rows(out, static_cast<const float*>(job.x) + row * job.x_stride, job.x_stride, rows, job.k, steps);
  } else {
    pack_tile_rows(out, static_cast<const uint16_t*>(job.x) + row * job.x_stride, job.x_stride, rows, job.k, steps);
  }
}

// The same in bytes, each row with a scale and a shift.
void pack_byte_tiles(char* out, const GemmJob& job, int64_t row, int64_t rows, int64_t steps, uint8_t* bytes,
                     float* scales, float* shifts) {
  for (int64_t r = 0; r < rows; ++r) {
    const ByteRange range = round_to_8(bytes, job, row_of_x(job, row + r));
    scales[r] = range.scale;
    shifts[r] = range.shift();
    char* to = out + (r / 16 * steps * 16 + r % 16) * 64;
    for (int64_t step = 0; step < steps; ++step) store_bits(to + step * kTileBytes, load_bits(bytes + step * 64));
  }
}

// A panel of bytes or of bf16 as tiles read it: itself, or in `space`, if it must be expanded or ends inside a step.
const char* whole_panel(const GemmJob& job, const char* packed, bool bytes, int64_t steps, char* space,
                        S4AsBytes& as_bytes) {
  const int64_t end = steps * kStepBytes;
  int64_t filled = cpu::unit_count(job.kind, job.k) * cpu::kUnitBytes;
  if (job.kind == WeightKind::s4 && bytes) {
    as_bytes.expand(space, packed, job.k);
    filled *= 2;
  } else if (job.kind == WeightKind::s4) {
    S4Groups::expand(space, packed, job.k);
    return space;
  } else if (job.kind == WeightKind::s8 && !bytes) {
    S8Rows::expand(space, packed, job.k);
    filled *= 2;
  } else if (filled == end) {
    return packed;
  } else {
    memcpy(space, packed, static_cast<size_t>(filled));
  }
  memset(space + filled, 0, static_cast<size_t>(end - filled));
  return space;
}

// body(panel) for every panel that the share gets.
template <class Body>
DRIVLM_INLINE void each_panel(cpu::Panels& panels, const Body& body) {
  for (cpu::PanelRange range = panels.take(); range.first < range.end; range = panels.take()) {
    for (int64_t panel = range.first; panel < range.end; ++panel) body(panel);
  }
}

template <class Dot>
void multiply_tiles(const GemmJob& job, int64_t row0, int64_t rows, cpu::Panels& panels, const char* x, int64_t steps,
                    char* space, const float* scales, const float* shifts) {
  alignas(64) float sums[cpu::kMatrixTileRows * 32];
  constexpr bool kBytes = std::is_same_v<Dot, AmxBytes>;
  const Finish finish = finish_for(job);
  const int64_t bytes = cpu::panel_bytes(job.kind, job.k),
                tiles = (rows + cpu::kMatrixTileRows - 1) / cpu::kMatrixTileRows;
  const int64_t ahead = (bytes + tiles * steps - 1) / (tiles * steps);
  S4AsBytes as_bytes;
  const TileScope scope(min_of(rows, 16));
  each_panel(panels, [&](int64_t panel) {
    const char* packed = static_cast<const char*>(job.w) + panel * bytes;
    const char* w = whole_panel(job, packed, kBytes, steps, space, as_bytes);
    const bool s8 = job.kind == WeightKind::s8;
    const float* w_scale = s8 ? job.w_scale + panel * 32 : kBytes ? as_bytes.scale : nullptr;
    const int32_t* w_sum = s8 ? job.w_sum + panel * 32 : as_bytes.sum;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * cpu::kMatrixTileRows, height = min_of(cpu::kMatrixTileRows, rows - first);
      // Each tile of a panel fetches a part of the next panel; the only one streams.
      const char* next = packed + (tiles == 1 ? kStreamAhead : bytes + ahead * steps * t);
      fetch_out(job, row0 + first, height, panel);
      const auto tile = height > 16 ? amx_tile<Dot, 2> : amx_tile<Dot, 1>;
      tile(sums, w, x + first / 16 * steps * kTileBytes, steps, next, ahead);
      const Rescale by = kBytes ? Rescale{true, scales + first, shifts + first, w_scale, w_sum}
                                : Rescale{false, nullptr, nullptr, w_scale, nullptr};
      finish(job, by, sums, row0 + first, height, panel);
    }
  });
}

// ---- up to kFewRows rows of bf16 weights, without tiles ----
//
// What decoding does is bound by reading weights, and vector loads read them faster than tiles do. The sums are those of tdpbf16ps bit
// for bit, so that a row's result stays independent of the rows beside it: of each step the even and the odd values of k by fused
// multiplies of their own, then both to the sum, subnormals being zero.

constexpr int64_t kFewRows = 4;
constexpr int64_t kFewRowsAhead = 4096;  // bytes fetched early

// While it lives, subnormals count as zero.
class SubnormalsAreZero {
 public:
  SubnormalsAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~SubnormalsAreZero() { _mm_setcsr(before_); }
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;

 private:
  const unsigned before_;
};

// Rows of x, rounded to bf16, as f32: [row][step][16 even, 16 odd values of k], zeros behind.
template <class T>
void widen_rows(float* out, const T* in, int64_t stride, int64_t rows, int64_t k, int64_t steps) {
  for (int64_t r = 0; r < rows; ++r, in += stride) {
    for (int64_t step = 0; step < steps; ++step, out += 32) {
      const U pairs = pairs_of(in + step * 32, k - step * 32);
      store(out, reinterpret_cast<F>(pairs << 16));
      store(out + 16, reinterpret_cast<F>(pairs & 0xffff0000u));
    }
  }
}

// a * b + c, rounded once; written as a product and a sum it is left to the optimiser, which at -O1 rounds twice.
DRIVLM_INLINE F fused(F a, F b, F c) {
  return reinterpret_cast<F>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
}

// Sums [kRows, 32] of one panel of `units`. Not inlined: arithmetic stays between the changes of its mode.
template <int kRows>
__attribute__((noinline)) void few_rows(float* sums, const char* w, const float* x, int64_t units, int64_t steps) {
  F sum[kRows][2] = {};
  for (int64_t step = 0; step < steps; ++step, x += 32) {
    F even[kRows][2] = {}, odd[kRows][2] = {};
    const int64_t left = min_of(kStepUnits, units - step * kStepUnits);
    for (int64_t i = 0; i < left; ++i, w += cpu::kUnitBytes) {
      fetch_ahead(w + kFewRowsAhead);
      fetch_ahead(w + kFewRowsAhead + 64);
      const F even0 = even_values(w), even1 = even_values(w + 64), odd0 = odd_values(w), odd1 = odd_values(w + 64);
      DRIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F low = splat(x[r * steps * 32 + i]), high = splat(x[r * steps * 32 + 16 + i]);
        even[r][0] = fused(even0, low, even[r][0]);
        even[r][1] = fused(even1, low, even[r][1]);
        odd[r][0] = fused(odd0, high, odd[r][0]);
        odd[r][1] = fused(odd1, high, odd[r][1]);
      }
    }
    DRIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] += even[r][0] + odd[r][0];
      sum[r][1] += even[r][1] + odd[r][1];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    store(sums + r * 32, sum[r][0]);
    store(sums + r * 32 + 16, sum[r][1]);
  }
}

void multiply_few_rows(const GemmJob& job, int64_t row0, int64_t rows, cpu::Panels& panels, float* x) {
  constexpr void (*for_rows[])(float*, const char*, const float*, int64_t, int64_t) = {few_rows<1>, few_rows<2>,
                                                                                       few_rows<3>, few_rows<4>};
  static_assert(std::size(for_rows) == kFewRows);
  alignas(64) float sums[kFewRows * 32];
  const int64_t steps = (job.k + 31) / 32, units = cpu::unit_count(job.kind, job.k);
  if (job.x_f32) {
    widen_rows(x, static_cast<const float*>(job.x) + row0 * job.x_stride, job.x_stride, rows, job.k, steps);
  } else {
    widen_rows(x, static_cast<const uint16_t*>(job.x) + row0 * job.x_stride, job.x_stride, rows, job.k, steps);
  }
  const Finish finish = finish_for(job);
  each_panel(panels, [&](int64_t panel) {
    fetch_out(job, row0, rows, panel);
    {
      const SubnormalsAreZero mode;
      const char* w = static_cast<const char*>(job.w) + panel * cpu::panel_bytes(job.kind, job.k);
      for_rows[rows - 1](sums, w, x, units, steps);
    }
    finish(job, {}, sums, row0, rows, panel);
  });
}

void multiply_in_tiles(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch) {
  const int64_t rows = row1 - row0, row_bytes = rounded_row(job.k);
  char* expanded = scratch + packed_x_bytes(rows, job.k);
  if ((job.kind == WeightKind::s8 || job.kind == WeightKind::s4) && job.x_int8) {
    const int64_t steps = (job.k + 63) / 64;
    uint8_t* bytes = reinterpret_cast<uint8_t*>(expanded + expanded_bytes(job.k));
    float* scales = reinterpret_cast<float*>(bytes + aligned_bytes(row_bytes));
    float* shifts = scales + rows;
    pack_byte_tiles(scratch, job, row0, rows, steps, bytes, scales, shifts);
    return multiply_tiles<AmxBytes>(job, row0, rows, panels, scratch, steps, expanded, scales, shifts);
  }
  if (job.kind == WeightKind::bf16 && rows <= kFewRows && !job.x_by_columns)
    return multiply_few_rows(job, row0, rows, panels, reinterpret_cast<float*>(scratch));
  const int64_t steps = (job.k + 31) / 32;
  pack_tiles(scratch, job, row0, rows, steps);
  multiply_tiles<AmxPairs>(job, row0, rows, panels, scratch, steps, expanded, nullptr, nullptr);
}

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
