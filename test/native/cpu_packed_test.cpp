// The packed backend's ops, in every target that this CPU has, against the reference ops in f32. The bound for every value:
// twice the largest error of the reference ops in bf16, plus one last-place unit of bf16.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "check.h"
#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/targets.h"

using namespace drivlm;

namespace {

// A device with buffers that take and give f32, whatever it stores.
class Bench {
 public:
  explicit Bench(std::unique_ptr<CpuDevice> device) : device_(std::move(device)) {}
  CpuDevice& device() { return *device_; }
  Ops& ops() { return device_->ops(); }
  bool wide() const { return device_->activation() == DType::f32; }

  Tensor tensor(const std::vector<float>& values, int64_t rows, int64_t cols) {
    Tensor out = empty(device_->activation(), rows, cols);
    for (size_t i = 0; i < values.size(); ++i) {
      if (wide()) {
        out.as<float>()[i] = values[i];
      } else {
        out.as<bf16>()[i] = from_float<bf16>(values[i]);
      }
    }
    return out;
  }
  Tensor empty(DType type, int64_t rows, int64_t cols) {
    memory_.push_back(device_->allocate(std::max<size_t>(rows * cols * dtype_bytes(type), 1), "test"));
    return Tensor(memory_.back()->data, type, {rows, cols});
  }
  Tensor empty(int64_t rows, int64_t cols) { return empty(device_->activation(), rows, cols); }
  Tensor vector(const std::vector<float>& values) {
    return device_->load_vector({"vector", DType::f32, 1, static_cast<int64_t>(values.size()), {{values.data(), 1}}});
  }
  Tensor floats(const std::vector<float>& values, int64_t rows, int64_t cols) {
    Tensor out = empty(DType::f32, rows, cols);
    std::memcpy(out.data, values.data(), values.size() * sizeof(float));
    return out;
  }
  static std::vector<float> read(Tensor tensor) {
    std::vector<float> out(tensor.count());
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = tensor.dtype == DType::f32 ? tensor.as<float>()[i] : to_float(tensor.as<bf16>()[i]);
    return out;
  }

 private:
  std::unique_ptr<CpuDevice> device_;
  std::vector<std::unique_ptr<Memory>> memory_;
};

std::vector<float> noise(int64_t count, float size, uint32_t seed) { return test::Random(seed).narrow(count, size); }

struct Weights {
  std::vector<bf16> values;
  HostTensor host;
};

// In two runs of rows, as a checkpoint may have them.
std::unique_ptr<Weights> weights(int64_t rows, int64_t cols, uint32_t seed) {
  auto w = std::make_unique<Weights>();
  for (float v : noise(rows * cols, 0.4f, seed)) w->values.push_back(from_float<bf16>(v));
  const int64_t cut = rows / 3;
  w->host = {"weights", DType::bf16, rows, cols, {}};
  if (cut > 0) w->host.runs.push_back({w->values.data(), cut});
  w->host.runs.push_back({w->values.data() + cut * cols, rows - cut});
  return w;
}

using Body = std::function<std::vector<float>(Bench&)>;

void compare(const std::string& name, const Body& body) {
  constexpr int kThreads = 2;
  Bench oracle(std::make_unique<CpuDevice>(DType::f32, kThreads)),
      plain(std::make_unique<CpuDevice>(DType::bf16, kThreads));
  const std::vector<float> expected = body(oracle), rounded = body(plain);
  for (const cpu::Target& target : cpu::targets()) {
    if (!target.supported) continue;
    Bench packed(std::make_unique<PackedCpuDevice>(kThreads, *target.kernels));
    test::check_close(name + " on " + target.name, body(packed), {expected.begin(), expected.end()}, rounded);
  }
}

}  // namespace

