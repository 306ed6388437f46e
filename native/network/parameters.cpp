#include "network/parameters.h"

#include <algorithm>
#include <cmath>

namespace drivlm {

namespace {

using Kind = Parameter::Kind;
using Part = Parameter::Part;

class Table {
 public:
  // Where the rows that follow belong: their prefix, use and layer.
  void enter(std::string prefix, Use use, int64_t layer = -1) {
    prefix_ = std::move(prefix), use_ = use, layer_ = layer;
  }

  void row(const std::string& name, std::vector<int64_t> shape, Kind kind, Part part) {
    rows_.push_back({prefix_ + name, std::move(shape), kind, part, use_, false, false, layer_});
  }
  void matrix(const std::string& name, int64_t rows, int64_t cols, bool bias) {
    row(name + ".weight", {rows, cols}, Kind::matrix, Part::weight);
    if (bias) row(name + ".bias", {rows}, Kind::vector, Part::bias);
  }
  void norm(const std::string& name, int64_t dim, bool bias) {
    row(name + ".weight", {dim}, Kind::vector, Part::norm);
    last().of_layer_norm = bias;  // of the norms here those with a bias are LayerNorms, the others RMSNorms
    if (bias) row(name + ".bias", {dim}, Kind::vector, Part::bias);
  }
  Parameter& last() { return rows_.back(); }
  std::vector<Parameter> take() { return std::move(rows_); }

 private:
  std::vector<Parameter> rows_;
  std::string prefix_;
  Use use_ = Use::tower;
  int64_t layer_ = -1;
};

void add_vision(Table& table, const VisionConfig& c) {
  table.enter("vision.", Use::patches);
  table.row("class_embedding", {c.dim}, Kind::vector, Part::position);
  table.matrix("patch", c.dim, c.patch_values(), true);
  table.row("position", {1 + c.position_grid * c.position_grid, c.dim}, Kind::table, Part::position);
  for (int64_t i = 0; i < c.layers; ++i) {
    table.enter("vision.layers." + std::to_string(i) + ".", Use::tower, i);
    table.norm("norm1", c.dim, c.layer_norm);
    table.matrix("qkv", 3 * c.dim, c.dim, c.qkv_bias);
    if (c.qk_norm) {
      table.norm("q_norm", c.dim, false);
      table.norm("k_norm", c.dim, false);
    }
    table.matrix("proj", c.dim, c.dim, true);
    table.row("ls1", {c.dim}, Kind::vector, Part::scale);
    table.norm("norm2", c.dim, c.layer_norm);
    table.matrix("fc1", c.ffn_dim, c.dim, true);
    table.matrix("fc2", c.dim, c.ffn_dim, true);
    table.row("ls2", {c.dim}, Kind::vector, Part::scale);
  }
}

void add_projector(Table& table, const NetworkDescription& n) {
  table.enter("projector.", Use::projector);
  table.norm("norm", 4 * n.vision.dim, true);
  table.matrix("fc1", n.language.dim, 4 * n.vision.dim, true);
  table.matrix("fc2", n.language.dim, n.language.dim, true);
}

void add_language(Table& table, const LanguageConfig& c) {
  table.enter("language.", Use::embedding);
  table.row("embedding.weight", {c.vocab, c.dim}, Kind::table, Part::weight);
  table.last().also_head = c.tied_head;
  for (int64_t i = 0; i < c.layers; ++i) {
    table.enter("language.layers." + std::to_string(i) + ".", Use::decoder, i);
    table.norm("norm1", c.dim, false);
    table.matrix("qkv", c.qkv_dim(), c.dim, c.qkv_bias);
    if (c.qk_norm) {
      table.norm("q_norm", c.head_dim, false);
      table.norm("k_norm", c.head_dim, false);
    }
    table.matrix("out", c.dim, c.q_dim(), false);
    table.norm("norm2", c.dim, false);
    table.matrix("gate", c.ffn_dim, c.dim, false);
    table.last().joins_next = true;
    table.matrix("up", c.ffn_dim, c.dim, false);
    table.matrix("down", c.dim, c.ffn_dim, false);
  }
  table.enter("language.", Use::decoder);
  table.norm("norm", c.dim, false);
  if (c.tied_head) return;
  table.enter("language.", Use::head);
  table.matrix("head", c.vocab, c.dim, false);
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

std::vector<Parameter> parameters(const NetworkDescription& network) {
  Table table;
  add_vision(table, network.vision);
  add_projector(table, network);
  add_language(table, network.language);
  return table.take();
}

bool decays(const Parameter& parameter, WeightDecay rule) {
  return rule == WeightDecay::all || !(parameter.part == Part::bias || parameter.of_layer_norm);
}

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

}  // namespace drivlm
