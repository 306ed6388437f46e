#include "network/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "base/numeric.h"
#include "network/parameters.h"

namespace drivlm {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

// out [count] = stored values as f32, which holds each of them exactly.
void widen(float* out, const char* bytes, DType dtype, int64_t count) {
  if (dtype == DType::f32) {
    std::memcpy(out, bytes, 4 * count);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, 2);
    out[i] = dtype == DType::bf16 ? to_float(bf16{bits}) : to_float(f16{bits});
  }
}

// Hands out the tensors of a source by the rows of the table of parameters: each row once, none left over.
class Loader final : public ParameterSource {
 public:
  Loader(const ModelSource& source, PackedStore* store, Device& device,
         const std::function<void(int64_t, int64_t)>& progress, const std::atomic<bool>& cancel, Weights& weights)
      : store_(store),
        device_(device),
        progress_(progress),
        cancel_(cancel),
        files_(weights.files),
        widened_(weights.widened) {
    if (source.files.size() != source.file_bytes.size())
      throw Error(Code::bad_argument, "files and fileBytes differ in length.");
    for (size_t i = 0; i < source.files.size(); ++i) {
      files_.push_back(std::make_unique<MappedFile>(source.files[i], source.file_bytes[i]));
    }
    std::map<std::string, const TensorSource*> given;
    for (const TensorSource& tensor : source.tensors) {
      if (!given.emplace(tensor.role, &tensor).second) throw Error(Code::bad_weights, tensor.role + ": given twice.");
      check(tensor);
      total_ += bytes_of(tensor);
    }
    for (Parameter& parameter : parameters(source.network)) {
      const auto found = given.find(parameter.role);
      if (found == given.end()) {
        throw Error(Code::bad_weights, parameter.role + ": missing; expected " + shape_text(parameter.shape) + ".");
      }
      const TensorSource& tensor = *found->second;
      if (tensor.shape != parameter.shape) {
        throw Error(Code::bad_weights, text("%s: expected %s %s, found %s %s.", parameter.role.c_str(),
                                            dtype_name(tensor.dtype), shape_text(parameter.shape).c_str(),
                                            dtype_name(tensor.dtype), shape_text(tensor.shape).c_str()));
      }
      given.erase(found);
      waiting_.emplace(tensor.role, Row{std::move(parameter), &tensor});
    }
    if (!given.empty())
      throw Error(Code::bad_weights, given.begin()->first + ": the network has no use for this tensor.");
  }

  // Whether this network has the parameter. The functions below throw where it has not.
  bool has(const std::string& role) const override { return waiting_.count(role) > 0; }

  MatrixPtr matrix(const std::string& role) override {
    const Row row = take(role);
    MatrixPtr out = device_.load_matrix(host(row));
    finish(row, *out);
    return out;
  }

  MatrixPtr gated(const std::string& gate_role, const std::string& up_role) override {
    const Row gate = take(gate_role), up = take(up_role);
    MatrixPtr out = device_.load_gated(host(gate), host(up));
    finish(gate, *out);
    finish(up, *out);
    return out;
  }

  MatrixPtr table(const std::string& role) override {
    const Row row = take(role);
    MatrixPtr out = device_.load_table(host(row));
    finish(row, *out);
    return out;
  }

  // The embedding, and the head that is the same parameter.
  TiedMatrices tied(const std::string& role) override {
    const Row row = take(role);
    TiedMatrices out = device_.load_tied(host(row));
    finish(row, *out.table);
    return out;
  }

  Tensor vector(const std::string& role) override {
    const Row row = take(role);
    // A short one is read once, a long one twice rather than kept beside the device's copy.
    if (const int64_t count = row.parameter.count(); count <= kPiece) {
      short_.resize(count);
      expect_finite(row, short_.data());
      report(row);
      return device_.load_vector({role, DType::f32, 1, count, {{short_.data(), 1}}});
    }
    expect_finite(row);
    Tensor out = device_.load_vector(host(row));
    passing_.erase(row.tensor);
    report(row);
    return out;
  }

  Tensor positions(const std::string& role, int64_t from, int64_t to) override {
    if (from == to) return vector(role);
    const std::vector<float> stored = values(role);
    const std::vector<float> resized =
        resize_positions(stored, from, to, static_cast<int64_t>(stored.size()) / (1 + from * from));
    return device_.load_vector({role, DType::f32, 1, static_cast<int64_t>(resized.size()), {{resized.data(), 1}}});
  }

