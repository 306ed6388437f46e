// One thread's share of a matrix product: pack the rows of x, run the register tile over the panels, finish the sums.
//
// Blocking  x of the share is packed once and stays in L2 (the caller bounds its rows); each panel then passes over all
// its
//           tiles, read from memory once and from L2 after that, its successor prefetched meanwhile.
//           The sums of one tile go through 1.8 KiB of stack so that the epilogue is written once.
#pragma once

#include "kernels/cpu/gemm_formats.h"
#if defined(__AMX_BF16__)
#include "kernels/cpu/gemm_amx.h"
#endif

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

// kRows values of each of `depth` columns.
template <int kRows>
void copy_columns(uint32_t* out, const float* in, int64_t stride, int64_t depth) {
  for (int64_t p = 0; p < depth; ++p, out += kRows, in += stride) memcpy(out, in, kRows * sizeof(float));
}

template <class>
struct ColumnCopies;
template <int... kLess>
struct ColumnCopies<std::integer_sequence<int, kLess...>> {
  static constexpr void (*for_rows[])(uint32_t*, const float*, int64_t, int64_t) = {copy_columns<kLess + 1>...};
};

// As pack_x, of x by columns: its values [from, to) along k, `from` a multiple of 2.
template <class Dot>
void pack_x_columns(uint32_t* out, const GemmJob& job, int64_t row, int64_t rows, int64_t from, int64_t to) {
  const float* in = static_cast<const float*>(job.x) + row;
  if constexpr (!Dot::kPairs) {
    ColumnCopies<std::make_integer_sequence<int, kTileRows>>::for_rows[rows - 1](
        out + from * rows, in + from * job.x_stride, job.x_stride, to - from);
    if (to < job.k) return;
    for (int64_t i = job.k * rows; i % (Dot::kWords * rows) != 0; ++i) out[i] = 0;
  } else {
    out += from / 2 * rows;
    for (int64_t p = from; p < to; p += 2, out += rows) {
      for (int64_t i = 0; i < rows; i += kWidth) {
        const float* low = in + p * job.x_stride + i;
        const U words = paired(low, p + 1 < job.k ? low + job.x_stride : nullptr, rows - i);
        store_first(reinterpret_cast<float*>(out + i), reinterpret_cast<F>(words), rows - i);
      }
    }
  }
}

// Rows [row, row + rows) of x as [word][rows], for weights in bf16 (also those expanded to it) or f32.
template <class Dot>
void pack_x(uint32_t* out, const GemmJob& job, int64_t row, int64_t rows) {
  const int64_t element = job.x_f32 ? 4 : 2;
  const char* in = row_of_x(job, row);
  const int64_t stride = job.x_stride * element, bytes = job.k * element;
  if (Dot::kPairs) {
    if (job.x_f32) {
      pack_rows<NarrowedWords>(out, in, stride, rows, bytes, rows);
    } else {
      pack_rows<RawWords>(out, in, stride, rows, bytes, rows);
    }
  } else if (job.x_f32) {
    pack_rows<RawWords>(out, in, stride, rows, bytes, rows);
  } else {
    pack_rows<WidenedWords>(out, in, stride, rows, bytes, rows);
  }
  // An odd k leaves half of the last unit's words unwritten where words are single values.
  for (int64_t i = job.k; !Dot::kPairs && i % Dot::kWords != 0; ++i) {
    for (int64_t r = 0; r < rows; ++r) out[i * rows + r] = 0;
  }
}

