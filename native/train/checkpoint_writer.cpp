#include "train/checkpoint_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/mapped_file.h"
#include "base/numeric.h"
#include "base/output_file.h"
#include "network/parameters.h"

namespace drivlm {

namespace {

// Values that stand together in a file.
struct Run {
  int64_t offset, count;
  DType dtype;
  const float* values;
  const std::string* role;
};

constexpr int64_t kChunk = 1 << 20;

template <class T>
void round_to(char* out, const Run& run, int64_t first, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = run.values[first + i];
    const T rounded = from_float<T>(value);
    if (!std::isfinite(to_float(rounded)))
      throw Error(Code::bad_weights, text("%s: the value %g does not fit into %s, which this tensor is stored as.",
                                          run.role->c_str(), value, dtype_name(run.dtype)));
    std::memcpy(out + i * sizeof(T), &rounded, sizeof(T));
  }
}

void write_run(OutputFile& out, const Run& run, std::vector<char>& buffer) {
  for (int64_t first = 0; first < run.count; first += kChunk) {
    const int64_t count = std::min(kChunk, run.count - first);
    buffer.resize(count * dtype_bytes(run.dtype));
    switch (run.dtype) {
      case DType::f32: round_to<float>(buffer.data(), run, first, count); break;
      case DType::bf16: round_to<bf16>(buffer.data(), run, first, count); break;
      case DType::f16: round_to<f16>(buffer.data(), run, first, count); break;
      default: throw Error(Code::internal, *run.role + ": stored type");
    }
    out.append(buffer.data(), buffer.size());
  }
}

// The runs of every file, in its order.
std::vector<std::vector<Run>> runs_of(const ModelSource& source, const std::vector<Parameter>& table,
                                      const std::vector<Tensor>& values) {
  std::map<std::string, size_t> rows;
  for (size_t i = 0; i < table.size(); ++i) rows[table[i].role] = i;
  std::vector<std::vector<Run>> runs(source.files.size());
  for (const TensorSource& tensor : source.tensors) {
    const auto row = rows.find(tensor.role);
    if (row == rows.end()) throw Error(Code::internal, tensor.role + ": not in the table of parameters.");
    const Tensor from = values[row->second];
    const int64_t cols = table[row->second].cols();
    int64_t first = 0;
    for (const TensorSpan& span : tensor.spans) {
      if (span.file < 0 || span.file >= static_cast<int64_t>(runs.size()) || span.rows < 1 ||
          span.rows > table[row->second].rows() - first)
        throw Error(Code::bad_weights, tensor.role + ": a span out of range.");
      runs[span.file].push_back(
          {span.offset, span.rows * cols, span.dtype, from.as<float>() + first * cols, &tensor.role});
      first += span.rows;
    }
  }
  for (auto& list : runs)
    std::sort(list.begin(), list.end(), [](const Run& a, const Run& b) { return a.offset < b.offset; });
  return runs;
}

}  // namespace

void write_checkpoint(const ModelSource& source, const std::vector<Tensor>& values,
                      const std::vector<std::string>& to) {
  const std::vector<Parameter> table = parameters(source.network);
  if (values.size() != table.size() || to.size() != source.files.size())
    throw Error(Code::bad_argument, "A checkpoint is written to as many files as it was read from.");
  const auto runs = runs_of(source, table, values);
  std::vector<char> buffer;
  for (size_t file = 0; file < to.size(); ++file) {
    const MappedFile from(source.files[file], source.file_bytes[file]);
    OutputFile out(to[file]);
    int64_t at = 0;
    for (const Run& run : runs[file]) {
      const int64_t bytes = run.count * dtype_bytes(run.dtype);
      if (run.offset < at || bytes > from.bytes() - run.offset)
        throw Error(Code::bad_weights, *run.role + ": its span overlaps another's, or the end of " + from.path() + ".");
      out.append(from.data() + at, run.offset - at);
      write_run(out, run, buffer);
      at = run.offset + bytes;
    }
    out.append(from.data() + at, from.bytes() - at);
    out.commit();
  }
}

}  // namespace drivlm