  // Of one parameter.
  std::vector<float> values(const std::string& role) {
    const Row row = take(role);
    report(row);
    std::vector<float> out(row.parameter.count());
    expect_finite(row, out.data());
    return out;
  }

  void expect_all_used() const {
    if (!waiting_.empty()) throw Error(Code::internal, waiting_.begin()->first + ": a parameter that nothing loads.");
  }

 private:
  static constexpr int64_t kPiece = 16 << 10;  // values read at a time

  struct Row {
    Parameter parameter;
    const TensorSource* tensor;
  };

  static int64_t bytes_of(const TensorSource& tensor) {
    return std::accumulate(tensor.shape.begin(), tensor.shape.end(), dtype_bytes(tensor.dtype), std::multiplies<>());
  }

  // Every range inside its file, every count adding up; nothing below trusts the caller.
  void check(const TensorSource& tensor) const {
    auto fail = [&](const std::string& why) { throw Error(Code::bad_weights, tensor.role + ": " + why); };
    if (tensor.shape.empty() || tensor.shape.size() > 2) fail("expected one or two dimensions.");
    if (tensor.dtype != DType::f32 && tensor.dtype != DType::f16 && tensor.dtype != DType::bf16)
      fail("expected f32, f16 or bf16.");
    for (int64_t dim : tensor.shape) {
      if (dim < 1 || dim > (int64_t{1} << 31)) fail("dimension " + std::to_string(dim) + " is out of range.");
    }
    int64_t rows = 0;
    for (const TensorSpan& span : tensor.spans) {
      if (span.file < 0 || span.file >= static_cast<int64_t>(files_.size()))
        fail("a span names file " + std::to_string(span.file) + ".");
      if (span.dtype != tensor.dtype && tensor.dtype != DType::f32)
        fail("only a tensor of f32 may have rows of another type.");
      const MappedFile& file = *files_[span.file];
      const int64_t row_bytes = row_bytes_of(tensor, span);
      if (span.rows < 1 || span.rows > tensor.shape[0]) fail("a span of " + std::to_string(span.rows) + " rows.");
      if (span.offset < 0 || span.offset > file.bytes() || span.rows > (file.bytes() - span.offset) / row_bytes) {
        fail("a span reaches past the end of " + file.path() + ".");
      }
      rows += span.rows;
    }
    if (rows != tensor.shape[0]) {
      fail("expected " + std::to_string(tensor.shape[0]) + " rows, its spans have " + std::to_string(rows) + ".");
    }
  }

  Row take(const std::string& role) {
    if (cancel_) throw Error(Code::aborted, "Loading was aborted.");
    const auto found = waiting_.find(role);
    if (found == waiting_.end())
      throw Error(Code::internal, role + ": loaded twice, or not in the table of parameters.");
    const Row row = std::move(found->second);
    waiting_.erase(found);
    return row;
  }

  // Rows of several dtypes, as q and v of a merged adapter beside k, become one f32 tensor of our own.
  HostTensor host(const Row& row) {
    const TensorSource& tensor = *row.tensor;
    HostTensor out{row.parameter.role, tensor.dtype, row.parameter.rows(), row.parameter.cols(), {},
                   row.parameter.use,  store_};
    if (!one_dtype(tensor)) {
      auto values = std::make_unique<float[]>(row.parameter.count());
      gather(tensor, values.get());
      out.runs.push_back({values.get(), out.rows});
      passing_[&tensor] = std::move(values);
      return out;
    }
    for (const TensorSpan& span : tensor.spans) {
      const MappedFile* file = files_[span.file].get();
      out.runs.push_back({file->data() + span.offset, span.rows, file});
    }
    return out;
  }

  static int64_t cols_of(const TensorSource& tensor) { return tensor.shape.size() == 2 ? tensor.shape[1] : 1; }

  static int64_t row_bytes_of(const TensorSource& tensor, const TensorSpan& span) {
    return cols_of(tensor) * dtype_bytes(span.dtype);
  }

  static bool one_dtype(const TensorSource& tensor) {
    return std::all_of(tensor.spans.begin(), tensor.spans.end(),
                       [&](const TensorSpan& span) { return span.dtype == tensor.dtype; });
  }

