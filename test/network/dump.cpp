#include "dump.h"

#include <fstream>
#include <sstream>

namespace drivlm::test {

namespace {

DType type_of(const std::string& name) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::i32, DType::u8}) {
    if (name == dtype_name(type)) return type;
  }
  throw Error(Code::internal, name + ": no type of a dump.");
}

std::vector<int64_t> read_shape(std::istream& line) {
  int64_t rank = 0;
  line >> rank;
  std::vector<int64_t> shape(static_cast<size_t>(rank));
  for (int64_t& extent : shape) line >> extent;
  return shape;
}

// One number of the description. False for a key that it does not have.
bool set(NetworkDescription& n, const std::string& key, std::istream& line) {
  VisionConfig& v = n.vision;
  LanguageConfig& l = n.language;
  const std::map<std::string, int64_t*> integers{{"vision.dim", &v.dim},
                                                 {"vision.layers", &v.layers},
                                                 {"vision.heads", &v.heads},
                                                 {"vision.headDim", &v.head_dim},
                                                 {"vision.ffnDim", &v.ffn_dim},
                                                 {"vision.patchSize", &v.patch_size},
                                                 {"vision.tileSize", &v.tile_size},
                                                 {"vision.positionGrid", &v.position_grid},
                                                 {"vision.outputLayer", &v.output_layer},
                                                 {"language.dim", &l.dim},
                                                 {"language.layers", &l.layers},
                                                 {"language.heads", &l.heads},
                                                 {"language.kvHeads", &l.kv_heads},
                                                 {"language.headDim", &l.head_dim},
                                                 {"language.ffnDim", &l.ffn_dim},
                                                 {"language.vocab", &l.vocab},
                                                 {"language.rope.originalMax", &l.rope.original_max}};
  const std::map<std::string, bool*> flags{{"vision.layerNorm", &v.layer_norm}, {"vision.qkvBias", &v.qkv_bias},
                                           {"vision.qkNorm", &v.qk_norm},       {"language.qkvBias", &l.qkv_bias},
                                           {"language.qkNorm", &l.qk_norm},     {"language.tiedHead", &l.tied_head}};
  const std::map<std::string, float*> floats{
      {"vision.normEps", &v.norm_eps}, {"projector.normEps", &n.projector.norm_eps}, {"language.normEps", &l.norm_eps}};
  const std::map<std::string, double*> doubles{{"language.rope.theta", &l.rope.theta},
                                               {"language.rope.factor", &l.rope.factor},
                                               {"language.rope.attentionScale", &l.rope.attention_scale}};
  const auto read = [&](const auto& fields) {
    const auto found = fields.find(key);
    if (found == fields.end()) return false;
    line >> *found->second;
    return true;
  };
  if (read(integers) || read(flags) || read(floats) || read(doubles)) return true;
  int kind = 0;
  if (key == "vision.mean") {
    for (float& value : v.mean) line >> value;
  } else if (key == "vision.std") {
    for (float& value : v.std) line >> value;
  } else if (key == "projector.shuffle") {
    line >> n.projector.shuffle_version;
  } else if (key == "language.rope.kind") {
    line >> kind;
    l.rope.kind = static_cast<RopeConfig::Kind>(kind);
  } else if (key == "language.rope.shortFactors" || key == "language.rope.longFactors") {
    std::vector<double>& factors = key.ends_with("shortFactors") ? l.rope.short_factors : l.rope.long_factors;
    for (double factor; line >> factor;) factors.push_back(factor);
    line.clear();
  } else {
    return false;
  }
  return true;
}

}  // namespace

Dump read_dump(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (!in || !std::getline(in, text) || text != "drivlm network 1")
    throw Error(Code::internal, path + ": no dump of a network.");
  Dump dump;
  std::map<std::string, int64_t> offsets;
  int64_t start = -1;
  while (start < 0 && std::getline(in, text)) {
    std::istringstream line(text);
    std::string key, name, type;
    line >> key;
    if (key == "file") {
      int64_t bytes = 0;
      line >> bytes >> std::ws;
      std::getline(line, name);
      dump.source.files.push_back(name);
      dump.source.file_bytes.push_back(bytes);
    } else if (key == "tensor") {
      line >> name >> type;
      TensorSource tensor{name, type_of(type), read_shape(line), {}};
      size_t spans = 0;
      line >> spans;
      tensor.spans.resize(spans);
      for (TensorSpan& span : tensor.spans) {
        line >> span.file >> span.offset >> span.rows >> type;
        span.dtype = type_of(type);
      }
      dump.source.tensors.push_back(std::move(tensor));
    } else if (key == "array") {
      line >> name >> type;
      dump.arrays[name] = {type_of(type), read_shape(line), {}};
      line >> offsets[name];
    } else if (key == "data") {
      line >> start;
    } else if (!set(dump.source.network, key, line)) {
      throw Error(Code::internal, path + ": a line of no known kind: " + text);
    }
    if (!line && !line.eof()) throw Error(Code::internal, path + ": a line that cannot be read: " + text);
  }
  for (auto& [name, array] : dump.arrays) {
    array.bytes.resize(static_cast<size_t>(array.count() * dtype_bytes(array.dtype)));
    in.seekg(start + offsets[name]);
    if (!in.read(array.bytes.data(), static_cast<std::streamsize>(array.bytes.size()))) {
      throw Error(Code::internal, path + ": ends within " + name + ".");
    }
  }
  return dump;
}

}  // namespace drivlm::test
