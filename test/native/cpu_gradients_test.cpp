// Gradients of the CPU's ops: in f64 against the stored goldens and against central differences, in f32 against f64, on every target.
//
// Differences need no tuning: with a step of the cube root of the precision both of their errors are near 1e-10 for values around 1.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>

#include "cpu_kernels_testing.h"
#include "kernels/cpu/cpu_gradients.h"

namespace drivlm {

namespace {

using cpu::Random;
using Values = std::vector<double>;

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

// f64 values as a tensor of either type, and back.
class Held {
 public:
  Held(DType dtype, std::initializer_list<int64_t> shape, const Values& values)
      : values_(values), narrow_(values.begin(), values.end()) {
    tensor = Tensor(dtype == DType::f64 ? static_cast<void*>(values_.data()) : narrow_.data(), dtype, shape);
    if (tensor.count() != static_cast<int64_t>(values.size()))
      test::fail(__FILE__, __LINE__, "shape and values of a tensor differ");
  }
  Held(DType dtype, std::initializer_list<int64_t> shape)
      : Held(dtype, shape, Values(Tensor(nullptr, dtype, shape).count(), 0.0)) {}
  Held(const Held&) = delete;

  Values values() const { return tensor.dtype == DType::f64 ? values_ : Values(narrow_.begin(), narrow_.end()); }
  operator Tensor() const { return tensor; }

  Tensor tensor;

 private:
  Values values_;
  std::vector<float> narrow_;
};

double distance(const Values& found, const Values& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), 1e-300);
}

void expect_near(const char* what, const Values& found, const Values& expected, double bound) {
  if (found.size() != expected.size()) return test::fail(__FILE__, __LINE__, std::string(what) + ": sizes differ");
  const double d = distance(found, expected);
  if (!(d <= bound))
    test::fail(__FILE__, __LINE__, std::string(what) + ": off by " + std::to_string(d / bound) + " of the bound");
}

// Every target of this CPU in f32, and f64 once.
void on_every_target(const std::function<void(Gradients&, DType, double bound)>& body) {
  for (const cpu::Target& target : cpu::targets()) {
    if (!target.supported) continue;
    CpuGradients gradients(2, *target.kernels);
    body(gradients, DType::f32, 2e-5);
  }
  CpuGradients gradients(2, cpu::kPortableKernels);
  body(gradients, DType::f64, 1e-10);
}

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

// Central differences of sum(d_out * f(x)) by every entry of x.
Values differences(const Values& x, const Values& d_out, const std::function<Values(const Values&)>& f) {
  Values out, moved = x;
  for (size_t i = 0; i < x.size(); ++i) {
    const double step = 6e-6 * std::max(1.0, std::abs(x[i]));
    double slope = 0;
    for (int sign : {1, -1}) {
      moved[i] = x[i] + sign * step;
      const Values y = f(moved);
      for (size_t j = 0; j < y.size(); ++j) slope += sign * d_out[j] * y[j];
    }
    moved[i] = x[i];
    out.push_back(slope / (2 * step));
  }
  return out;
}

constexpr double kDifferences = 1e-8;

