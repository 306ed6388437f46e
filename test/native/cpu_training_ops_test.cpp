// The forward pass of training against the plain ops, in f32, on every target and for any number of threads.

#include "cpu_kernels_testing.h"
#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/training_ops.h"

namespace drivlm {

namespace cpu {
extern const KernelTable kEmulatedPairs;  // emulated_pairs.cpp
}

namespace {

using cpu::Random;

constexpr double kBound = 1e-5;  // largest difference to largest value: both are f32 sums of other order

struct Values {
  Values(Random& random, int64_t rows, int64_t cols, float size) : held(random.floats(rows * cols, size)) {
    tensor = Tensor(held.data(), DType::f32, {rows, cols});
  }
  Values(int64_t rows, int64_t cols) : held(rows * cols, NAN) {
    tensor = Tensor(held.data(), DType::f32, {rows, cols});
  }
  Values(const Values&) = delete;
  operator Tensor() const { return tensor; }
  std::vector<float> held;
  Tensor tensor;
};

void expect_equal(const std::string& what, const std::vector<float>& found, const std::vector<float>& plain) {
  double worst = 0, size = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(found[i]) - plain[i]);
    worst = difference >= worst ? difference : difference < worst ? worst : INFINITY;  // NaN
    size = std::max(size, std::fabs(static_cast<double>(plain[i])));
  }
  if (!(worst <= kBound * size))
    test::fail(__FILE__, __LINE__, what + ": off by " + std::to_string(worst / (kBound * size)) + " of the bound");
}

HostTensor host(const Values& values, int64_t first, int64_t rows) {
  const Tensor part = values.tensor.rows(first, rows);
  return {"w", DType::f32, rows, part.row_size(), {{part.data, rows}}};
}

// body(device under test, plain device, name): every target, on one thread and on three.
template <class Body>
void on_devices(const Body& body) {
  CpuDevice plain(DType::f32, 1);
  cpu::for_each_target([&](const cpu::Target& target) {
    for (const int threads : {1, 3}) {
      TrainingCpuDevice device(threads, *target.kernels);
      body(device, plain, std::string(target.name) + ", " + std::to_string(threads) + " threads");
    }
  });
}

}  // namespace

TEST(training_linear_forms_match_the_plain_ones) {
  on_devices([](Device& device, Device& plain, const std::string& name) {
    for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1, 2, 1}, {7, 46, 13}, {65, 128, 588}, {3, 34, 1031}}) {
      Random random(static_cast<uint32_t>(rows));
      const std::string what = name + ", " + std::to_string(rows) + " rows";
      const Values x(random, rows, k, 1), w(random, n, k, 1), bias(random, 1, n, 1);
      const Tensor bias_of(bias.tensor.data, DType::f32, {n});
      const auto fast = device.load_matrix(host(w, 0, n)), slow = plain.load_matrix(host(w, 0, n));
      for (const Epilogue after : {Epilogue::store, Epilogue::gelu}) {
        const Values found(rows, n), expected(rows, n);
        device.ops().linear(found, x, *fast, bias_of, after);
        plain.ops().linear(expected, x, *slow, bias_of, after);
        expect_equal(what + ", linear", found.held, expected.held);
      }
      {
        const Values found(rows, n), before(rows, n), expected(rows, n), expected_before(rows, n);
        device.ops().linear_gelu(found, before, x, *fast, {});
        plain.ops().linear_gelu(expected, expected_before, x, *slow, {});
        expect_equal(what + ", linear_gelu", found.held, expected.held);
        expect_equal(what + ", before gelu", before.held, expected_before.held);
      }
      const auto joined = device.load_gated(host(w, 0, n / 2), host(w, n / 2, n / 2)),
                 apart = plain.load_gated(host(w, 0, n / 2), host(w, n / 2, n / 2));
      const Values found(rows, n / 2), before(rows, n), expected(rows, n / 2), expected_before(rows, n),
          alone(rows, n / 2);
      device.ops().linear_gated_from(found, before, x, *joined);
      device.ops().linear_gated(alone, x, *joined);
      plain.ops().linear_gated_from(expected, expected_before, x, *apart);
      expect_equal(what + ", linear_gated_from", found.held, expected.held);
      expect_equal(what + ", gate and up", before.held, expected_before.held);
      CHECK(found.held == alone.held);
    }
  });
}

TEST(training_wants_gate_and_up_under_each_other) {
  Random random(1);
  const Values w(random, 12, 5, 1);
  TrainingCpuDevice device(1, *cpu::targets().back().kernels);
  CHECK_ERROR(Code::internal, device.load_gated(host(w, 6, 6), host(w, 0, 6)));
  CHECK_ERROR(Code::internal, device.load_matrix({"w", DType::bf16, 1, 5, {{w.held.data(), 1}}}));
}