  // take(values, count) of the tensor's rows as f32, in order, piece by piece.
  template <class Take>
  void each_piece(const TensorSource& tensor, const Take& take) {
    for (const TensorSpan& span : tensor.spans) {
      const int64_t bytes = dtype_bytes(span.dtype), all = span.rows * cols_of(tensor);
      for (int64_t at = 0; at < all; at += kPiece) {
        const int64_t count = std::min(kPiece, all - at);
        if (stored_.size() < static_cast<size_t>(count * bytes)) stored_.resize(count * bytes);
        if (piece_.size() < static_cast<size_t>(count)) piece_.resize(count);
        files_[span.file]->read(span.offset + at * bytes, stored_.data(), count * bytes);
        widen(piece_.data(), stored_.data(), span.dtype, count);
        take(piece_.data(), count);
      }
    }
  }

  // out = the tensor's rows as f32, in order.
  void gather(const TensorSource& tensor, float* out) {
    each_piece(tensor, [&](const float* values, int64_t count) { out = std::copy_n(values, count, out); });
  }

  // A NaN or infinity in a vector would make every logit NaN. out, if any: the values.
  void expect_finite(const Row& row, float* out = nullptr) {
    int64_t before = 0;
    each_piece(*row.tensor, [&](const float* values, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        if (std::isfinite(values[i])) continue;
        throw Error(
            Code::bad_weights,
            text("%s: expected finite numbers, found %g at %lld. The weights are damaged; download or save them again.",
                 row.parameter.role.c_str(), values[i], static_cast<long long>(before + i)));
      }
      if (out) std::copy_n(values, count, out + before);
      before += count;
    });
  }

  // Bytes that the device reads in place stay; of what it copied, the mapped pages can go.
  void finish(const Row& row, const Matrix& matrix) {
    const TensorSource& tensor = *row.tensor;
    const bool keeps = device_.keeps_mapping(matrix);
    if (const auto own = passing_.find(&tensor); own != passing_.end()) {
      if (keeps) widened_.push_back(std::move(own->second));
      passing_.erase(own);
    }
    if (!keeps || !one_dtype(tensor)) {
      for (const TensorSpan& span : tensor.spans)
        files_[span.file]->drop(span.offset, span.rows * row_bytes_of(tensor, span));
    }
    report(row);
  }

  void report(const Row& row) {
    done_ += bytes_of(*row.tensor);
    if (progress_) progress_(done_, total_);
  }

  PackedStore* store_;
  Device& device_;
  const std::function<void(int64_t, int64_t)>& progress_;
  const std::atomic<bool>& cancel_;
  std::vector<std::unique_ptr<MappedFile>>& files_;
  std::vector<std::unique_ptr<float[]>>& widened_;
  std::map<const TensorSource*, std::unique_ptr<float[]>> passing_;  // f32 copies between host() and the load's end
  std::map<std::string, Row> waiting_;
  std::vector<char> stored_;  // of each_piece
  std::vector<float> piece_, short_;
  int64_t done_ = 0, total_ = 0;
};

Tensor vector_if_any(ParameterSource& load, const std::string& role) {
  return load.has(role) ? load.vector(role) : Tensor();
}

Norm norm(ParameterSource& load, const std::string& role, float eps, bool layer) {
  Norm out{load.vector(role + ".weight"), {}, eps, layer};
  out.bias = vector_if_any(load, role + ".bias");
  return out;
}

VisionWeights bind_vision(ParameterSource& load, const VisionConfig& c) {
  VisionWeights w;
  w.class_embedding = load.vector("vision.class_embedding");
  w.patch = load.matrix("vision.patch.weight");
  w.patch_bias = load.vector("vision.patch.bias");
  w.positions = load.positions(kPositionTable, c.position_grid, c.grid()).reshaped({c.positions(), c.dim});
  // Blocks past output_layer never run, but their tensors are part of the checkpoint and are checked.
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string at = "vision.layers." + std::to_string(i) + ".";
    VisionBlock b;
    b.norm1 = norm(load, at + "norm1", c.norm_eps, c.layer_norm);
    b.qkv = load.matrix(at + "qkv.weight");
    b.qkv_bias = vector_if_any(load, at + "qkv.bias");
    b.q_norm = vector_if_any(load, at + "q_norm.weight");
    b.k_norm = vector_if_any(load, at + "k_norm.weight");
    b.proj = load.matrix(at + "proj.weight");
    b.proj_bias = load.vector(at + "proj.bias");
    b.ls1 = load.vector(at + "ls1");
    b.norm2 = norm(load, at + "norm2", c.norm_eps, c.layer_norm);
    b.fc1 = load.matrix(at + "fc1.weight");
    b.fc1_bias = load.vector(at + "fc1.bias");
    b.fc2 = load.matrix(at + "fc2.weight");
    b.fc2_bias = load.vector(at + "fc2.bias");
    b.ls2 = load.vector(at + "ls2");
    w.blocks.push_back(std::move(b));
  }
  return w;
}