Values random(Random& numbers, int64_t count, float size = 1) {
  const std::vector<float> values = numbers.floats(count, size);
  return Values(values.begin(), values.end());
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

// Shapes that no golden has: products past one piece, one panel, one block of queries; a prefix shared by several spans.
TEST(gradients_of_products_agree_with_f64_on_odd_shapes) {
  Random numbers(7);
  for (const auto& [rows, n, k] :
       {std::array<int64_t, 3>{1, 1, 1}, {3, 33, 1}, {1031, 5, 37}, {65, 67, 530}, {2, 100, 31}}) {
    const Values x = random(numbers, rows * k), w = random(numbers, n * k), dy = random(numbers, rows * n);
    Values dx64, dw64, db64;
    auto run = [&](Gradients& ops, DType type, double bound) {
      Held hx(type, {rows, k}, x), hw(type, {n, k}, w), hy(type, {rows, n}, dy), dx(type, {rows, k}), dw(type, {n, k}),
          db(type, {n});
      ops.linear_input(dx, hy, hw);
      ops.linear_weight(dw, db, hy, hx);
      if (type == DType::f64) {
        dx64 = dx.values(), dw64 = dw.values(), db64 = db.values();
        return;
      }
      expect_near("dx", dx.values(), dx64, bound);
      expect_near("dw", dw.values(), dw64, bound);
      expect_near("db", db.values(), db64, bound);
    };
    CpuGradients oracle(1, cpu::kPortableKernels);
    run(oracle, DType::f64, 0);
    on_every_target([&](Gradients& ops, DType type, double bound) {
      if (type == DType::f32) run(ops, type, bound);
    });
  }
}

TEST(gradients_of_attention_over_a_prefix_are_those_of_differences) {
  Random numbers(11);
  constexpr int64_t heads = 4, kv_heads = 2, d = 6, width = (heads + 2 * kv_heads) * d;
  const std::vector<AttentionSpan> spans{{0, 5}, {5, 3, 0, 5}, {8, 1, 0, 5}, {9, 2}, {11, 2, 9, 2}};
  constexpr int64_t rows = 13;
  auto forward = [&](const Values& qkv) {
    Values out(rows * heads * d);
    for (const AttentionSpan& span : spans) {
      for (int64_t i = 0; i < span.rows; ++i) {
        for (int64_t head = 0; head < heads; ++head) {
          const double* q = qkv.data() + (span.row + i) * width + head * d;
          std::vector<int64_t> seen;
          for (int64_t j = 0; j < span.prefix_rows; ++j) seen.push_back(span.prefix_row + j);
          for (int64_t j = 0; j <= i; ++j) seen.push_back(span.row + j);
          Values weights;
          double total = 0;
          for (int64_t row : seen) {
            double s = 0;
            for (int64_t c = 0; c < d; ++c) s += q[c] * qkv[row * width + (heads + head / 2) * d + c];
            weights.push_back(std::exp(s / std::sqrt(6.0)));
            total += weights.back();
          }
          for (size_t j = 0; j < seen.size(); ++j) {
            for (int64_t c = 0; c < d; ++c) {
              out[((span.row + i) * heads + head) * d + c] +=
                  weights[j] / total * qkv[seen[j] * width + (heads + kv_heads + head / 2) * d + c];
            }
          }
        }
      }
    }
    return out;
  };
  const Values qkv = random(numbers, rows * width), d_out = random(numbers, rows * heads * d);
  const Values expected = differences(qkv, d_out, forward);
  on_every_target([&](Gradients& ops, DType type, double bound) {
    Held in(type, {rows, width}, qkv), from(type, {rows, heads * d}, d_out), to(type, {rows, width});
    ops.attention(to, from, in, heads, kv_heads, d, spans, true);
    expect_near("attention over a prefix", to.values(), expected, std::max(bound, kDifferences));
  });
  // A long family, past one block of queries, against f64.
  const std::vector<AttentionSpan> several{{0, 300}, {300, 140, 0, 300}, {440, 7, 0, 300}};
  const Values much = random(numbers, 447 * width), d_much = random(numbers, 447 * heads * d);
  for (bool causal : {true, false}) {
    const std::vector<AttentionSpan>& given = causal ? several : std::vector<AttentionSpan>{{0, 300}, {300, 147}};
    Values oracle_values;
    CpuGradients oracle(1, cpu::kPortableKernels);
    auto run = [&](Gradients& ops, DType type) {
      Held in(type, {447, width}, much), from(type, {447, heads * d}, d_much), to(type, {447, width});
      ops.attention(to, from, in, heads, kv_heads, d, given, causal);
      return to.values();
    };
    oracle_values = run(oracle, DType::f64);
    on_every_target([&](Gradients& ops, DType type, double bound) {
      expect_near("long attention", run(ops, type), oracle_values, bound);
    });
  }
}

TEST(gradients_of_norm_columns_are_those_of_differences) {
  Random numbers(3);
  constexpr int64_t rows = 5, stride = 9, first = 2, width = 5;
  const Values x = random(numbers, rows * stride), weight = random(numbers, width), d = random(numbers, rows * stride);
  auto forward = [&](const Values& in, const Values& w) {
    Values out = in;
    for (int64_t row = 0; row < rows; ++row) {
      double squares = 0;
      for (int64_t i = 0; i < width; ++i) squares += std::pow(in[row * stride + first + i], 2);
      for (int64_t i = 0; i < width; ++i) out[row * stride + first + i] *= w[i] / std::sqrt(squares / width + 1e-3);
    }
    return out;
  };
  const Values dx = differences(x, d, [&](const Values& in) { return forward(in, weight); });
  const Values dw = differences(weight, d, [&](const Values& w) { return forward(x, w); });
  on_every_target([&](Gradients& ops, DType type, double bound) {
    Held in(type, {rows, stride}, x), w(type, {width}, weight), to(type, {rows, stride}, d), d_weight(type, {width});
    ops.norm_columns(to, d_weight, in, first, width, w, 1e-3);
    expect_near("norm_columns x", to.values(), dx, std::max(bound, kDifferences));
    expect_near("norm_columns weight", d_weight.values(), dw, std::max(bound, kDifferences));
  });
}

TEST(gradients_of_assembled_tiles_are_sums_over_tiles) {
  Random numbers(5);
  const Values dx = random(numbers, 3 * 5 * 7);
  on_every_target([&](Gradients& ops, DType type, double bound) {
    Held from(type, {3, 5, 7}, dx), patches(type, {12, 7}), of_class(type, {7}), positions(type, {5, 7});
    ops.assemble_tiles(patches, of_class, positions, from);
    Values p, c(7), q(35);
    for (int64_t tile = 0; tile < 3; ++tile) {
      for (int64_t i = 0; i < 35; ++i) {
        q[i] += dx[tile * 35 + i];
        if (i < 7)
          c[i] += dx[tile * 35 + i];
        else
          p.push_back(dx[tile * 35 + i]);
      }
    }
    expect_near("patches", patches.values(), p, bound);
    expect_near("class", of_class.values(), c, bound);
    expect_near("positions", positions.values(), q, bound);
  });
}

// The same bytes whatever the number of threads.
TEST(gradients_do_not_depend_on_threads) {
  Random numbers(13);
  const Values x = random(numbers, 1031 * 70), dy = random(numbers, 1031 * 33), w = random(numbers, 33 * 70);
  const Values qkv = random(numbers, 300 * 48), d_out = random(numbers, 300 * 24);
  const std::vector<AttentionSpan> spans{{0, 200}, {200, 60, 0, 200}, {260, 40, 0, 200}};
  const cpu::Target& target = cpu::chosen_target();
  std::vector<Values> first;
  for (int threads : {1, 2, 5}) {
    CpuGradients ops(threads, *target.kernels);
    const DType f32 = DType::f32;
    Held hx(f32, {1031, 70}, x), hy(f32, {1031, 33}, dy), hw(f32, {33, 70}, w), dx(f32, {1031, 70}), dw(f32, {33, 70}),
        db(f32, {33});
    Held in(f32, {300, 48}, qkv), from(f32, {300, 24}, d_out), to(f32, {300, 48}), d_norm(f32, {70});
    ops.linear_input(dx, hy, hw);
    ops.linear_weight(dw, db, hy, hx);
    ops.attention(to, from, in, 4, 2, 6, spans, true);
    Held norm_weight(f32, {70}, Values(70, 1.25)), d_x(f32, {1031, 70});
    ops.norm(d_x, d_norm, {}, hx, hx, {norm_weight, {}, 1e-6f, false});
    const std::vector<Values> found{
        dx.values(), dw.values(), db.values(), to.values(), d_x.values(), d_norm.values(), {ops.sum_of_squares(hx)}};
    if (first.empty()) first = found;
    CHECK_EQ(found == first, true);
  }
}

TEST(gradients_refuse_shapes_that_do_not_fit) {
  CpuGradients ops(1, cpu::kPortableKernels);
  const DType f32 = DType::f32;
  Held a(f32, {3, 4}), b(f32, {3, 5}), wide(f32, {3, 24}), out(f32, {3, 12});
  const int32_t id = 3;
  double loss, weight = 1;
  CHECK_ERROR(Code::internal, ops.linear_input(a, b, a));
  CHECK_ERROR(Code::internal, ops.gather(a, &id, 1, Tensor(a).rows(0, 1)));
  CHECK_ERROR(Code::internal, ops.attention(wide, out, wide, 2, 1, 6, {{0, 2}, {1, 2}}, true));
  CHECK_ERROR(Code::internal, ops.attention(wide, out, wide, 2, 1, 6, {{0, 4}}, true));
  CHECK_ERROR(Code::internal, ops.attention(wide, out, wide, 2, 1, 6, {{0, 1}, {1, 1, 0, 2}}, true));
  CHECK_ERROR(Code::internal, ops.cross_entropy(Tensor(a).rows(0, 1), &loss, Tensor(a).rows(0, 1),
                                                std::vector<int32_t>{4}.data(), &weight));
  CHECK_ERROR(Code::internal, ops.gelu(a, a, Tensor(a.tensor.data, DType::bf16, {3, 4})));
}

}  // namespace drivlm