// Every tile of rows [row0, row0 + rows), `words` along k. By columns a value of k is a line or two for a tile, far from the next, and the tile beside it reads on in
// the same lines: all tiles take a few values of k, whose lines stay in L1, before any takes more, and the lines of those are fetched.
template <class Dot>
void pack_share(uint32_t* x, const GemmJob& job, int64_t row0, int64_t rows, int64_t tiles, int64_t words) {
  constexpr int64_t kTogether = 8;  // lines a page apart are of one set of L1, which has 8 ways or more
  const int64_t each = job.x_by_columns ? kTogether : job.k;
  for (int64_t from = 0; from < job.k; from += each) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
      uint32_t* out = x + first * words;
      if (!job.x_by_columns) {
        pack_x<Dot>(out, job, row0 + first, height);
        continue;
      }
      const float* ahead = static_cast<const float*>(job.x) + (from + each) * job.x_stride + row0 + first;
      for (int64_t i = 0; i < each; ++i) __builtin_prefetch(ahead + i * job.x_stride);
      pack_x_columns<Dot>(out, job, row0 + first, height, from, min_of(from + each, job.k));
    }
  }
}

// An expanded panel and, of x in 8 bits, the rows of a tile with a scale and a shift each, come after the packed x.
size_t gemm_scratch(int64_t rows, int64_t k) {
  return packed_x_bytes(rows, k) + expanded_bytes(k) + aligned_bytes(kTileRows * rounded_row(k)) +
         aligned_bytes(rows * 8);
}

// Every panel over all tiles. Tiles are of equal height, or one less.
//   expand(w)                                             the panel at w as the tiles read it
//   run_tile(first, height, w, panel, next, step, sums)   sums [height, 32] of rows first.. of the share; returns what
//   is left to do to them;
//                                                         `step` bytes from `next` on are to be fetched a unit, of
//                                                         `units`
template <class Expand, class RunTile>
DRIVLM_INLINE void over_range(const GemmJob& job, int64_t row0, int64_t rows, int64_t tiles, cpu::PanelRange range,
                              int64_t units, const Expand& expand, const RunTile& run_tile) {
  alignas(64) float sums[kTileRows * 32];
  const Finish finish = finish_for(job);
  const int64_t bytes = cpu::panel_bytes(job.kind, job.k), step = (bytes + tiles * units - 1) / (tiles * units);
  for (int64_t panel = range.first; panel < range.end; ++panel) {
    const char* packed = static_cast<const char*>(job.w) + panel * bytes;
    const char* w = expand(packed);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
      // Each tile of a panel fetches a part of the next panel; the only one streams.
      const char* next = packed + (tiles == 1 ? kStreamAhead : bytes + bytes * t / tiles);
      fetch_out(job, row0 + first, height, panel);
      const Rescale by = run_tile(first, height, w, panel, next, step, sums);
      finish(job, by, sums, row0 + first, height, panel);
    }
  }
}

// The same for every panel that the share gets.
template <class Expand, class RunTile>
DRIVLM_INLINE void over_panels(const GemmJob& job, int64_t row0, int64_t rows, int64_t tiles, cpu::Panels& panels,
                               int64_t units, const Expand& expand, const RunTile& run_tile) {
  for (cpu::PanelRange range = panels.take(); range.first < range.end; range = panels.take())
    over_range(job, row0, rows, tiles, range, units, expand, run_tile);
}

// Where k is large, a panel, the one after it and x fill L2. A few tiles take such a panel in blocks instead: each stays in L1 for all of them while the next is
// fetched, and sums go on from block to block, the same in the same order. docs/decisions/0051 has what it brings.
constexpr int64_t kDeepUnits = 1024, kBlockUnits = 160, kFewTiles = 8;

