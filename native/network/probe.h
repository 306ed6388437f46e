// Hands intermediate tensors to tests. Costs a null check when off.
//
// Names, with i a layer number; rows are appended over chunks:
//   vit.patches                    [tiles * patches, 3 * patch * patch], normalised pixels
//   vit.embeddings  vit.layer{i}   [tiles, positions, dim]
//   vit.pixel_shuffle              [tiles * tile_tokens, 4 * dim]
//   projector                      [tiles * tile_tokens, llm_dim]
//   inputs_embeds  llm.layer{i}  llm.final_norm   [tokens, llm_dim]
//   llm.k{i}  llm.v{i}             [kv_heads, tokens, head_dim], the whole sequence after prefill
//   logits                         [tokens, vocab], every prefilled row
#pragma once

#include <map>
#include <string>
#include <vector>

#include "device/device.h"

namespace drivlm {

// Tensors by name, as f32.
struct ProbeTensor {
  std::vector<int64_t> shape;
  std::vector<float> data;
};
using Probes = std::map<std::string, ProbeTensor>;

class Probe {
 public:
  Probe(Device& device, std::vector<std::string> names, Probes& out)
      : device_(device), names_(std::move(names)), out_(out) {}

  bool wants(const std::string& name) const;

  // Appends a copy of `tensor` (f32 or the device's activation type) along the first dimension if it is wanted.
  void take(const std::string& name, const Tensor& tensor);
  void put(const std::string& name, std::vector<int64_t> shape, std::vector<float> data);

 private:
  Device& device_;
  std::vector<std::string> names_;
  Probes& out_;
};

}  // namespace drivlm
