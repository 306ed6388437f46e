#include "network/weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/numeric.h"

namespace drivlm {

namespace {

std::string shape_text(DType dtype, const std::vector<int64_t>& shape) {
  std::string out = std::string(dtype_name(dtype)) + " [";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

std::vector<float> widen(const HostTensor& tensor) {
  std::vector<float> out;
  out.reserve(tensor.rows * tensor.cols);
  for (const HostRows& run : tensor.runs) {
    const int64_t count = run.rows * tensor.cols;
    const char* bytes = static_cast<const char*>(run.data);
    for (int64_t i = 0; i < count; ++i) {
      if (tensor.dtype == DType::f32) {
        float v;
        std::memcpy(&v, bytes + 4 * i, 4);
        out.push_back(v);
      } else {
        uint16_t bits;
        std::memcpy(&bits, bytes + 2 * i, 2);
        out.push_back(tensor.dtype == DType::bf16 ? to_float(bf16{bits}) : to_float(f16{bits}));
      }
    }
  }
  return out;
}

class Loader {
 public:
  Loader(const ModelSource& source, PackedStore* store, Device& device, const std::function<void(int64_t, int64_t)>& progress,
         const std::atomic<bool>& cancel, std::vector<std::unique_ptr<MappedFile>>& files)
      : source_(source), store_(store), device_(device), progress_(progress), cancel_(cancel), files_(files) {
    if (source.files.size() != source.file_bytes.size()) throw Error(Code::bad_argument, "files and fileBytes differ in length.");
    for (size_t i = 0; i < source.files.size(); ++i) {
      files_.push_back(std::make_unique<MappedFile>(source.files[i], source.file_bytes[i]));
    }
    for (const TensorSource& tensor : source.tensors) {
      if (!waiting_.emplace(tensor.role, &tensor).second) {
        throw Error(Code::bad_weights, tensor.role + ": given twice.");
      }
      check(tensor);
      total_ += bytes_of(tensor);
    }
  }

  MatrixPtr matrix(const std::string& role, Use use, int64_t rows, int64_t cols) {
    const TensorSource& tensor = take(role, {rows, cols});
    MatrixPtr out = device_.load_matrix(host(tensor, use));
    finish(tensor, *out);
    return out;
  }

  MatrixPtr gated(const std::string& gate_role, const std::string& up_role, int64_t rows, int64_t cols) {
    const TensorSource& gate = take(gate_role, {rows, cols});
    const TensorSource& up = take(up_role, {rows, cols});
    MatrixPtr out = device_.load_gated(host(gate, Use::decoder), host(up, Use::decoder));
    finish(gate, *out);
    finish(up, *out);
    return out;
  }

  MatrixPtr table(const std::string& role, int64_t rows, int64_t cols) {
    const TensorSource& tensor = take(role, {rows, cols});
    MatrixPtr out = device_.load_table(host(tensor, Use::embedding));
    finish(tensor, *out);
    return out;
  }

  // The head of a tied model: the embedding's tensor a second time.
  MatrixPtr matrix_again(const std::string& role) {
    const auto found = taken_.find(role);
    if (found == taken_.end()) throw Error(Code::internal, role + ": not loaded yet.");
    return device_.load_matrix(host(*found->second, Use::head));
  }

  Tensor vector(const std::string& role, int64_t size) {
    const TensorSource& tensor = take(role, {size});
    Tensor out = device_.load_vector(host(tensor));
    report(tensor);
    return out;
  }

  std::vector<float> values(const std::string& role, std::initializer_list<int64_t> shape) {
    const TensorSource& tensor = take(role, shape);
    report(tensor);
    return widen(host(tensor));
  }

  Tensor own_vector(const std::string& name, const std::vector<float>& values) {
    return device_.load_vector({name, DType::f32, 1, static_cast<int64_t>(values.size()), {{values.data(), 1}}});
  }

  void expect_all_used() const {
    if (!waiting_.empty()) throw Error(Code::bad_weights, waiting_.begin()->first + ": the network has no use for this tensor.");
  }

 private:
  static int64_t bytes_of(const TensorSource& tensor) {
    return std::accumulate(tensor.shape.begin(), tensor.shape.end(), dtype_bytes(tensor.dtype), std::multiplies<>());
  }

  // Every range inside its file, every count adding up; nothing below trusts the caller.
  void check(const TensorSource& tensor) const {
    auto fail = [&](const std::string& why) { throw Error(Code::bad_weights, tensor.role + ": " + why); };
    if (tensor.shape.empty() || tensor.shape.size() > 2) fail("expected one or two dimensions.");
    if (tensor.dtype != DType::f32 && tensor.dtype != DType::f16 && tensor.dtype != DType::bf16) fail("expected f32, f16 or bf16.");
    for (int64_t dim : tensor.shape) {
      if (dim < 1 || dim > (int64_t{1} << 31)) fail("dimension " + std::to_string(dim) + " is out of range.");
    }
    const int64_t row_bytes = dtype_bytes(tensor.dtype) * (tensor.shape.size() == 2 ? tensor.shape[1] : 1);
    int64_t rows = 0;
    for (const TensorSpan& span : tensor.spans) {
      if (span.file < 0 || span.file >= static_cast<int64_t>(files_.size())) fail("a span names file " + std::to_string(span.file) + ".");
      const MappedFile& file = *files_[span.file];
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

  const TensorSource& take(const std::string& role, const std::vector<int64_t>& shape) {
    if (cancel_) throw Error(Code::aborted, "Loading was aborted.");
    const auto found = waiting_.find(role);
    if (found == waiting_.end()) throw Error(Code::bad_weights, role + ": missing; expected [" + shape_text(DType::f32, shape).substr(5));
    const TensorSource& tensor = *found->second;
    if (tensor.shape != shape) {
      throw Error(Code::bad_weights, role + ": expected " + shape_text(tensor.dtype, shape) + ", found " +
                                         shape_text(tensor.dtype, tensor.shape) + ".");
    }
    taken_[role] = &tensor;
    waiting_.erase(found);
    return tensor;
  }

  HostTensor host(const TensorSource& tensor, Use use = Use::tower) const {
    HostTensor out{tensor.role, tensor.dtype, tensor.shape[0], tensor.shape.size() == 2 ? tensor.shape[1] : 1, {}, use, store_};
    for (const TensorSpan& span : tensor.spans) {
      const MappedFile* file = files_[span.file].get();
      out.runs.push_back({file->data() + span.offset, span.rows, file});
    }
    return out;
  }

  // A packed copy was made: the mapped pages can go.
  void finish(const TensorSource& tensor, const Matrix& matrix) {
    if (!device_.keeps_mapping(matrix)) {
      const int64_t row_bytes = bytes_of(tensor) / tensor.shape[0];
      for (const TensorSpan& span : tensor.spans) files_[span.file]->drop(span.offset, span.rows * row_bytes);
    }
    report(tensor);
  }

  void report(const TensorSource& tensor) {
    done_ += bytes_of(tensor);
    if (progress_) progress_(done_, total_);
  }

  const ModelSource& source_;
  PackedStore* store_;
  Device& device_;
  const std::function<void(int64_t, int64_t)>& progress_;
  const std::atomic<bool>& cancel_;
  std::vector<std::unique_ptr<MappedFile>>& files_;
  std::map<std::string, const TensorSource*> waiting_, taken_;
  int64_t done_ = 0, total_ = 0;
};

VisionWeights load_vision(Loader& load, const VisionConfig& c) {
  VisionWeights w;
  auto norm = [&](const std::string& role) {
    Norm out{load.vector(role + ".weight", c.dim), {}, c.norm_eps, c.layer_norm};
    if (c.layer_norm) out.bias = load.vector(role + ".bias", c.dim);
    return out;
  };
  w.class_embedding = load.vector("vision.class_embedding", c.dim);
  w.patch = load.matrix("vision.patch.weight", Use::patches, c.dim, c.patch_values());
  w.patch_bias = load.vector("vision.patch.bias", c.dim);
  const std::vector<float> table = load.values("vision.position", {1 + c.position_grid * c.position_grid, c.dim});
  w.positions = load.own_vector("vision.position", resize_positions(table, c.position_grid, c.grid(), c.dim))
                    .reshaped({c.positions(), c.dim});
  // Blocks past output_layer never run, but their tensors are part of the checkpoint and are checked.
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string role = "vision.layers." + std::to_string(i) + ".";
    VisionBlock b;
    b.norm1 = norm(role + "norm1");
    b.qkv = load.matrix(role + "qkv.weight", Use::tower, 3 * c.dim, c.dim);
    if (c.qkv_bias) b.qkv_bias = load.vector(role + "qkv.bias", 3 * c.dim);
    if (c.qk_norm) {
      b.q_norm = load.vector(role + "q_norm.weight", c.dim);
      b.k_norm = load.vector(role + "k_norm.weight", c.dim);
    }
    b.proj = load.matrix(role + "proj.weight", Use::tower, c.dim, c.dim);
    b.proj_bias = load.vector(role + "proj.bias", c.dim);
    b.ls1 = load.vector(role + "ls1", c.dim);
    b.norm2 = norm(role + "norm2");
    b.fc1 = load.matrix(role + "fc1.weight", Use::tower, c.ffn_dim, c.dim);
    b.fc1_bias = load.vector(role + "fc1.bias", c.ffn_dim);
    b.fc2 = load.matrix(role + "fc2.weight", Use::tower, c.dim, c.ffn_dim);
    b.fc2_bias = load.vector(role + "fc2.bias", c.dim);
    b.ls2 = load.vector(role + "ls2", c.dim);
    w.blocks.push_back(std::move(b));
  }
  return w;
}

ProjectorWeights load_projector(Loader& load, const NetworkDescription& n) {
  const int64_t in = 4 * n.vision.dim, dim = n.language.dim;
  ProjectorWeights w;
  w.norm = {load.vector("projector.norm.weight", in), load.vector("projector.norm.bias", in), n.projector.norm_eps, true};
  w.fc1 = load.matrix("projector.fc1.weight", Use::projector, dim, in);
  w.fc1_bias = load.vector("projector.fc1.bias", dim);
  w.fc2 = load.matrix("projector.fc2.weight", Use::projector, dim, dim);
  w.fc2_bias = load.vector("projector.fc2.bias", dim);
  return w;
}

DecoderWeights load_decoder(Loader& load, const LanguageConfig& c) {
  DecoderWeights w;
  auto norm = [&](const std::string& role) { return Norm{load.vector(role + ".weight", c.dim), {}, c.norm_eps, false}; };
  w.embedding = load.table("language.embedding.weight", c.vocab, c.dim);
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string role = "language.layers." + std::to_string(i) + ".";
    DecoderBlock b;
    b.norm1 = norm(role + "norm1");
    b.qkv = load.matrix(role + "qkv.weight", Use::decoder, c.qkv_dim(), c.dim);
    if (c.qkv_bias) b.qkv_bias = load.vector(role + "qkv.bias", c.qkv_dim());
    if (c.qk_norm) {
      b.q_norm = load.vector(role + "q_norm.weight", c.head_dim);
      b.k_norm = load.vector(role + "k_norm.weight", c.head_dim);
    }
    b.out = load.matrix(role + "out.weight", Use::decoder, c.dim, c.q_dim());
    b.norm2 = norm(role + "norm2");
    b.gate_up = load.gated(role + "gate.weight", role + "up.weight", c.ffn_dim, c.dim);
    b.down = load.matrix(role + "down.weight", Use::decoder, c.dim, c.ffn_dim);
    w.blocks.push_back(std::move(b));
  }
  w.norm = norm("language.norm");
  w.head = c.tied_head ? load.matrix_again("language.embedding.weight") : load.matrix("language.head.weight", Use::head, c.vocab, c.dim);
  return w;
}

// PyTorch's cubic kernel, a = -0.75, weights of the four neighbours at distance 1 + t, t, 1 - t, 2 - t.
void cubic_weights(float t, float (&w)[4]) {
  constexpr float a = -0.75f;
  auto near = [](float x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  auto far = [](float x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  w[0] = far(t + 1);
  w[1] = near(t);
  w[2] = near(1 - t);
  w[3] = far(2 - t);
}

}  // namespace

std::vector<float> resize_positions(const std::vector<float>& table, int64_t from, int64_t to, int64_t dim) {
  if (from == to) return table;
  std::vector<float> out(table.begin(), table.begin() + dim);
  out.resize((1 + to * to) * dim);
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  auto locate = [&](int64_t i, int64_t& base, float (&w)[4]) {
    const float source = scale * (static_cast<float>(i) + 0.5f) - 0.5f;
    base = static_cast<int64_t>(std::floor(source));
    cubic_weights(source - static_cast<float>(base), w);
  };
  for (int64_t y = 0; y < to; ++y) {
    int64_t y0, x0;
    float wy[4], wx[4];
    locate(y, y0, wy);
    for (int64_t x = 0; x < to; ++x) {
      locate(x, x0, wx);
      float* cell = out.data() + (1 + y * to + x) * dim;
      for (int j = 0; j < 4; ++j) {
        const int64_t sy = std::clamp<int64_t>(y0 - 1 + j, 0, from - 1);
        for (int i = 0; i < 4; ++i) {
          const int64_t sx = std::clamp<int64_t>(x0 - 1 + i, 0, from - 1);
          const float* source = table.data() + (1 + sy * from + sx) * dim;
          for (int64_t d = 0; d < dim; ++d) cell[d] += wy[j] * wx[i] * source[d];
        }
      }
    }
  }
  return out;
}

Weights load_weights(const ModelSource& source, PackedStore* store, Device& device,
                     const std::function<void(int64_t, int64_t)>& progress, const std::atomic<bool>& cancel) {
  Weights w;
  Loader load(source, store, device, progress, cancel, w.files);
  for (const auto& file : w.files) {
    if (auto shared = device.share(file->data(), file->bytes())) w.shared.push_back(std::move(shared));
  }
  if (w.shared.empty()) device.reserve_weights(weights_bytes(source.network, device, source.tensors.empty() ? DType::bf16 : source.tensors.front().dtype));
  w.vision = load_vision(load, source.network.vision);
  w.projector = load_projector(load, source.network);
  w.decoder = load_decoder(load, source.network.language);
  load.expect_all_used();
  return w;
}

size_t weights_bytes(const NetworkDescription& n, const Device& device, DType stored) {
  const VisionConfig& v = n.vision;
  const LanguageConfig& l = n.language;
  auto matrix = [&](int64_t rows, int64_t cols) { return device.matrix_bytes(rows, cols, stored); };
  auto vectors = [&](int64_t count, int64_t size) { return size_t(count) * device.vector_bytes(size); };
  const size_t vision_block = matrix(3 * v.dim, v.dim) + matrix(v.dim, v.dim) + matrix(v.ffn_dim, v.dim) + matrix(v.dim, v.ffn_dim) +
                              vectors(v.qkv_bias, 3 * v.dim) + vectors(2 * v.qk_norm, v.dim) + vectors(6 + 2 * v.layer_norm, v.dim) +
                              vectors(1, v.ffn_dim);
  const size_t vision_ends = matrix(v.dim, v.patch_values()) + vectors(2, v.dim) + vectors(1, v.positions() * v.dim);
  const size_t projector = matrix(l.dim, 4 * v.dim) + matrix(l.dim, l.dim) + vectors(2, 4 * v.dim) + vectors(2, l.dim);
  const size_t decoder_block = matrix(l.qkv_dim(), l.dim) + matrix(l.dim, l.q_dim()) + matrix(2 * l.ffn_dim, l.dim) +
                               matrix(l.dim, l.ffn_dim) + vectors(2, l.dim) + vectors(l.qkv_bias, l.qkv_dim()) +
                               vectors(2 * l.qk_norm, l.head_dim);
  const size_t head = l.tied_head && device.shares_tied_head() ? 0 : matrix(l.vocab, l.dim);
  return v.layers * vision_block + vision_ends + projector + l.layers * decoder_block + vectors(1, l.dim) +
         device.table_bytes(l.vocab, l.dim, stored) + head;
}

}  // namespace drivlm
