// Gradients of the CPU's ops against the stored goldens, in f64 and, on every target, in f32.

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

#include "gradient_values.h"

namespace drivlm {

using namespace gradient_values;

namespace {

// The tensors of a safetensors file as f64; int32 and f64 are read, the header's JSON by the keys that these files have.
struct Golden {
  struct Entry {
    std::vector<int64_t> shape;
    Values values;
  };
  std::map<std::string, Entry> entries;

  explicit Golden(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    uint64_t length = 0;
    file.read(reinterpret_cast<char*>(&length), 8);
    std::string header(length, ' ');
    file.read(header.data(), static_cast<std::streamsize>(length));
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    auto number = [&](size_t& at) {
      int64_t value = 0;
      for (; header[at] >= '0' && header[at] <= '9'; ++at) value = value * 10 + (header[at] - '0');
      return value;
    };
    for (size_t at = header.find("{\"dtype\""); at != std::string::npos; at = header.find("{\"dtype\"", at)) {
      const size_t colon = header.rfind("\":", at), open = header.rfind('"', colon - 1);
      Entry& entry = entries[header.substr(open + 1, colon - open - 1)];
      const bool doubles = header.compare(header.find(':', at) + 1, 5, "\"F64\"") == 0;
      at = header.find("\"shape\":[", at) + 9;
      for (; header[at] != ']'; at += header[at] == ',') entry.shape.push_back(number(at));
      at = header.find("\"data_offsets\":[", at) + 16;
      const int64_t begin = number(at);
      const int64_t end = number(++at);
      for (int64_t i = begin; i < end; i += doubles ? 8 : 4) {
        double value;
        int32_t whole;
        if (doubles)
          std::memcpy(&value, bytes.data() + i, 8);
        else
          std::memcpy(&whole, bytes.data() + i, 4), value = whole;
        entry.values.push_back(value);
      }
    }
  }

