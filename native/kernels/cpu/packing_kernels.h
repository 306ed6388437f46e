// A panel from the rows of a checkpoint, every row a lane: 32 values of 32 rows at a time become a square of f32 in which a vector has the same
// value of kWidth rows. So the grids of 4 bits are tried for kWidth rows at once, with the sums of each in the order of the plain loop, and
// quantised values land in the words of a unit, which stand side by side as the rows do.
//
// Traffic    Rows are read where the file is mapped, once, for 8 bits twice (the second time from L2: a panel is at most 0.3 MB in the shipped
//            models); the square is 4 KiB.
// Numerics   As packed/formats.cpp, bit for bit, whatever the values: files of this header are compiled with -ffp-contract=off, and a NaN goes the
//            way it does there (`max(v, low)` is `low` for one, on every target).
// Checked    test/native/packing_test.cpp
#pragma once

#include "kernels/cpu/packing.h"
#include "kernels/cpu/simd.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

using cpu::kGroupDepth;
using cpu::kPanelRows;
using cpu::StoredRows;
using cpu::WeightKind;

constexpr int64_t kSide = 32;  // values of a square
static_assert(kSide == kGroupDepth && kSide == kPanelRows);

typedef uint32_t U4 __attribute__((vector_size(16)));
typedef uint32_t UnalignedU4 __attribute__((vector_size(16), aligned(1), may_alias));

alignas(64) constexpr char kZeros[kSide * 4] = {};

// Up to 32 values of each row from value `first` on. What ends before has zeros behind it, in a copy.
class Slices {
 public:
  DRIVLM_INLINE Slices(const StoredRows& rows, int64_t first) {
    const int64_t bytes = rows.f32 ? 4 : 2, left = rows.k - first;
    for (int64_t r = 0; r < kPanelRows; ++r) {
      slice[r] = rows.row[r] ? rows.row[r] + first * bytes : kZeros;
      if (left >= kSide || !rows.row[r]) continue;
      memset(ends_[r], 0, sizeof ends_[r]);
      memcpy(ends_[r], slice[r], static_cast<size_t>(left * bytes));
      slice[r] = ends_[r];
    }
  }
  Slices(const Slices&) = delete;

  const char* slice[kPanelRows];

 private:
  char ends_[kPanelRows][kSide * 4];
};

// take(word, row, four): word `word` of four rows from `row` on, of slices of kWords words.
template <int64_t kWords, class Take>
DRIVLM_INLINE void transposed(const Slices& slices, const Take& take) {
  for (int64_t word = 0; word < kWords; word += 4) {
    for (int64_t row = 0; row < kPanelRows; row += 4) {
      const auto four = [&](int64_t i) {
        return *reinterpret_cast<const UnalignedU4*>(slices.slice[row + i] + word * 4);
      };
      const U4 a = four(0), b = four(1), c = four(2), d = four(3);
      const U4 ab0 = __builtin_shuffle(a, b, U4{0, 4, 1, 5}), ab1 = __builtin_shuffle(a, b, U4{2, 6, 3, 7});
      const U4 cd0 = __builtin_shuffle(c, d, U4{0, 4, 1, 5}), cd1 = __builtin_shuffle(c, d, U4{2, 6, 3, 7});
      take(word, row, __builtin_shuffle(ab0, cd0, U4{0, 1, 4, 5}));
      take(word + 1, row, __builtin_shuffle(ab0, cd0, U4{2, 3, 6, 7}));
      take(word + 2, row, __builtin_shuffle(ab1, cd1, U4{0, 1, 4, 5}));
      take(word + 3, row, __builtin_shuffle(ab1, cd1, U4{2, 3, 6, 7}));
    }
  }
}

DRIVLM_INLINE void put(void* to, U4 words) { *static_cast<UnalignedU4*>(to) = words; }

// out [32, 32] f32: value p of row r at out[p * 32 + r].
DRIVLM_INLINE void square_of(float* out, const StoredRows& rows, int64_t first) {
  const Slices slices(rows, first);
  if (rows.f32) {
    transposed<kSide>(slices, [&](int64_t word, int64_t row, U4 v) { put(out + word * kSide + row, v); });
  } else {
    transposed<kSide / 2>(slices, [&](int64_t word, int64_t row, U4 v) {
      put(out + 2 * word * kSide + row, v << 16);
      put(out + (2 * word + 1) * kSide + row, v & 0xffff0000u);
    });
  }
}