ProjectorWeights bind_projector(ParameterSource& load, const ProjectorConfig& c) {
  ProjectorWeights w;
  w.norm = norm(load, "projector.norm", c.norm_eps, true);
  w.fc1 = load.matrix("projector.fc1.weight");
  w.fc1_bias = load.vector("projector.fc1.bias");
  w.fc2 = load.matrix("projector.fc2.weight");
  w.fc2_bias = load.vector("projector.fc2.bias");
  return w;
}

DecoderWeights bind_decoder(ParameterSource& load, const LanguageConfig& c) {
  DecoderWeights w;
  if (c.tied_head) {
    TiedMatrices both = load.tied("language.embedding.weight");
    w.embedding = std::move(both.table), w.head = std::move(both.head);
  } else {
    w.embedding = load.table("language.embedding.weight");
  }
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string at = "language.layers." + std::to_string(i) + ".";
    DecoderBlock b;
    b.norm1 = norm(load, at + "norm1", c.norm_eps, false);
    b.qkv = load.matrix(at + "qkv.weight");
    b.qkv_bias = vector_if_any(load, at + "qkv.bias");
    b.q_norm = vector_if_any(load, at + "q_norm.weight");
    b.k_norm = vector_if_any(load, at + "k_norm.weight");
    b.out = load.matrix(at + "out.weight");
    b.norm2 = norm(load, at + "norm2", c.norm_eps, false);
    b.gate_up = load.gated(at + "gate.weight", at + "up.weight");
    b.down = load.matrix(at + "down.weight");
    w.blocks.push_back(std::move(b));
  }
  w.norm = norm(load, "language.norm", c.norm_eps, false);
  if (!c.tied_head) w.head = load.matrix("language.head.weight");
  return w;
}

}  // namespace

void bind_weights(Weights& w, ParameterSource& source, const NetworkDescription& network) {
  w.vision = bind_vision(source, network.vision);
  w.projector = bind_projector(source, network.projector);
  w.decoder = bind_decoder(source, network.language);
}

void read_parameters(const ModelSource& source, Device& device,
                     const std::function<void(const Parameter&, const std::vector<float>&)>& take) {
  Weights files;
  const std::atomic<bool> cancel{false};
  const std::function<void(int64_t, int64_t)> progress;
  Loader load(source, nullptr, device, progress, cancel, files);
  for (const Parameter& parameter : parameters(source.network)) take(parameter, load.values(parameter.role));
}

Weights load_weights(const ModelSource& source, PackedStore* store, Device& device,
                     const std::function<void(int64_t, int64_t)>& progress, const std::atomic<bool>& cancel) {
  Weights w;
  Loader load(source, store, device, progress, cancel, w);
  for (const auto& file : w.files) {
    if (auto shared = device.share(file->data(), file->bytes())) w.shared.push_back(std::move(shared));
  }
  if (w.shared.empty())
    device.reserve_weights(
        weights_bytes(source.network, device, source.tensors.empty() ? DType::bf16 : source.tensors.front().dtype));
  bind_weights(w, load, source.network);
  load.expect_all_used();
  return w;
}

size_t weights_bytes(const NetworkDescription& n, const Device& device, DType stored) {
  size_t bytes = 0;
  int64_t joined_rows = 0;
  for (const Parameter& p : parameters(n)) {
    if (p.role == kPositionTable) {
      bytes += device.vector_bytes(n.vision.positions() * n.vision.dim);  // the resized one
    } else if (p.kind == Parameter::Kind::vector) {
      bytes += device.vector_bytes(p.count());
    } else if (p.kind == Parameter::Kind::table) {
      bytes +=
          p.also_head ? device.tied_bytes(p.rows(), p.cols(), stored) : device.table_bytes(p.rows(), p.cols(), stored);
    } else if (p.joins_next) {
      joined_rows = p.rows();
    } else {
      bytes += device.matrix_bytes(joined_rows + p.rows(), p.cols(), p.use, stored);
      joined_rows = 0;
    }
  }
  return bytes;
}

}  // namespace drivlm