TEST(cpu_packed_linear) {
  for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1, 5, 3}, {13, 48, 64}, {15, 131, 77}, {1025, 33, 20}}) {
    const auto w = weights(n, k, 1), up = weights(n, k, 2);
    const auto x = noise(rows * k, 1, 3), bias = noise(n, 1, 4), scale = noise(n, 1, 5), before = noise(rows * n, 2, 6);
    compare("linear", [&](Bench& b) {
      const auto matrix = b.device().load_matrix(w->host);
      Tensor out = b.empty(rows, n);
      b.ops().linear(out, b.tensor(x, rows, k), *matrix, b.vector(bias), Epilogue::store);
      return b.read(out);
    });
    compare("linear to f32, no bias", [&](Bench& b) {
      const auto matrix = b.device().load_matrix(w->host);
      Tensor out = b.empty(DType::f32, rows, n);
      b.ops().linear(out, b.tensor(x, rows, k), *matrix, {}, Epilogue::store);
      return b.read(out);
    });
    compare("linear gelu", [&](Bench& b) {
      const auto matrix = b.device().load_matrix(w->host);
      Tensor out = b.empty(rows, n);
      b.ops().linear(out, b.tensor(x, rows, k), *matrix, b.vector(bias), Epilogue::gelu);
      return b.read(out);
    });
    compare("linear_add", [&](Bench& b) {
      const auto matrix = b.device().load_matrix(w->host);
      Tensor out = b.tensor(before, rows, n);
      b.ops().linear_add(out, b.tensor(x, rows, k), *matrix, b.vector(bias), b.vector(scale), b.empty(rows, n));
      return b.read(out);
    });
    compare("linear_gated", [&](Bench& b) {
      const auto matrix = b.device().load_gated(w->host, up->host);
      Tensor out = b.empty(rows, n);
      b.ops().linear_gated(out, b.tensor(x, rows, k), *matrix);
      return b.read(out);
    });
  }
}

TEST(cpu_packed_rows) {
  for (const int64_t dim : {5, 16, 47, 1024}) {
    const int64_t rows = 37;
    const auto x = noise(rows * dim, 3, 1), y = noise(rows * dim, 1, 2), weight = noise(dim, 2, 3),
               bias = noise(dim, 1, 4);
    for (const bool layer : {true, false}) {
      compare(layer ? "layer norm" : "rms norm", [&](Bench& b) {
        Tensor out = b.tensor(x, rows, dim);  // in place
        b.ops().norm(out, out, {b.vector(weight), layer ? b.vector(bias) : Tensor(), 1e-6f, layer});
        return b.read(out);
      });
    }
    compare("scale_add", [&](Bench& b) {
      Tensor out = b.tensor(x, rows, dim);
      b.ops().scale_add(out, b.tensor(y, rows, dim), b.vector(weight));
      b.ops().scale_add(out, b.tensor(y, rows, dim), {});
      return b.read(out);
    });
    compare("norm_columns", [&](Bench& b) {
      Tensor out = b.tensor(noise(rows * (dim + 9), 3, 5), rows, dim + 9);
      b.ops().norm_columns(out, 4, dim, b.vector(weight), 1e-6f);
      return b.read(out);
    });
  }
}

TEST(cpu_packed_attention) {
  for (const int64_t dim : {16, 24, 64, 96}) {  // 24 has no packed form: the plain one serves
    const int64_t heads = 3, positions = 37, tiles = 2;
    const auto qkv = noise(tiles * positions * 3 * heads * dim, 2, 1);
    compare("attention " + std::to_string(dim), [&](Bench& b) {
      Tensor out = b.empty(tiles * positions, heads * dim);
      b.ops().attention(out, b.tensor(qkv, tiles * positions, 3 * heads * dim), heads, dim, positions);
      return b.read(out);
    });
  }
}

// With activations in 8 bits the op takes products of integers where the target has them, and without it does not.
TEST(cpu_packed_attention_integers) {
  const int64_t heads = 2, dim = 32, positions = 45, tiles = 2, rows = tiles * positions;
  const auto qkv = noise(rows * 3 * heads * dim, 2, 1);
  for (const cpu::Target& target : cpu::targets()) {
    if (!target.supported) continue;
    for (const bool integers : {false, true}) {
      Bench b(std::make_unique<PackedCpuDevice>(2, *target.kernels, CpuFormat{WeightFormat::int8, integers}));
      const Tensor in = b.tensor(qkv, rows, 3 * heads * dim), out = b.empty(rows, heads * dim),
                   expected = b.empty(rows, heads * dim);
      b.ops().attention(out, in, heads, dim, positions);
      cpu::PoolWorkers workers(2);
      cpu::attention(*target.kernels, expected.as<uint16_t>(), in.as<uint16_t>(), tiles, positions, heads, dim,
                     integers, workers);
      CHECK(b.read(out) == b.read(expected));
    }
  }
}