// The bits of v rounded to bf16, in the upper half; a NaN stays one.
DRIVLM_INLINE U bf16_bits(F v) {
  const U bits = reinterpret_cast<U>(v);
  const U rounded = (v == v) ? rounded_bits(v) : bits | 0x400000u;
  return rounded & 0xffff0000u;
}

// ---- bf16 ----

void pack_bf16(char* panel, const StoredRows& rows) {
  const int64_t units = cpu::unit_count(WeightKind::bf16, rows.k);
  for (int64_t first = 0; first < units; first += kSide / 2) {
    alignas(64) char last[kSide / 2 * cpu::kUnitBytes];
    const int64_t left = min_of(kSide / 2, units - first);
    char* to = panel + first * cpu::kUnitBytes;
    char* out = left < kSide / 2 ? last : to;
    if (rows.f32) {
      alignas(64) float square[kSide * kSide];
      square_of(square, rows, 2 * first);
      for (int64_t u = 0; u < kSide / 2; ++u) {
        for (int64_t lane = 0; lane < kPanelRows; lane += kWidth) {
          const F low = load(square + 2 * u * kSide + lane), high = load(square + (2 * u + 1) * kSide + lane);
          store_bits(out + u * cpu::kUnitBytes + lane * 4, (bf16_bits(low) >> 16) | bf16_bits(high));
        }
      }
    } else {
      transposed<kSide / 2>(Slices(rows, 2 * first),
                            [&](int64_t word, int64_t row, U4 v) { put(out + word * cpu::kUnitBytes + row * 4, v); });
    }
    if (out == last) memcpy(to, last, static_cast<size_t>(left * cpu::kUnitBytes));
  }
}

// ---- 8 bits ----

// The largest |value| of each row; NaNs do not count.
DRIVLM_INLINE void largest_of(float* tops, const StoredRows& rows) {
  F top[kPanelRows];
  for (F& one : top) one = F{};
  for (int64_t first = 0; first < rows.k; first += kSide) {
    const Slices slices(rows, first);
    for (int64_t r = 0; r < kPanelRows; ++r) {
      F most = top[r];
      for (int64_t word = 0; word < (rows.f32 ? kSide : kSide / 2); word += kWidth) {
        const U bits = load_bits(slices.slice[r] + word * 4);
        most = max(absolute(reinterpret_cast<F>(rows.f32 ? bits : bits << 16)), most);
        if (!rows.f32) most = max(absolute(reinterpret_cast<F>(bits & 0xffff0000u)), most);
      }
      top[r] = most;
    }
  }
  for (int64_t r = 0; r < kPanelRows; ++r) tops[r] = max_of(top[r]);
}

void pack_s8(char* panel, float* scales, int32_t* sums, const StoredRows& rows) {
  alignas(64) float inverse[kPanelRows];
  largest_of(scales, rows);
  for (int64_t r = 0; r < kPanelRows; ++r) {
    inverse[r] = scales[r] > 0 ? 127.0f / scales[r] : 0.0f;
    scales[r] = scales[r] / 127.0f;
  }
  U total[kPanelRows / kWidth] = {};
  const int64_t units = cpu::unit_count(WeightKind::s8, rows.k);
  for (int64_t first = 0; first < units; first += kSide / 4) {
    alignas(64) float square[kSide * kSide];
    square_of(square, rows, 4 * first);
    for (int64_t block = 0; block < kPanelRows / kWidth; ++block) {
      const int64_t lane = block * kWidth;
      const F factor = load(inverse + lane);
      for (int64_t u = 0; u < min_of(kSide / 4, units - first); ++u) {
        const auto rounded = [&](int64_t i) {
          const F v = load(square + (4 * u + i) * kSide + lane) * factor;
          const I q = to_nearest(min(max(v, splat(-127.0f)), splat(127.0f)));
          return reinterpret_cast<U>((v == v) ? q : I{});
        };
        const U a = rounded(0), b = rounded(1), c = rounded(2), d = rounded(3);
        total[block] += a + b + c + d;
        store_bits(panel + (first + u) * cpu::kUnitBytes + lane * 4,
                   (a & 0xffu) | ((b & 0xffu) << 8) | ((c & 0xffu) << 16) | (d << 24));
      }
    }
  }
  for (int64_t block = 0; block < kPanelRows / kWidth; ++block) store_bits(sums + block * kWidth, total[block]);
}