TEST(training_attention_matches_the_plain_one) {
  on_devices([](Device& device, Device& plain, const std::string& name) {
    for (const auto& [tiles, positions, heads, dim] :
         {std::array<int64_t, 4>{1, 1, 1, 8}, {2, 17, 3, 16}, {1, 300, 2, 40}}) {
      Random random(5);
      const Values qkv(random, tiles * positions, 3 * heads * dim, 3), found(tiles * positions, heads * dim),
          expected(tiles * positions, heads * dim);
      device.ops().attention(found, qkv, heads, dim, positions);
      plain.ops().attention(expected, qkv, heads, dim, positions);
      expect_equal(name + ", " + std::to_string(positions) + " positions", found.held, expected.held);
    }
  });
}

// Two continuations behind one prefix, and a sequence of its own; pages of one token, as training has them, and of several.
TEST(training_cached_attention_matches_the_plain_one) {
  on_devices([](Device& device, Device& plain, const std::string& name) {
    for (const int64_t page_tokens : {1, 3}) {
      const int64_t heads = 6, kv_heads = 2, dim = 16, prefix = 3 * 47, own = 150, other = 5;
      Batch batch;
      int64_t pages = 0;
      const auto add = [&](int64_t past, int64_t rows, std::vector<int32_t> shared) {
        batch.segments.push_back({batch.rows, rows, past, static_cast<int64_t>(batch.pages.size()), past});
        for (int64_t t = past; t < past + rows; t += page_tokens) shared.push_back(static_cast<int32_t>(pages++));
        batch.pages.insert(batch.pages.end(), shared.begin(), shared.end());
        batch.rows += rows;
        return shared;
      };
      const std::vector<int32_t> first = add(0, prefix, {});
      add(prefix, own, first);
      add(prefix, other, first);
      add(0, other, {});
      Random random(9);
      const Values qkv(random, batch.rows, (heads + 2 * kv_heads) * dim, 2), angles(random, batch.rows, dim, 1);
      std::vector<std::vector<float>> results;
      for (Device* on : {&device, &plain}) {
        const Values turned(batch.rows, (heads + 2 * kv_heads) * dim), out(batch.rows, heads * dim);
        std::memcpy(turned.tensor.data, qkv.tensor.data, qkv.tensor.bytes());
        const KvShape shape{2, kv_heads, dim, page_tokens, pages};
        std::vector<char> memory(on->kv_bytes(shape));
        const Kv kv{memory.data(), shape};
        on->ops().begin_batch(batch);
        on->ops().rope_append(turned, {}, {}, 1e-6f, angles, kv, 1, heads, batch);
        on->ops().attention_cached(out, turned, kv, 1, heads, batch);
        results.push_back(out.held);
      }
      expect_equal(name + ", pages of " + std::to_string(page_tokens), results[0], results[1]);
    }
  });
}

// The three products with factors in bf16, f32 sums: they are those of rounded factors in f32.
TEST(training_products_in_bf16_are_those_of_rounded_factors) {
  std::vector<const cpu::KernelTable*> tables = {&cpu::kEmulatedPairs};
  cpu::for_each_target([&](const cpu::Target& target) { tables.push_back(target.kernels); });
  for (const cpu::KernelTable* kernels : tables) {
    if (!kernels->bf16_pairs) continue;
    CpuGradients rounding(2, *kernels, DType::bf16), exact(1, cpu::kPortableKernels);
    TrainingCpuDevice device(2, *kernels, DType::bf16), plain(1, cpu::kPortableKernels);
    for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1, 2, 1}, {7, 45, 13}, {67, 130, 1101}, {1100, 33, 34}}) {
      Random random(static_cast<uint32_t>(k));
      Values x(random, rows, k, 1), w(random, n, k, 1), dy(random, rows, n, 1);
      const Values y(rows, n), dx(rows, k), full(rows, n);
      Values dw(random, n, k, 0);
      device.ops().linear(y, x, *device.load_matrix(host(w, 0, n)), {}, Epilogue::store);
      plain.ops().linear(full, x, *plain.load_matrix(host(w, 0, n)), {}, Epilogue::store);
      rounding.linear_input(dx, dy, w);
      rounding.linear_weight(dw, {}, dy, x);
      for (Values* factor : {&x, &w, &dy}) {
        for (float& v : factor->held) v = to_float(from_float<bf16>(v));
      }
      const Values y_of(rows, n), dx_of(rows, k);
      Values dw_of(random, n, k, 0);
      plain.ops().linear(y_of, x, *plain.load_matrix(host(w, 0, n)), {}, Epilogue::store);
      exact.linear_input(dx_of, dy, w);
      exact.linear_weight(dw_of, {}, dy, x);
      const std::string what = "bf16, " + std::to_string(rows) + " rows";
      expect_equal(what + ", x w^T", y.held, y_of.held);
      expect_equal(what + ", dy w", dx.held, dx_of.held);
      expect_equal(what + ", dy^T x", dw.held, dw_of.held);
      if (rows > 1) CHECK(y.held != full.held);
    }
  }
}

}  // namespace drivlm