// Two passes over a cache of two layers: a prefill of one sequence, its last page copied, then both decode and a third
// starts.
TEST(cpu_packed_cache) {
  for (const auto& [heads, kv_heads, dim, int8] : {std::array<int64_t, 4>{14, 2, 64, 0},
                                                   {4, 4, 96, 0},
                                                   {4, 2, 128, 0},
                                                   {6, 3, 40, 0},
                                                   {2, 1, 80, 0},
                                                   {14, 2, 64, 1},
                                                   {3, 1, 80, 1},
                                                   {2, 1, 16, 1},
                                                   {2, 2, 48, 1},
                                                   {2, 1, 96, 1},
                                                   {2, 1, 112, 1},
                                                   {4, 2, 128, 1}}) {
    for (const bool norms : {false, true}) {
      const KvShape shape{2, kv_heads, dim, 64, 5, int8 ? KvFormat::int8 : KvFormat::activation};
      const int64_t width = (heads + 2 * kv_heads) * dim, first_rows = 70;
      Batch first, second;
      first.segments = {{0, first_rows, 0, 0, 5}};
      first.pages = {3, 1};
      first.rows = first_rows;
      second.segments = {{0, 1, first_rows, 0, first_rows}, {1, 2, first_rows, 2, 73}, {3, 9, 0, 4, 0}};
      second.pages = {3, 1, 3, 4, 0};
      second.rows = 12;
      const auto weight = noise(dim, 1, 9);
      const std::string name = "cache " + std::to_string(dim) + (int8 ? " in int8" : "") + (norms ? " with norms" : "");
      const auto run = [&](Bench& b, bool cache) {
        Tensor memory = b.empty(DType::u8, static_cast<int64_t>(b.device().kv_bytes(shape)), 1);
        std::memset(memory.data, 0xff, memory.bytes());  // a NaN wherever nothing was written
        const Kv kv{memory.data, shape};
        Tensor norm = norms ? b.vector(weight) : Tensor();
        std::vector<float> all;
        for (const Batch* batch : {&first, &second}) {
          b.ops().begin_batch(*batch);
          for (int64_t layer = 0; layer < shape.layers; ++layer) {
            const uint32_t seed = static_cast<uint32_t>(batch->rows * 10 + layer);
            std::vector<float> angles;
            for (int64_t row = 0; row < first_rows + 5; ++row) {
              for (int64_t i = 0; i < dim; ++i) {
                const float angle = static_cast<float>(row + 3) * 0.37f / static_cast<float>(1 + i % (dim / 2));
                angles.push_back(i < dim / 2 ? std::cos(angle) : std::sin(angle));
              }
            }
            Tensor qkv = b.tensor(noise(batch->rows * width, 2, seed), batch->rows, width),
                   out = b.empty(batch->rows, heads * dim);
            b.ops().rope_append(qkv, norm, norm, 1e-6f, b.floats(angles, first_rows + 5, dim), kv, layer, heads,
                                *batch);
            b.ops().attention_cached(out, qkv, kv, layer, heads, *batch);
            const auto values = b.read(out);
            if (!cache) all.insert(all.end(), values.begin(), values.end());
          }
          if (batch == &first) b.ops().copy_page(kv, 1, 4);
        }
        for (int64_t layer = 0; cache && layer < shape.layers; ++layer) {
          const int64_t tokens = first_rows + 2;
          std::vector<float> keys(kv_heads * tokens * dim), values(keys.size());
          b.ops().read_kv(keys.data(), values.data(), kv, layer, second.pages.data() + 2, tokens);
          all.insert(all.end(), keys.begin(), keys.end());
          all.insert(all.end(), values.begin(), values.end());
        }
        return all;
      };
      compare(name + ", attention", [&](Bench& b) { return run(b, false); });
      compare(name + ", contents", [&](Bench& b) { return run(b, true); });
    }
  }
}

