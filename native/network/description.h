// What a network is, in numbers: the C++ side of NetworkDescription in lib/native.ts.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace drivlm {

struct VisionConfig {
  int64_t dim, layers, heads, head_dim, ffn_dim;
  int64_t patch_size;
  int64_t tile_size;      // pixels, a multiple of 2 * patch_size
  int64_t position_grid;  // side of the stored position table
  bool layer_norm;        // false: RMS norm
  float norm_eps;
  bool qkv_bias, qk_norm;
  int64_t output_layer;  // blocks that run, 1..layers
  std::array<float, 3> mean, std;

  int64_t grid() const { return tile_size / patch_size; }
  int64_t patches() const { return grid() * grid(); }
  int64_t positions() const { return patches() + 1; }
  int64_t patch_values() const { return 3 * patch_size * patch_size; }
  int64_t tile_tokens() const { return patches() / 4; }  // after pixel shuffle
};

struct ProjectorConfig {
  float norm_eps;
  int shuffle_version;  // 1 or 2
};

struct RopeConfig {
  enum class Kind { plain, linear, dynamic, longrope };
  Kind kind = Kind::plain;
  double theta = 10000;
  double factor = 1;
  int64_t original_max = 0;
  double attention_scale = 1;
  std::vector<double> short_factors, long_factors;  // [head_dim / 2]
};

struct LanguageConfig {
  int64_t dim, layers, heads, kv_heads, head_dim, ffn_dim, vocab;
  float norm_eps;
  bool qkv_bias, qk_norm, tied_head;
  RopeConfig rope;

  int64_t q_dim() const { return heads * head_dim; }
  int64_t kv_dim() const { return kv_heads * head_dim; }
  int64_t qkv_dim() const { return q_dim() + 2 * kv_dim(); }
};

struct NetworkDescription {
  VisionConfig vision;
  ProjectorConfig projector;
  LanguageConfig language;

  // Throws BAD_CHECKPOINT with the field's name unless every number is sane and they fit together.
  void validate() const;
};

// Rows of a stored tensor: `rows` entries of the first dimension from byte `offset` of file `file`.
struct TensorSpan {
  int64_t file, offset, rows;
  DType dtype;  // as stored; where it is not the tensor's, which is then f32, the rows are widened on load
};

// One canonical tensor (roles: lib/native.ts), the concatenation of its spans.
struct TensorSource {
  std::string role;
  DType dtype;  // f32, f16 or bf16
  std::vector<int64_t> shape;
  std::vector<TensorSpan> spans;
};

struct ModelSource {
  NetworkDescription network;
  std::vector<std::string> files;
  std::vector<int64_t> file_bytes;
  std::vector<TensorSource> tensors;
};

}  // namespace drivlm
