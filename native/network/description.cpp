#include "network/description.h"

#include <cmath>

namespace drivlm {

namespace {

void require(bool ok, const char* field, const char* expected, double found) {
  if (!ok) throw Error(Code::bad_checkpoint, text("network.%s: expected %s, found %g.", field, expected, found));
}

void require_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    throw Error(Code::bad_checkpoint,
                text("network.%s: expected %lld to %lld, found %lld.", field, static_cast<long long>(low),
                     static_cast<long long>(high), static_cast<long long>(value)));
  }
}

void require_positive(const char* field, double value) {
  require(std::isfinite(value) && value > 0, field, "a positive number", value);
}

void check_rope(const RopeConfig& rope, int64_t head_dim) {
  require_positive("language.rope.theta", rope.theta);
  switch (rope.kind) {
    case RopeConfig::Kind::plain: return;
    case RopeConfig::Kind::linear: require_positive("language.rope.factor", rope.factor); return;
    case RopeConfig::Kind::dynamic:
      require(std::isfinite(rope.factor) && rope.factor >= 1, "language.rope.factor", "at least 1", rope.factor);
      require_range("language.rope.originalMax", rope.original_max, 1, int64_t{1} << 30);
      return;
    case RopeConfig::Kind::longrope:
      require_range("language.rope.originalMax", rope.original_max, 1, int64_t{1} << 30);
      require_positive("language.rope.attentionScale", rope.attention_scale);
      require_range("language.rope.shortFactors length", static_cast<int64_t>(rope.short_factors.size()), head_dim / 2,
                    head_dim / 2);
      require_range("language.rope.longFactors length", static_cast<int64_t>(rope.long_factors.size()), head_dim / 2,
                    head_dim / 2);
      for (double factor : rope.short_factors) require_positive("language.rope.shortFactors", factor);
      for (double factor : rope.long_factors) require_positive("language.rope.longFactors", factor);
      return;
  }
}

}  // namespace

void NetworkDescription::validate() const {
  // Bounds far above any model of the family; they keep every product below far inside 63 bits.
  const VisionConfig& v = vision;
  require_range("vision.dim", v.dim, 16, 8192);
  require_range("vision.layers", v.layers, 1, 256);
  require_range("vision.heads", v.heads, 1, 256);
  require_range("vision.headDim", v.head_dim, 2, 512);
  require_range("vision.heads * headDim", v.heads * v.head_dim, v.dim, v.dim);
  require_range("vision.ffnDim", v.ffn_dim, 1, 65536);
  require_range("vision.patchSize", v.patch_size, 1, 64);
  require_range("vision.tileSize", v.tile_size, 2 * v.patch_size, 4096);
  require_range("vision.tileSize mod (2 * patchSize)", v.tile_size % (2 * v.patch_size), 0, 0);
  require_range("vision.positionGrid", v.position_grid, 1, 512);
  require_range("vision.outputLayer", v.output_layer, 1, v.layers);
  require_positive("vision.normEps", v.norm_eps);
  for (int c = 0; c < 3; ++c) {
    require(std::isfinite(v.mean[c]), "vision.mean", "a finite number", v.mean[c]);
    require_positive("vision.std", v.std[c]);
  }
  require_positive("projector.normEps", projector.norm_eps);
  require_range("projector.shuffle", projector.shuffle_version, 1, 2);

  const LanguageConfig& l = language;
  require_range("language.dim", l.dim, 16, 16384);
  require_range("language.layers", l.layers, 1, 256);
  require_range("language.heads", l.heads, 1, 256);
  require_range("language.kvHeads", l.kv_heads, 1, l.heads);
  require_range("language.heads mod kvHeads", l.heads % l.kv_heads, 0, 0);
  require_range("language.headDim", l.head_dim, 2, 512);
  require_range("language.headDim mod 2", l.head_dim % 2, 0, 0);
  require_range("language.ffnDim", l.ffn_dim, 1, 131072);
  require_range("language.vocab", l.vocab, 1, 1 << 22);
  require_positive("language.normEps", l.norm_eps);
  check_rope(l.rope, l.head_dim);
}

}  // namespace drivlm
