// Gradients of the CPU's ops at shapes that no golden has: against central differences in f64, in f32 against f64, on every target.

#include "gradient_values.h"

namespace drivlm {

using namespace gradient_values;

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
