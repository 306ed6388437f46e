// Weights in 8 and 4 bits: which matrix is kept in which format, and the arithmetic of quantising, done once for all devices. How quantised
// values lie in memory is each device's own affair.
//
//   bf16  as they are, rounded
//   s8    w = scale * q, q in -127..127, one f32 scale a row
//   s4    w = scale * q, q in -8..7, one bf16 scale for 32 values of a row; the last group of a row may be shorter
//
// The bytes are the same on every CPU, however they are made: products are rounded before anything is added to them (-ffp-contract=off), and the
// vector forms (kernels/cpu/packing_kernels.h) add in the order of these loops.
//
// Files of packed weights hold what was quantised here: a change of the rounding raises the version of each device's packing.
//
// Checked   test/native/formats_test.cpp
#pragma once

#include <cstdint>

#include "base/numeric.h"
#include "device/device.h"

namespace drivlm {

enum class Encoding : uint8_t { bf16, s8, s4 };

// Of a matrix of that use in a model that was asked for in `format`. What pixels enter through stays in bf16; 4 bits are for the decoder's
// layers only, since the tower and the head lose more by them than they save.
Encoding encoding_of(WeightFormat format, Use use);

constexpr int64_t kS4Group = 32;
constexpr int64_t s4_groups(int64_t k) { return (k + kS4Group - 1) / kS4Group; }

// q [k] of one row, the largest |q| 127; 0 for a NaN. Returns the scale; 0 for a row of zeros.
float quantize_s8(int8_t* q, const float* w, int64_t k);

// One head's part of a query or a key, v [dim], by a Hadamard matrix over its two halves and over parts as long as the largest power of two in a half. Products of
// two such vectors stay what they are, and so do their lengths, but what stands out in a few dimensions is spread over the part: one scale does for all. Done twice
// it gives back v. dim is even. Sums are made in the order of this loop on every device (docs/decisions/0052).
void spread_head(float* v, int64_t dim);

// q [s4_groups(k) * 32] and scales [s4_groups(k)] of one row. Past k, q is 0.
void quantize_s4(int8_t* q, bf16* scales, const float* w, int64_t k);

}  // namespace drivlm
