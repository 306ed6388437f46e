// The end of a matrix product, the same for every register tile: sums become values, what follows a linear layer is done, and they are stored.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/tile.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

using cpu::GemmJob;
using cpu::WeightKind;
using drivlm::Epilogue;

// How the sums of a quantised product become values; null where there is nothing to do.
struct Rescale {
  bool integers = false;                // the sums are int32
  const float* row_scale = nullptr;     // [rows] of the tile
  const float* row_shift = nullptr;     // [rows], with integers: x = row_scale * q + row_shift
  const float* column_scale = nullptr;  // [32] of the panel
  const int32_t* column_sum = nullptr;  // [32], with integers
};

// kWidth columns of a tile's sums as values, row by row. Of integers what the zero point adds, a number of the row times one of the column, is taken off
// in f32: sums are rounded to 2^-24 of themselves before, which is far below what rounding x to 8 bits costs.
template <bool kIntegers>
class Column {
 public:
  DRIVLM_INLINE Column(const Rescale& by, const float* sums, int64_t j, F bias = F{})
      : sums_(sums + j),
        row_scale_(by.row_scale ? by.row_scale : &kOne),
        row_step_(by.row_scale ? 1 : 0),
        row_shift_(by.row_shift),
        bias_(bias),
        scale_(by.column_scale ? load(by.column_scale + j) : splat(1.0f)) {
    if constexpr (kIntegers)
      sum_ = __builtin_convertvector(reinterpret_cast<I>(load_bits(by.column_sum + j)), F) * scale_;
  }
  DRIVLM_INLINE F at(int64_t r) const {
    const F value = load(sums_ + r * 32), scale = scale_ * row_scale_[r * row_step_];
    if constexpr (kIntegers)
      return __builtin_convertvector(reinterpret_cast<I>(value), F) * scale + (sum_ * row_shift_[r] + bias_);
    return value * scale + bias_;
  }

 private:
  static constexpr float kOne = 1;
  const float* const sums_;
  const float* const row_scale_;  // every row_step_, so that one does for all rows where none have a scale
  const int64_t row_step_;
  const float* const row_shift_;
  const F bias_, scale_;
  F sum_;
};

template <Epilogue kAfter, class Out>
DRIVLM_INLINE F activate(F v) {
  if constexpr (std::is_same_v<Out, float>) return kAfter == Epilogue::gelu ? gelu(v) : silu(v);
  return kAfter == Epilogue::gelu ? gelu_coarse(v) : silu_coarse(v);
}

struct CoarseGelu {
  DRIVLM_INLINE F operator()(F v) const { return gelu_coarse(v); }
};
#if defined(__AVX512F__)
using GeluForBytes = GeluInPieces;
#else
using GeluForBytes = CoarseGelu;
#endif

// kWhole: all columns of the panel are there.
template <Epilogue kAfter, class Out, bool kForBytes, bool kIntegers, bool kWhole>
DRIVLM_INLINE void finish_columns(const GemmJob& job, const Rescale& by, const float* sums, int64_t row0, int64_t rows,
                                  int64_t panel) {
  const int64_t stride = job.out_stride, column0 = panel * (kAfter == Epilogue::gated ? 16 : 32);
  Out* const place = static_cast<Out*>(job.out) + row0 * stride + column0;
  if constexpr (kAfter == Epilogue::gated) {
    const int64_t columns = kWhole ? 16 : job.n / 2 - column0;
    for (int64_t j = 0; j < columns; j += kWidth) {
      const Column<kIntegers> gate(by, sums, j), up(by, sums, j + 16);
      Out* out = place + j;
      for (int64_t r = 0; r < rows; ++r, out += stride)
        store_first(out, activate<Epilogue::gated, Out>(gate.at(r)) * up.at(r), kWhole ? kWidth : columns - j);
    }
  } else {
    static const std::conditional_t<kForBytes, GeluForBytes, CoarseGelu> kept;  // no table for what needs none
    const auto gelu_for_bytes = kept;
    const int64_t columns = kWhole ? 32 : job.n - column0;
    for (int64_t j = 0; j < columns; j += kWidth) {
      const int64_t left = kWhole ? kWidth : columns - j;
      const Column<kIntegers> values(by, sums, j, job.bias ? load_first(job.bias + column0 + j, left) : F{});
      const F scale = kAfter == Epilogue::add && job.scale ? load_first(job.scale + column0 + j, left) : splat(1.0f);
      Out* out = place + j;
      for (int64_t r = 0; r < rows; ++r, out += stride) {
        F v = values.at(r);
        if constexpr (kAfter == Epilogue::gelu) v = kForBytes ? gelu_for_bytes(v) : activate<Epilogue::gelu, Out>(v);
        if constexpr (kAfter == Epilogue::add) v = load_first(out, left) + scale * v;
        store_first(out, v, left);
      }
    }
  }
}