  const Values& at(const std::string& name) const { return entries.at(name).values; }
};

// DRIVLM_TRAINING_OPS names another file of the same cases.
std::string golden_path() {
  const char* given = std::getenv("DRIVLM_TRAINING_OPS");
  return given ? given : DRIVLM_SOURCE_DIR "/test/fixtures/training/ops.safetensors";
}

const Golden& golden() {
  static const Golden file(golden_path());
  return file;
}

Values joined(const Values& q, const Values& k, const Values& v, int64_t rows, int64_t heads, int64_t kv_heads,
              int64_t d) {
  Values out;
  for (int64_t row = 0; row < rows; ++row) {
    out.insert(out.end(), q.begin() + row * heads * d, q.begin() + (row + 1) * heads * d);
    out.insert(out.end(), k.begin() + row * kv_heads * d, k.begin() + (row + 1) * kv_heads * d);
    out.insert(out.end(), v.begin() + row * kv_heads * d, v.begin() + (row + 1) * kv_heads * d);
  }
  return out;
}

// Nine rows in two segments, whose rows of the table stand the other way round.
const Batch nine_rows{{{0, 4, 0, 0, 5}, {4, 5, 0, 0, 0}}, {}, 9};

// The table of nine_rows.
Values cos_sin(Values positions, int64_t d, double theta) {
  Values out;
  std::rotate(positions.begin(), positions.begin() + 4, positions.end());
  for (double position : positions) {
    Values sines;
    for (int64_t i = 0; i < d / 2; ++i) {
      const double angle = position / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(d));
      out.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
    out.insert(out.end(), sines.begin(), sines.end());
  }
  return out;
}

}  // namespace

TEST(gradients_of_linear_are_the_golden) {
  const Golden& g = golden();
  on_every_target([&](Gradients& ops, DType type, double bound) {
    Held x(type, {7, 13}, g.at("linear.in.x")), w(type, {11, 13}, g.at("linear.in.weight")),
        dy(type, {7, 11}, g.at("linear.grad_out"));
    Held dx(type, {7, 13}), dw(type, {11, 13}), db(type, {11});
    ops.linear_input(dx, dy, w);
    ops.linear_weight(dw, db, dy, x);
    expect_near("linear x", dx.values(), g.at("linear.grad.x"), bound);
    expect_near("linear weight", dw.values(), g.at("linear.grad.weight"), bound);
    expect_near("linear bias", db.values(), g.at("linear.grad.bias"), bound);
    ops.linear_weight(dw, db, dy, x);  // parameters' gradients are added up
    Values twice = g.at("linear.grad.weight");
    for (double& v : twice) v *= 2;
    expect_near("linear weight twice", dw.values(), twice, bound);
  });
}

TEST(gradients_of_norms_are_the_golden) {
  const Golden& g = golden();
  struct Case {
    const char* name;
    int64_t rows, dim;
    double eps;
    bool layer;
  };
  for (const Case& c : {Case{"layer_norm", 6, 37, 1e-6, true}, Case{"layer_norm_small_variance", 3, 19, 1e-5, true},
                        Case{"rms_norm", 7, 35, 1e-6, false}}) {
    const std::string name = c.name;
    on_every_target([&](Gradients& ops, DType type, double bound) {
      // f32 holds no small variance beside a mean.
      if (name == "layer_norm_small_variance" && type == DType::f32) bound = 2e-3;
      Held x(type, {c.rows, c.dim}, g.at(name + ".in.x")), dy(type, {c.rows, c.dim}, g.at(name + ".grad_out"));
      Held weight(type, {c.dim}, g.at(name + ".in.gamma")), dx(type, {c.rows, c.dim}), dw(type, {c.dim}),
          db(type, {c.dim});
      ops.norm(dx, dw, c.layer ? Tensor(db) : Tensor(), dy, x, {weight, {}, c.eps, c.layer});
      expect_near((name + " x").c_str(), dx.values(), g.at(name + ".grad.x"), bound);
      expect_near((name + " gamma").c_str(), dw.values(), g.at(name + ".grad.gamma"), bound);
      if (c.layer) expect_near((name + " beta").c_str(), db.values(), g.at(name + ".grad.beta"), bound);
    });
  }
}

TEST(gradients_of_activations_are_the_golden) {
  const Golden& g = golden();
  on_every_target([&](Gradients& ops, DType type, double bound) {
    Held u(type, {3, 29}, g.at("gelu_erf.in.x")), dy(type, {3, 29}, g.at("gelu_erf.grad_out"));
    ops.gelu(dy, dy, u);
    expect_near("gelu", dy.values(), g.at("gelu_erf.grad.x"), bound);
    Values both, expected;
    for (int64_t row = 0; row < 5; ++row) {
      for (const char* part : {"gate", "up"}) {
        const Values &in = g.at(std::string("silu_times_up.in.") + part),
                     &out = g.at(std::string("silu_times_up.grad.") + part);
        both.insert(both.end(), in.begin() + row * 23, in.begin() + (row + 1) * 23);
        expected.insert(expected.end(), out.begin() + row * 23, out.begin() + (row + 1) * 23);
      }
    }
    Held gate_up(type, {5, 46}, both), d(type, {5, 23}, g.at("silu_times_up.grad_out"));
    ops.gated(gate_up, d, gate_up);
    expect_near("gated", gate_up.values(), expected, bound);
  });
}

TEST(gradients_of_residuals_are_the_golden) {
  const Golden& g = golden();
  on_every_target([&](Gradients& ops, DType type, double bound) {
    Held dx(type, {10, 7}, g.at("layer_scale_residual.grad_out")),
        y(type, {10, 7}, g.at("layer_scale_residual.in.branch"));
    Held scale(type, {7}, g.at("layer_scale_residual.in.scale")), dy(type, {10, 7}), d_scale(type, {7});
    ops.scale_add(dy, d_scale, dx, y, scale);
    expect_near("layer scale branch", dy.values(), g.at("layer_scale_residual.grad.branch"), bound);
    expect_near("layer scale", d_scale.values(), g.at("layer_scale_residual.grad.scale"), bound);
    expect_near("residual", dx.values(), g.at("layer_scale_residual.grad.residual"), bound);
  });
}

TEST(gradients_of_attention_are_the_golden) {
  const Golden& g = golden();
  struct Case {
    const char* name;
    int64_t rows, heads, kv_heads, d;
    std::vector<AttentionSpan> spans;
    bool causal;
  };
  const std::vector<Case> cases{{"attention_full", 11, 3, 3, 6, {{0, 11}}, false},
                                {"attention_causal_gqa", 13, 6, 2, 6, {{0, 13}}, true},
                                {"attention_causal_gqa_packed", 17, 4, 2, 10, {{0, 4}, {4, 1}, {5, 12}}, true},
                                {"attention_causal_tail", 68, 2, 1, 8, {{0, 68}}, true}};
  for (const Case& c : cases) {
    const std::string name = c.name;
    const int64_t width = (c.heads + 2 * c.kv_heads) * c.d;
    on_every_target([&](Gradients& ops, DType type, double bound) {
      Held qkv(
          type, {c.rows, width},
          joined(g.at(name + ".in.q"), g.at(name + ".in.k"), g.at(name + ".in.v"), c.rows, c.heads, c.kv_heads, c.d));
      Held d_out(type, {c.rows, c.heads * c.d}, g.at(name + ".grad_out")), d_qkv(type, {c.rows, width});
      ops.attention(d_qkv, d_out, qkv, c.heads, c.kv_heads, c.d, c.spans, c.causal);
      expect_near(c.name, d_qkv.values(),
                  joined(g.at(name + ".grad.q"), g.at(name + ".grad.k"), g.at(name + ".grad.v"), c.rows, c.heads,
                         c.kv_heads, c.d),
                  bound);
    });
  }
}

TEST(gradients_of_rope_are_the_golden) {
  const Golden& g = golden();
  on_every_target([&](Gradients& ops, DType type, double bound) {
    {  // three heads of width 10, taken for two of q, one of k and none of v
      Held angles(type, {9, 10}, cos_sin(g.at("rope.in.pos"), 10, 1e6));
      Values padded;
      const Values& d = g.at("rope.grad_out");
      for (int64_t row = 0; row < 9; ++row) {
        padded.insert(padded.end(), d.begin() + row * 30, d.begin() + (row + 1) * 30);
        padded.insert(padded.end(), 10, 3.0);  // v stays as it is
      }
      Held d_qkv(type, {9, 40}, padded);
      ops.rope(d_qkv, {}, {}, {}, {}, {}, 0, angles, nine_rows, 2, 1);
      Values found, v;
      const Values all = d_qkv.values();
      for (int64_t row = 0; row < 9; ++row) {
        found.insert(found.end(), all.begin() + row * 40, all.begin() + row * 40 + 30);
        v.insert(v.end(), all.begin() + row * 40 + 30, all.begin() + (row + 1) * 40);
      }
      expect_near("rope", found, g.at("rope.grad.x"), bound);
      CHECK_EQ(v == Values(90, 3.0), true);
    }
    {  // two heads: one of q, one of k, with one gamma for both
      Held angles(type, {9, 12}, cos_sin(g.at("qk_norm_rope.in.pos"), 12, 1e4)),
          gamma(type, {12}, g.at("qk_norm_rope.in.gamma"));
      Held dq(type, {12}), dk(type, {12});
      Values in, d;
      for (int64_t row = 0; row < 9; ++row) {
        in.insert(in.end(), g.at("qk_norm_rope.in.x").begin() + row * 24,
                  g.at("qk_norm_rope.in.x").begin() + (row + 1) * 24);
        in.insert(in.end(), 12, 0.0);
        d.insert(d.end(), g.at("qk_norm_rope.grad_out").begin() + row * 24,
                 g.at("qk_norm_rope.grad_out").begin() + (row + 1) * 24);
        d.insert(d.end(), 12, 0.0);
      }
      Held x(type, {9, 36}, in), d_qkv(type, {9, 36}, d);
      ops.rope(d_qkv, dq, dk, x, gamma, gamma, 1e-6, angles, nine_rows, 1, 1);
      Values found, d_gamma = dq.values();
      for (int64_t row = 0; row < 9; ++row) {
        const Values all = d_qkv.values();
        found.insert(found.end(), all.begin() + row * 36, all.begin() + row * 36 + 24);
      }
      for (size_t i = 0; i < d_gamma.size(); ++i) d_gamma[i] += dk.values()[i];
      expect_near("q and k norm, x", found, g.at("qk_norm_rope.grad.x"), bound);
      expect_near("q and k norm, gamma", d_gamma, g.at("qk_norm_rope.grad.gamma"), bound);
    }
  });
}

TEST(gradients_of_moves_are_the_golden) {
  const Golden& g = golden();
  on_every_target([&](Gradients& ops, DType type, double bound) {
    for (int version : {1, 2}) {
      const std::string name = "pixel_shuffle_v" + std::to_string(version);
      Held dy(type, {18, 20}, g.at(name + ".grad_out")), dx(type, {2, 37, 5}, Values(370, 7.0));
      ops.pixel_shuffle(dx, dy, 6, version);
      Values found;
      const Values all = dx.values();
      for (int64_t tile = 0; tile < 2; ++tile) {
        for (int64_t i = 0; i < 5; ++i) CHECK_EQ(all[tile * 185 + i], 0.0);
        found.insert(found.end(), all.begin() + tile * 185 + 5, all.begin() + (tile + 1) * 185);
      }
      expect_near(name.c_str(), found, g.at(name + ".grad.x"), bound);
    }
    {
      Values to(3, 0.5), from(3, 0.5);
      to.insert(to.end(), g.at("position_resize.grad_out").begin(), g.at("position_resize.grad_out").end());
      from.insert(from.end(), g.at("position_resize.grad.table").begin(), g.at("position_resize.grad.table").end());
      Held d_to(type, {50, 3}, to), d_from(type, {17, 3});
      ops.resize_positions(d_from, 4, d_to, 7);
      expect_near("position resize", d_from.values(), from, bound);
    }
    {
      std::vector<int32_t> ids;
      Values features;
      for (double id : g.at("embed_and_place.in.ids")) ids.push_back(id == 8 ? -1 : static_cast<int32_t>(id));
      const Values& d = g.at("embed_and_place.grad_out");
      for (size_t i = 0; i < ids.size(); ++i) {
        if (ids[i] < 0) features.insert(features.end(), d.begin() + i * 5, d.begin() + (i + 1) * 5);
      }
      Held dx(type, {8, 5}, d), d_table(type, {9, 5});
      ops.gather(d_table, ids.data(), 8, dx);
      expect_near("embedding", d_table.values(), g.at("embed_and_place.grad.table"), bound);
      expect_near("features", features, g.at("embed_and_place.grad.features"), bound);
    }
  });
}

TEST(gradients_of_the_loss_are_the_golden) {
  const Golden& g = golden();
  for (const std::string name : {"cross_entropy", "cross_entropy_weighted"}) {
    // Row t is scored against label t + 1.
    const Values &labels = g.at(name + ".in.labels"), &logits = g.at(name + ".in.logits"),
                 &expected = g.at(name + ".grad.logits");
    std::vector<int32_t> ids;
    std::vector<double> weights;
    Values rows, wanted, others;
    double total = 0;
    for (size_t t = 0; t < 7; ++t) {
      const double label = t + 1 < 7 ? labels[t + 1] : -100;
      Values& to = label >= 0 ? wanted : others;
      to.insert(to.end(), expected.begin() + t * 11, expected.begin() + (t + 1) * 11);
      if (label < 0) continue;
      ids.push_back(static_cast<int32_t>(label));
      rows.insert(rows.end(), logits.begin() + t * 11, logits.begin() + (t + 1) * 11);
      weights.push_back(name == "cross_entropy" ? 1.0 : g.at(name + ".in.weight")[t + 1]);
      total += weights.back();
    }
    for (double v : others) CHECK_EQ(v, 0.0);
    for (double& w : weights) w /= total;
    on_every_target([&](Gradients& ops, DType type, double bound) {
      Held in(type, {static_cast<int64_t>(ids.size()), 11}, rows);
      std::vector<double> losses(ids.size());
      ops.cross_entropy(in, losses.data(), in, ids.data(), weights.data());
      double loss = 0;
      for (double l : losses) loss += l;
      expect_near((name + " loss").c_str(), {loss}, g.at(name + ".out"), bound);
      expect_near(name.c_str(), in.values(), wanted, bound);
    });
  }
}

TEST(updates_are_the_golden) {
  const Golden& g = golden();
  on_every_target([&](Gradients& ops, DType type, double bound) {
    Held p(type, {4, 5}, g.at("adamw.in.param")), m(type, {4, 5}), v(type, {4, 5});
    const Values &all = g.at("adamw.in.grads"), &after = g.at("adamw.params_after");
    for (int64_t step = 0; step < 5; ++step) {
      Held d(type, {4, 5}, Values(all.begin() + step * 20, all.begin() + (step + 1) * 20));
      AdamW options;
      options.learning_rate = 0.01;
      options.weight_decay = 0.05;
      options.step = step + 1;
      ops.adamw(p, m, v, d, options);
      expect_near("adamw", p.values(), Values(after.begin() + step * 20, after.begin() + (step + 1) * 20), bound);
    }
    expect_near("adamw m", m.values(), g.at("adamw.m"), bound);
    expect_near("adamw v", v.values(), g.at("adamw.v"), bound);
    Held a(type, {3, 4}, g.at("clip.in.a")), b(type, {5}, g.at("clip.in.b"));
    expect_near("norm", {std::sqrt(ops.sum_of_squares(a) + ops.sum_of_squares(b))}, {8.187904939997075}, bound);
  });
}

}  // namespace drivlm
