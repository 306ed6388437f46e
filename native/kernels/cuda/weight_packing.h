// Rows of weights on their way to the GPU: quantised by packed/formats.h and laid out as weight_formats.cuh says, on the host.
//
// Checked   test/emulator/linear_test.cpp, matvec_quantised.
#pragma once

#include <cstdint>

#include "kernels/cuda/kernels.h"
#include "packed/formats.h"

namespace drivlm::cuda {

// Of what weight_formats.cuh says of S8Rows and S4Groups, of WeightLayout and of how values are rounded: raised when any of it changes, since
// caches on disk hold packed weights. Far from the numbers of other devices.
constexpr int64_t kPackingVersion = 0x63756461'0001;

struct WeightLayout {
  Encoding encoding;
  int64_t rows, cols;

  int64_t stride() const;  // weights a row, padded to what a lane loads
  int64_t row_bytes() const;
  int64_t row_scale_bytes() const;  // 0 for bf16
  int64_t scales_at() const;        // byte offset of the first row's scales, a multiple of 256
  int64_t bytes() const;

  // A matrix that lies at `data` on the device.
  Weights at(void* data) const;
};

// One row: w [cols] to its bytes and scales. `q` has stride() places. Of 8 and 4 bits.
void pack_row(const WeightLayout& layout, void* bytes, void* scales, const float* w, int8_t* q);

}  // namespace drivlm::cuda
