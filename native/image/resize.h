// Pillow's BICUBIC resize (a = -0.5, antialiased, 8-bit fixed point), bit for bit. An unchanged axis is skipped.
#pragma once

#include <functional>

#include "image/pixels.h"

namespace drivlm {

// Gets a row of the result, 3 * width bytes that are valid during the call.
using RowSink = std::function<void(int64_t y, const uint8_t* row)>;

// Rows [first_row, last_row) of `picture` resized to [height, width], in order. Bands of one picture give the bytes that the whole does.
void resize_band(Rows& picture, int64_t width, int64_t height, int64_t first_row, int64_t last_row,
                 const RowSink& sink);

Pixels resize(Rows& picture, int64_t width, int64_t height);
Pixels resize(const Pixels& picture, int64_t width, int64_t height);

}  // namespace drivlm