template <class Dot>
void over_deep_range(const GemmJob& job, int64_t row0, int64_t rows, int64_t tiles, cpu::PanelRange range,
                     int64_t units, const uint32_t* x) {
  alignas(64) float sums[kFewTiles][kTileRows * 32];
  const Finish finish = finish_for(job);
  const int64_t blocks = (units + kBlockUnits - 1) / kBlockUnits, step = (cpu::kUnitBytes + tiles - 1) / tiles;
  for (int64_t panel = range.first; panel < range.end; ++panel) {
    const char* w = static_cast<const char*>(job.w) + panel * units * cpu::kUnitBytes;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t from = units * b / blocks, count = units * (b + 1) / blocks - from;
      const char* block = w + from * cpu::kUnitBytes;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
        if (b + 1 == blocks) fetch_out(job, row0 + first, height, panel);
        const uint32_t* words = x + (first * units + from * height) * Dot::kWords;
        tile_for<Dot>(height)(sums[t], 32, block, reinterpret_cast<const float*>(words), count,
                              block + count * cpu::kUnitBytes + count * step * t, step, b > 0);
      }
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
      finish(job, {}, sums[t], row0 + first, height, panel);
    }
  }
}

// Whether the sums of whole panels can go where they belong from the registers, without a form of `finish`: products of training.
DRIVLM_INLINE bool stores_sums(const GemmJob& job) {
  return job.out_f32 && job.scale == nullptr && (job.after == Epilogue::store || job.after == Epilogue::add);
}

// The form of Dot whose passes read columns side by side; void where there is none.
template <class Dot>
using Near = std::conditional_t<std::is_same_v<Dot, F32Fma>, F32Near, std::conditional_t<kWidth == 16, Dot, void>>;

// bf16 and f32 weights.
template <class Dot>
void multiply(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, uint32_t* x) {
  const int64_t rows = row1 - row0, tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t units = cpu::unit_count(job.kind, job.k), words = units * Dot::kWords;
  pack_share<Dot>(x, job, row0, rows, tiles, words);
  if (tiles > 1 && tiles <= kFewTiles && units > kDeepUnits) {
    for (cpu::PanelRange range = panels.take(); range.first < range.end; range = panels.take())
      over_deep_range<Dot>(job, row0, rows, tiles, range, units, x);
    return;
  }
  const bool storing = !std::is_void_v<Near<Dot>> && stores_sums(job);
  const int64_t bytes = cpu::panel_bytes(job.kind, job.k), step = (bytes + tiles * units - 1) / (tiles * units);
  for (cpu::PanelRange range = panels.take(); range.first < range.end; range = panels.take()) {
    // Whole panels whose sums are only stored or added go where they belong from the registers.
    if constexpr (!std::is_void_v<Near<Dot>>) {
      for (; storing && range.first < min_of(range.end, job.n / 32); ++range.first) {
        const char* w = static_cast<const char*>(job.w) + range.first * bytes;
        const Storing how{job.bias ? job.bias + range.first * 32 : nullptr, job.after == Epilogue::add};
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t first = rows * t / tiles, height = rows * (t + 1) / tiles - first;
          const char* next = w + (tiles == 1 ? kStreamAhead : bytes + bytes * t / tiles);
          float* out = static_cast<float*>(job.out) + (row0 + first) * job.out_stride + range.first * 32;
          final_tile_for<Near<Dot>>(height)(out, job.out_stride, w, reinterpret_cast<const float*>(x + first * words),
                                            units, next, step, how);
        }
      }
    }
    over_range(
        job, row0, rows, tiles, range, units, [](const char* w) { return w; },
        [&](int64_t first, int64_t height, const char* w, int64_t, const char* next, int64_t each, float* sums) {
          tile_for<Dot>(height)(sums, 32, w, reinterpret_cast<const float*>(x + first * words), units, next, each,
                                false);
          return Rescale{};
        });
  }
}

// ---- weights in 8 and 4 bits ----

// x in 16 bits against the weights as they are: gemm_stream.h.
void stream_s8(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch);
void stream_s4(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch);

#if !defined(__AMX_BF16__)
// What many rows of x meet in an expanded panel.
using Expanded = std::conditional_t<kBf16Pairs, Bf16Dots, F32Fma>;
constexpr int64_t kExpandTiles = 8;  // tiles that make it worth while for bf16 weights