// ---- 4 bits ----

// The nearest of -8..7; -8 for a NaN.
DRIVLM_INLINE F on_grid(F v) { return min(max((v + 12582912.0f) - 12582912.0f, splat(-8.0f)), splat(7.0f)); }

// Of the groups of kWidth rows: what on_grid takes their values by, the scale, and where there is nothing to quantise.
struct Grid {
  F inverse, scale;
  I none;
};

// The best so far: sum(w q)^2 / sum(q q), and the grid that has it.
struct Best {
  F most, scale, inverse;
};

// Tries grids kFirst .. kFirst + kCount - 1 of quantize_s4 on w [32] at w[i * 32], side by side.
template <int kFirst, int kCount>
DRIVLM_INLINE void try_grids(Best& best, const float* w, F top) {
  F inverse[kCount], wq[kCount], qq[kCount];
  DRIVLM_UNROLL
  for (int g = 0; g < kCount; ++g) {
    inverse[g] = splat(-(8.0f + 0.15f * static_cast<float>(kFirst + g - 6))) / top;
    wq[g] = F{};
    qq[g] = F{};
  }
  for (int64_t i = 0; i < kSide; ++i) {
    const F v = load(w + i * kSide);
    DRIVLM_UNROLL
    for (int g = 0; g < kCount; ++g) {
      const F q = on_grid(v * inverse[g]);
      wq[g] += v * q;
      qq[g] += q * q;
    }
  }
  DRIVLM_UNROLL
  for (int g = 0; g < kCount; ++g) {
    const F square = wq[g] * wq[g];
    const I worse = (qq[g] == 0.0f) | (square <= best.most * qq[g]);
    best.most = worse ? best.most : square / qq[g];
    best.scale = worse ? best.scale : wq[g] / qq[g];
    best.inverse = worse ? best.inverse : inverse[g];
  }
}

// Of w [32] at w[i * 32].
DRIVLM_INLINE Grid best_grid(const float* w) {
  F top = F{};
  for (int64_t i = 0; i < kSide; ++i) {
    const F v = load(w + i * kSide);
    top = absolute(v) > absolute(top) ? v : top;
  }
  Best best{splat(-1.0f), F{}, F{}};
  try_grids<0, 4>(best, w, top);
  try_grids<4, 4>(best, w, top);
  try_grids<8, 5>(best, w, top);
  const I none = top == 0.0f;
  return {best.inverse, none ? F{} : best.scale, none};
}

void pack_s4(char* panel, const StoredRows& rows) {
  for (int64_t first = 0; first < rows.k; first += kSide, panel += cpu::kGroupBytes) {
    alignas(64) float square[kSide * kSide];
    square_of(square, rows, first);
    for (int64_t lane = 0; lane < kPanelRows; lane += kWidth) {
      const Grid grid = best_grid(square + lane);
      for (int64_t u = 0; u < 4; ++u) {
        U word = U{};
        DRIVLM_UNROLL
        for (int64_t i = 0; i < 8; ++i) {
          const F q = on_grid(load(square + (u * 8 + i) * kSide + lane) * grid.inverse);
          const I kept = __builtin_convertvector(grid.none ? F{} : q, I) + 8;
          word |= reinterpret_cast<U>(kept) << static_cast<uint32_t>(i / 2 * 4 + i % 2 * 16);
        }
        store_bits(panel + u * cpu::kUnitBytes + lane * 4, word);
      }
      store_half(panel + 4 * cpu::kUnitBytes + lane * 2, __builtin_convertvector(bf16_bits(grid.scale) >> 16, H));
    }
  }
}

}  // namespace

void pack_panel(char* panel, float* scales, int32_t* sums, WeightKind kind, const StoredRows& rows) {
  if (kind == WeightKind::s4) return pack_s4(panel, rows);
  if (kind == WeightKind::s8) return pack_s8(panel, scales, sums, rows);
  pack_bf16(panel, rows);
}

}  // namespace drivlm::DRIVLM_CPU_TARGET