// Keys as Qwen2's biases make them: the same two dimensions stand out in every token, before they are turned by their positions. In a cache in 8 bits, with a
// scale a key, they must not take all bits from the others, which decide where a query looks: spread over all dimensions they do not. In prefill, in steps,
// and in a question after a copied page.
TEST(cpu_packed_cache_in_int8_keeps_what_stands_beside_an_outlier) {
  constexpr int64_t kHeads = 2, kRows = 150;
  for (const int64_t dim : {64, 96, 128}) {
    const int64_t width = (kHeads + 2) * dim;
    Batch prefill, steps;
    prefill.segments = {{0, kRows, 0, 0, 0}};
    prefill.pages = {3, 1, 2};
    prefill.rows = kRows;
    steps.segments = {{0, 1, kRows, 0, kRows}, {1, 12, kRows, 3, kRows}};
    steps.pages = {3, 1, 2, 3, 1, 0};
    steps.rows = 13;
    std::vector<float> angles;
    for (int64_t i = 0; i < (kRows + 12) * dim; ++i) {
      const double angle =
          static_cast<double>(i / dim) * std::pow(1e6, -2.0 * (i % (dim / 2)) / static_cast<double>(dim));
      angles.push_back(static_cast<float>(i % dim < dim / 2 ? std::cos(angle) : std::sin(angle)));
    }
    const auto run = [&](Bench& b, KvFormat format) {
      const KvShape shape{1, 1, dim, 64, 4, format};
      Tensor memory = b.empty(DType::u8, static_cast<int64_t>(b.device().kv_bytes(shape)), 1);
      std::memset(memory.data, 0xff, memory.bytes());
      const Kv kv{memory.data, shape};
      std::vector<float> all;
      for (const Batch* batch : {&prefill, &steps}) {
        auto in = noise(batch->rows * width, 2, static_cast<uint32_t>(batch->rows));
        for (int64_t row = 0; row < batch->rows; ++row) {
          for (const auto& [d, size] : {std::pair<int64_t, float>{5, 100}, {dim / 2 + 8, -60}}) {
            float* at = in.data() + row * width + d;
            at[0] *= 0.1f, at[dim] *= 0.1f, at[kHeads * dim] += size;
          }
        }
        const Tensor qkv = b.tensor(in, batch->rows, width), out = b.empty(batch->rows, kHeads * dim);
        b.ops().begin_batch(*batch);
        b.ops().rope_append(qkv, {}, {}, 0, b.floats(angles, kRows + 12, dim), kv, 0, kHeads, *batch);
        b.ops().attention_cached(out, qkv, kv, 0, kHeads, *batch);
        const auto values = b.read(out);
        all.insert(all.end(), values.begin(), values.end());
        if (batch == &prefill) b.ops().copy_page(kv, 2, 0);
      }
      return all;
    };
    Bench oracle(std::make_unique<CpuDevice>(DType::f32, 1));
    const auto expected = run(oracle, KvFormat::activation);
    const auto check = [&](const std::string& name, const std::vector<float>& found) {
      double missed = 0, all = 0;
      for (size_t i = 0; i < found.size(); ++i) {
        const double difference = found[i] - expected[i];
        missed += difference * difference;
        all += expected[i] * expected[i];
      }
      const double share = std::sqrt(missed / all);
      if (!(share < 0.09)) {  // 0.03 to 0.06, without a transform 0.14
        test::fail(__FILE__, __LINE__,
                   name + ", head_dim " + std::to_string(dim) + ": off by " + std::to_string(100 * share) +
                       " % of the values' rms");
      }
    };
    check("plain", run(oracle, KvFormat::int8));
    for (const cpu::Target& target : cpu::targets()) {
      if (!target.supported) continue;
      for (const bool integers : {false, true}) {
        Bench b(std::make_unique<PackedCpuDevice>(2, *target.kernels, CpuFormat{WeightFormat::int8, integers}));
        check(std::string(target.name) + (integers ? ", integers" : ""), run(b, KvFormat::int8));
      }
    }
  }
}