// Many rows of x as they are: each panel is expanded once, then meets every tile.
template <class Format>
void multiply_expanded(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch) {
  const int64_t rows = row1 - row0, tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t units = cpu::unit_count(kExpanded, job.k), words = units * Expanded::kWords;
  uint32_t* x = reinterpret_cast<uint32_t*>(scratch);
  char* expanded = scratch + packed_x_bytes(rows, job.k);
  pack_share<Expanded>(x, job, row0, rows, tiles, words);
  over_panels(
      job, row0, rows, tiles, panels, units,
      [&](const char* w) {
        Format::expand(expanded, w, job.k);
        return static_cast<const char*>(expanded);
      },
      [&](int64_t first, int64_t height, const char* w, int64_t panel, const char* next, int64_t step, float* sums) {
        tile_for<Expanded>(height)(sums, 32, w, reinterpret_cast<const float*>(x + first * words), units, next, step,
                                   false);
        return Rescale{false, nullptr, nullptr, Format::row_scale(job, panel), nullptr};
      });
}

// Many rows of x in 8 bits against s8, or s4 expanded to it; both widened to 16 bits where no instruction multiplies bytes.
void multiply_int8(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* scratch) {
  const int64_t rows = row1 - row0, tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t units = cpu::unit_count(WeightKind::s8, job.k) * (kWidensBytes ? 2 : 1), row_bytes = rounded_row(job.k);
  uint32_t* x = reinterpret_cast<uint32_t*>(scratch);
  uint8_t* bytes = reinterpret_cast<uint8_t*>(scratch) + packed_x_bytes(rows, job.k) + expanded_bytes(job.k);
  float* scales = reinterpret_cast<float*>(bytes + aligned_bytes(kTileRows * row_bytes));
  float* shifts = scales + rows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles, last = rows * (t + 1) / tiles;
    for (int64_t r = first; r < last; ++r) {
      const ByteRange range = round_to_8(bytes + (r - first) * row_bytes, job, row_of_x(job, row0 + r));
      scales[r] = range.scale;
      shifts[r] = range.shift();
    }
    pack_rows<ByteWords>(x + first * units, reinterpret_cast<const char*>(bytes), row_bytes, last - first,
                         units * ByteWords::kBytes, last - first);
  }
  const bool from_s4 = job.kind == WeightKind::s4;
  char* expanded = scratch + packed_x_bytes(rows, job.k);
  S4AsBytes as_bytes;
  over_panels(
      job, row0, rows, tiles, panels, units,
      [&](const char* w) {
        if (from_s4) {
          as_bytes.expand(expanded, w, job.k);
        } else if (kWidensBytes) {
          S8AsShorts::expand(expanded, w, job.k);
        }
        return from_s4 || kWidensBytes ? static_cast<const char*>(expanded) : w;
      },
      [&](int64_t first, int64_t height, const char* w, int64_t panel, const char* next, int64_t step, float* sums) {
        tile_for<ByteDots>(height)(sums, 32, w, reinterpret_cast<const float*>(x + first * units), units, next, step,
                                   false);
        const float* scale = from_s4 ? as_bytes.scale : job.w_scale + panel * 32;
        return Rescale{true, scales + first, shifts + first, scale, from_s4 ? as_bytes.sum : job.w_sum + panel * 32};
      });
}

// Many rows of quantised weights, any number of the others.
void multiply_whole(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, char* space) {
  switch (job.kind) {
    case WeightKind::bf16:
      if (!Bf16Dots::kPairs && row1 - row0 > (kExpandTiles - 1) * kTileRows)
        return multiply_expanded<Bf16>(job, row0, row1, panels, space);
      return multiply<Bf16Dots>(job, row0, row1, panels, reinterpret_cast<uint32_t*>(space));
    case WeightKind::f32: return multiply<F32Fma>(job, row0, row1, panels, reinterpret_cast<uint32_t*>(space));
    case WeightKind::s8:
      if (job.x_int8) return multiply_int8(job, row0, row1, panels, space);
      return stream_s8(job, row0, row1, panels, space);
    case WeightKind::s4:
      if (job.x_int8) return multiply_int8(job, row0, row1, panels, space);
      return multiply_expanded<S4Groups>(job, row0, row1, panels, space);
  }
}
#endif

