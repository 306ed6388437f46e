// Values back into a checkpoint's own files: rows over the spans that they came from.
#pragma once

#include <string>
#include <vector>

#include "base/tensor.h"
#include "network/description.h"

namespace drivlm {

// Writes to[i] as source.files[i] with other values: names, order, dtypes and every byte that is no parameter's stay. `values` [rows of the table of
// parameters], f32; a value is rounded to the nearest that its span's dtype has, ties to even. Each file is there whole or not at all.
// Throws BAD_WEIGHTS with the role for a value that the dtype cannot hold, or for files that changed; BAD_DATA if one cannot be written.
void write_checkpoint(const ModelSource& source, const std::vector<Tensor>& values, const std::vector<std::string>& to);

}  // namespace drivlm