TEST(cpu_packed_stored_types) {
  const int64_t rows = 3, n = 40, k = 21;
  const auto values = noise(n * k, 1, 1), x = noise(rows * k, 1, 2);
  std::vector<uint16_t> halves;
  for (float v : values) {  // small powers of two times a few bits: exact in f16 as well
    const float coarse = std::ldexp(std::round(v * 64), -6);
    const uint32_t bits = std::bit_cast<uint32_t>(coarse);
    halves.push_back(coarse == 0 ? 0
                                 : static_cast<uint16_t>((bits >> 16 & 0x8000) | (((bits >> 23 & 0xff) - 112) << 10) |
                                                         (bits >> 13 & 0x3ff)));
  }
  const HostTensor f32{"f32", DType::f32, n, k, {{values.data(), n}}},
      f16{"f16", DType::f16, n, k, {{halves.data(), n}}};
  for (const HostTensor& stored : {f32, f16}) {
    compare("stored as " + stored.name, [&](Bench& b) {
      const auto matrix = b.device().load_matrix(stored);
      Tensor out = b.empty(rows, n);
      b.ops().linear(out, b.tensor(x, rows, k), *matrix, {}, Epilogue::store);
      return b.read(out);
    });
  }
}

// Quantised matrices by use: what each is kept as, and that a product of many rows and one of few agree with the
// values it stands for.
TEST(cpu_packed_formats) {
  const int64_t n = 80, k = 96;
  const auto w = weights(n, k, 1), up = weights(n, k, 2);
  const struct {
    WeightFormat weights;
    Use use;
    cpu::WeightKind kind;
  } expected[] = {{WeightFormat::bf16, Use::decoder, cpu::WeightKind::bf16},
                  {WeightFormat::int8, Use::patches, cpu::WeightKind::bf16},
                  {WeightFormat::int8, Use::tower, cpu::WeightKind::s8},
                  {WeightFormat::int8, Use::decoder, cpu::WeightKind::s8},
                  {WeightFormat::int4, Use::decoder, cpu::WeightKind::s4},
                  {WeightFormat::int4, Use::tower, cpu::WeightKind::s8},
                  {WeightFormat::int4, Use::head, cpu::WeightKind::s8}};
  for (const auto& e : expected) {
    for (const bool int8_activations : {false, true}) {
      Bench oracle(std::make_unique<CpuDevice>(DType::f32, 1));
      Bench packed(
          std::make_unique<PackedCpuDevice>(2, *cpu::chosen_target().kernels, CpuFormat{e.weights, int8_activations}));
      w->host.use = up->host.use = e.use;
      const auto plain = oracle.device().load_matrix(w->host),
                 plain_gated = oracle.device().load_gated(w->host, up->host);
      const auto matrix = packed.device().load_matrix(w->host), gated = packed.device().load_gated(w->host, up->host);
      CHECK(dynamic_cast<const PackedMatrix&>(*matrix).kind == e.kind);
      CHECK(dynamic_cast<const PackedMatrix&>(*gated).kind == e.kind);
      CHECK(!packed.device().keeps_mapping(*matrix));
      CHECK_EQ(packed.device().matrix_bytes(n, k, e.use, DType::bf16), PackedMatrix::bytes(e.kind, n, k));
      for (const int64_t rows : {2, 40}) {
        const auto x = noise(rows * k, 1, 3);
        const auto product = [&](Bench& b, const Matrix& m, bool of_gated) {
          Tensor out = b.empty(DType::f32, rows, n);
          of_gated ? b.ops().linear_gated(out, b.tensor(x, rows, k), m)
                   : b.ops().linear(out, b.tensor(x, rows, k), m, {}, Epilogue::store);
          return b.read(out);
        };
        for (const bool of_gated : {false, true}) {
          const auto exact = product(oracle, of_gated ? *plain_gated : *plain, of_gated);
          const auto found = product(packed, of_gated ? *gated : *matrix, of_gated);
          double error = 0, size = 0;
          for (size_t i = 0; i < exact.size(); ++i) {
            error += (found[i] - exact[i]) * (found[i] - exact[i]);
            size += exact[i] * exact[i];
          }
          // Uniform weights and inputs: a step of 2 / 255 has an rms of 0.4 % of the values', a step of 2 / 15 one of 7
          // %; a gated product has two.
          const double allowed = e.kind == cpu::WeightKind::s4 ? 0.16 : e.kind == cpu::WeightKind::s8 ? 0.02 : 0.004;
          CHECK(std::sqrt(error / size) < allowed);
        }
      }
    }
  }
}