// sums: [rows, 32] of rows row0 + r and columns of `panel`. kForBytes: what the next product rounds to 8 bits.
template <Epilogue kAfter, class Out, bool kForBytes = false>
void finish(const GemmJob& job, const Rescale& by, const float* sums, int64_t row0, int64_t rows, int64_t panel) {
  const auto columns = [&](auto integers, auto whole) __attribute__((always_inline)) {
    finish_columns<kAfter, Out, kForBytes, decltype(integers)::value, decltype(whole)::value>(job, by, sums, row0, rows,
                                                                                              panel);
  };
  using std::false_type, std::true_type;
  const bool whole = job.n - panel * 32 >= 32;
  if (by.integers) {
    whole ? columns(true_type{}, true_type{}) : columns(true_type{}, false_type{});
  } else {
    whole ? columns(false_type{}, true_type{}) : columns(false_type{}, false_type{});
  }
}

using Finish = void (*)(const GemmJob&, const Rescale&, const float*, int64_t, int64_t, int64_t);

template <class Out>
Finish finish_for(Epilogue after) {
  switch (after) {
    case Epilogue::gelu: return finish<Epilogue::gelu, Out>;
    case Epilogue::add: return finish<Epilogue::add, Out>;
    case Epilogue::gated: return finish<Epilogue::gated, Out>;
    case Epilogue::store: break;
  }
  return finish<Epilogue::store, Out>;
}

DRIVLM_INLINE Finish finish_for(const GemmJob& job) {
  if (job.x_int8 && job.after == Epilogue::gelu && !job.out_f32) return finish<Epilogue::gelu, uint16_t, true>;
  return job.out_f32 ? finish_for<float>(job.after) : finish_for<uint16_t>(job.after);
}

DRIVLM_INLINE const char* row_of_x(const GemmJob& job, int64_t row) {
  return static_cast<const char*>(job.x) + row * job.x_stride * (job.x_f32 ? 4 : 2);
}

// Up to kWidth values of a row of x, the rest 0.
DRIVLM_INLINE F load_x(const GemmJob& job, const char* row, int64_t i) {
  return job.x_f32 ? load_first(reinterpret_cast<const float*>(row) + i, job.k - i)
                   : load_first(reinterpret_cast<const uint16_t*>(row) + i, job.k - i);
}

// Pairs of bf16, `low` in the low halves.
DRIVLM_INLINE U paired(F low, F high) {
#if defined(__AVX512BF16__)
  // Sixteen of the first and sixteen of the second, then one of each.
  const __m512bh apart = _mm512_cvtne2ps_pbh(high, low);
  alignas(64) static constexpr uint16_t kPlaces[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return reinterpret_cast<U>(_mm512_permutexvar_epi16(_mm512_load_si512(kPlaces), reinterpret_cast<__m512i>(apart)));
#else
  return (rounded_bits(low) >> 16) | (rounded_bits(high) & 0xffff0000u);
#endif
}

// The same of two rows, n <= kWidth values of each. `high` may be null: zeros.
DRIVLM_INLINE U paired(const float* low, const float* high, int64_t n) {
  return paired(load_first(low, n), high ? load_first(high, n) : F{});
}

// Bytes of the panel stream fetched early when each byte is read once.
constexpr int64_t kStreamAhead = 3072;

// Where the values of a tile go is fetched while their sums are made: its rows are far apart, each lines of its own.
DRIVLM_INLINE void fetch_out(const GemmJob& job, int64_t row, int64_t rows, int64_t panel) {
  const int64_t element = job.out_f32 ? 4 : 2, columns = job.after == Epilogue::gated ? 16 : 32;
  const char* out = static_cast<const char*>(job.out) + (row * job.out_stride + panel * columns) * element;
  for (int64_t r = 0; r < rows; ++r, out += job.out_stride * element) {
    __builtin_prefetch(out, 1);
    if (columns * element > 64) __builtin_prefetch(out + 64, 1);
  }
}

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