// Few rows of x meet quantised weights as they are, in 16 bits; more of them in bytes, or as they were where the weights have 8 bits, or an expanded panel.
void gemm(const GemmJob& job, int64_t row0, int64_t row1, cpu::Panels& panels, void* scratch) {
  char* space = static_cast<char*>(scratch);
  if (job.m <= cpu::kStreamRows) {
    if (job.kind == WeightKind::s8) return stream_s8(job, row0, row1, panels, space);
    if (job.kind == WeightKind::s4) return stream_s4(job, row0, row1, panels, space);
  }
#if defined(__AMX_BF16__)
  if (job.kind == WeightKind::f32) return multiply<F32Fma>(job, row0, row1, panels, static_cast<uint32_t*>(scratch));
  multiply_in_tiles(job, row0, row1, panels, space);
#else
  multiply_whole(job, row0, row1, panels, space);
#endif
}

// By columns the panels of a row of `from` are filled together, so that the row is read once and in order; what comes rows later is fetched.
void pack_columns(uint32_t* out, WeightKind kind, const float* from, int64_t stride, int64_t rows, int64_t k) {
  constexpr int64_t kAhead = 8;  // rows
  const int64_t depth = cpu::unit_depth(kind), units = cpu::unit_count(kind, k), words = units * 32;
  for (int64_t u = 0; u < units; ++u, out += 32) {
    const float* row = from + u * depth * stride;
    for (int64_t first = 0; first < rows; first += 32) {
      uint32_t* to = out + first / 32 * words;
      __builtin_prefetch(row + first + kAhead * stride);
      __builtin_prefetch(row + first + kAhead * stride + 16);
      if (kind == WeightKind::f32 && rows - first >= 32) {
        DRIVLM_UNROLL
        for (int64_t i = 0; i < 32; i += kWidth) store_bits(to + i, load_bits(row + first + i));
        continue;
      }
      for (int64_t i = 0; i < 32; i += kWidth) {
        const int64_t left = max_of(rows - first - i, 0);
        const float* low = row + first + i;
        if (kind == WeightKind::f32)
          store_bits(to + i, reinterpret_cast<U>(load_first(low, left)));
        else
          store_bits(to + i, paired(low, 2 * u + 1 < k ? low + stride : nullptr, left));
      }
    }
  }
}

void pack_f32(void* panels, WeightKind kind, const float* from, int64_t stride, bool by_columns, int64_t all,
              int64_t k) {
  uint32_t* out = static_cast<uint32_t*>(panels);
  if (by_columns) return pack_columns(out, kind, from, stride, all, k);
  const int64_t units = cpu::unit_count(kind, k);
  for (; all > 0; all -= 32, from += 32 * stride, out += units * 32) {
    const int64_t rows = min_of(all, 32);
    const char* in = reinterpret_cast<const char*>(from);
    if (kind == WeightKind::f32) {
      pack_rows<RawWords>(out, in, stride * 4, rows, k * 4, 32);
    } else {
      pack_rows<NarrowedWords>(out, in, stride * 4, rows, k * 4, 32);
    }
    for (int64_t u = 0; u < units && rows < 32; ++u) memset(out + u * 32 + rows, 0, (32 - rows) * 4);
  }
}

constexpr cpu::GemmKernels kGemm = {.tile_rows = kTileRows,
                                    .bf16_pairs = kBf16Pairs,
                                    .matrix_tiles = kMatrixTiles,
                                    .gemm = gemm,
                                    .gemm_scratch = gemm_scratch,
                                    .pack_f32 = pack_f32};

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
