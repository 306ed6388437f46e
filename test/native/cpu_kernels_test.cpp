// The fast matrix products of every target that this CPU has, against sums in double. The bound for every value: twice the
// largest error of the plain computation (f32 sums, result rounded to the same type), plus one last-place unit of bf16.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <sstream>
#include <vector>

#include "base/numeric.h"
#include "cpu_kernels_testing.h"
#include "kernels/cpu/gemm.h"
#include "packed/formats.h"
#include "plain_packing.h"

using namespace drivlm;
using namespace drivlm::cpu;

namespace {

std::unique_ptr<Aligned> pack(WeightKind kind, const void* weights, int64_t n, int64_t k) {
  const int64_t row_bytes = k * (kind == WeightKind::f32 ? 4 : kind == WeightKind::s8 ? 1 : 2);
  auto packed = std::make_unique<Aligned>(packed_bytes(kind, n, k));
  for (int64_t panel = 0; panel < panel_count(n); ++panel) {
    const void* rows[kPanelRows];
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const int64_t row = panel * kPanelRows + r;
      rows[r] = row < n ? static_cast<const char*>(weights) + row * row_bytes : nullptr;
    }
    pack_plain(static_cast<char*>(packed->data) + panel * panel_bytes(kind, k), kind, rows, k);
  }
  return packed;
}

double gelu(double v) { return 0.5 * v * std::erfc(-v / std::sqrt(2.0)); }
double silu(double v) { return v / (1 + std::exp(-v)); }

struct GemmCase {
  int64_t m, n, k;
  Epilogue after;
  bool bias, scale, out_f32, x_f32;
};

// gate rows are the even rows of w in blocks of 16: packed row p * 32 + i is gate row p * 16 + i, + 16 the up row.
void run_gemm(const Target& target, WeightKind kind, const GemmCase& c, int threads) {
  std::ostringstream name;
  name << target.name << " " << (kind == WeightKind::f32 ? "f32" : "bf16") << " " << c.m << "x" << c.n << "x" << c.k
       << " after " << static_cast<int>(c.after) << " threads " << threads;
  Random random(static_cast<uint32_t>(c.m * 131 + c.n * 17 + c.k));
  const bool gated = c.after == Epilogue::gated;
  const auto x16 = random.halves(c.m * c.k, 1);
  const auto x32 = random.floats(c.m * c.k, 1);
  const auto w16 = random.halves(c.n * c.k, 0.3f);
  const auto w32 = random.floats(c.n * c.k, 0.3f);
  const auto bias = exact(random.floats(c.n, 1)), scale = exact(random.floats(c.n, 1));
  const int64_t out_columns = gated ? c.n / 2 : c.n, out_stride = out_columns + 3;
  const auto before = random.halves(c.m * out_stride, 2);
  const auto before32 = random.floats(c.m * out_stride, 2);
  const auto x16_exact = exact(x16);
  const auto x32_exact = exact(x32);
  // Widened once: the loops below run under the sanitizers, too. The reference computation on bf16 weights takes x in bf16 too.
  std::vector<float> x(c.m * c.k), x_plain(c.m * c.k), w(c.n * c.k);
  for (int64_t i = 0; i < c.m * c.k; ++i) {
    x[i] = c.x_f32 ? x32[i] : widen(x16[i]);
    x_plain[i] = kind == WeightKind::f32 ? x[i] : to_float(from_float<bf16>(x[i]));
  }
  for (int64_t i = 0; i < c.n * c.k; ++i) w[i] = kind == WeightKind::f32 ? w32[i] : widen(w16[i]);

  const auto packed = pack(kind, kind == WeightKind::f32 ? static_cast<const void*>(w32.data()) : w16.data(), c.n, c.k);
  auto out16 = exact(before);
  auto out32 = exact(before32);
  GemmJob job;
  job.x = c.x_f32 ? static_cast<const void*>(x32_exact.get()) : x16_exact.get();
  job.x_stride = c.k;
  job.x_f32 = c.x_f32;
  job.w = packed->data;
  job.kind = kind;
  job.m = c.m, job.n = c.n, job.k = c.k;
  job.after = c.after;
  job.bias = c.bias ? bias.get() : nullptr;
  job.scale = c.scale ? scale.get() : nullptr;
  job.out = c.out_f32 ? static_cast<void*>(out32.get()) : out16.get();
  job.out_stride = out_stride;
  job.out_f32 = c.out_f32;
  TestWorkers workers(threads);
  gemm(*target.kernels, job, workers);

  std::vector<double> expected;
  std::vector<float> plain, found;
  const auto round = [&](float v) { return c.out_f32 ? v : to_float(from_float<bf16>(v)); };
  for (int64_t r = 0; r < c.m; ++r) {
    for (int64_t j = 0; j < out_stride; ++j) {
      const int64_t at = r * out_stride + j;
      const float value = c.out_f32 ? out32[at] : widen(out16[at]);
      const float old = c.out_f32 ? before32[at] : widen(before[at]);
      if (j >= out_columns) {  // between the rows nothing may change
        if (value != old) return test::fail(__FILE__, __LINE__, name.str() + ": wrote between rows");
        continue;
      }
      const auto product = [&](int64_t column, double& y, float& y32) {
        const float *from = x.data() + r * c.k, *rounded = x_plain.data() + r * c.k, *row = w.data() + column * c.k;
        double exactly = 0;
        float plainly = 0;
        for (int64_t i = 0; i < c.k; ++i) {
          exactly += static_cast<double>(from[i]) * row[i];
          plainly += rounded[i] * row[i];
        }
        y = exactly, y32 = plainly;
      };
      double y;
      float y32;
      if (gated) {
        double up;
        float up32;
        product(j / 16 * 32 + j % 16, y, y32);
        product(j / 16 * 32 + 16 + j % 16, up, up32);
        expected.push_back(silu(y) * up);
        plain.push_back(round(static_cast<float>(silu(y32)) * up32));
      } else {
        product(j, y, y32);
        if (c.bias) y += bias[j], y32 += bias[j];
        if (c.after == Epilogue::gelu) y = gelu(y), y32 = static_cast<float>(gelu(y32));
        if (c.after == Epilogue::add) {
          y = old + (c.scale ? y * scale[j] : y);
          y32 = old + (c.scale ? y32 * scale[j] : y32);
        }
        expected.push_back(y);
        plain.push_back(round(y32));
      }
      found.push_back(value);
    }
  }
  check_close(name.str(), found, expected, plain, c.out_f32 && kind == WeightKind::f32 ? 21 : c.out_f32 ? 14 : 8);
}

}  // namespace

TEST(cpu_gemm_odd_shapes) {
  for_each_target([](const Target& target) {
    for (const WeightKind kind : {WeightKind::bf16, WeightKind::f32}) {
      for (const int64_t m : {1, 2, 3, 5, 8, 13, 14, 15, 16, 17, 29, 32, 33, 131}) {
        run_gemm(target, kind, {m, 67, 45, Epilogue::store, true, false, false, false}, 1);
        run_gemm(target, kind, {m, 33, 1, Epilogue::store, false, false, true, kind == WeightKind::f32}, 2);
      }
      run_gemm(target, kind, {33, 70, 128, Epilogue::store, true, false, false, false},
               1);  // whole steps of every tile
      run_gemm(target, kind, {1025, 37, 19, Epilogue::store, true, false, false, false}, 3);
      run_gemm(target, kind, {7, 1, 130, Epilogue::store, true, false, true, true}, 2);
      run_gemm(target, kind, {300, 34, 2500, Epilogue::store, true, false, false, false}, 2);  // several blocks of rows
      run_gemm(target, kind, {2, 900, 64, Epilogue::store, true, false, false, true}, 3);      // shares of panels
    }
  });
}

// A row gets the same, bit for bit, however many others there are.
TEST(cpu_gemm_beside_others) {
  for_each_target([](const Target& target) {
    // The smallest weights make products that are subnormal.
    struct Case {
      WeightKind kind;
      float scale;
      int64_t k;
      Epilogue after;
    };
    // The larger k are taken in blocks by some heights, and what is only stored goes from the registers by others.
    const Case cases[] = {
        {WeightKind::bf16, 0.3f, 333, Epilogue::gelu},   {WeightKind::bf16, 1e-37f, 333, Epilogue::gelu},
        {WeightKind::f32, 0.3f, 333, Epilogue::gelu},    {WeightKind::bf16, 0.3f, 2301, Epilogue::gelu},
        {WeightKind::bf16, 0.3f, 2301, Epilogue::store}, {WeightKind::f32, 0.3f, 1201, Epilogue::store}};
    for (const auto& [kind, scale, k, after] : cases) {
      const int64_t most = 400, n = 70;
      Random random(7);
      const auto x = exact(random.halves(most * k, 1));
      const auto w16 = random.halves(n * k, scale);
      const auto w32 = random.floats(n * k, scale);
      const auto packed = pack(kind, kind == WeightKind::f32 ? static_cast<const void*>(w32.data()) : w16.data(), n, k);
      const auto product = [&](int64_t first, int64_t m, int threads) {
        std::vector<float> out(m * n);
        GemmJob job;
        job.x = x.get() + first * k;
        job.x_stride = k;
        job.w = packed->data;
        job.kind = kind;
        job.m = m, job.n = n, job.k = k;
        job.after = after;
        job.out = out.data();
        job.out_stride = n;
        job.out_f32 = true;
        TestWorkers workers(threads);
        gemm(*target.kernels, job, workers);
        return out;
      };
      const auto all = product(0, most, 2);
      for (const int64_t m : {1, 2, 3, 4, 5, 8, 13, 15, 16, 17, 32, 33, 60, 100}) {
        const auto some = product(3, m, 1);
        CHECK(std::memcmp(some.data(), all.data() + 3 * n, some.size() * sizeof(float)) == 0);
      }
    }
  });
}

// Threads that are late or gone: others multiply their rows too, each panel once, and values are the same, bit for bit.
TEST(cpu_gemm_helps_with_rows) {
  class InTurn : public Workers {
   public:
    InTurn(int threads, int64_t first) : threads_(threads), first_(first) {}
    int count() const override { return threads_; }
    void run(int64_t tasks, void (*body)(const void*, int64_t), const void* context) override {
      for (int64_t i = 0; i < tasks; ++i) body(context, (first_ + i) % tasks);
    }

   private:
    int threads_;
    int64_t first_;
  };
  for_each_target([](const Target& target) {
    const int64_t m = 420, n = 550, k = 40;
    Random random(11);
    const auto x = exact(random.halves(m * k, 1)), before = exact(random.halves(m * n, 1));
    const auto packed = pack(WeightKind::bf16, random.halves(n * k, 0.3f).data(), n, k);
    const auto product = [&](Workers& workers) {
      std::vector<uint16_t> out(before.get(), before.get() + m * n);
      GemmJob job;
      job.x = x.get();
      job.x_stride = k;
      job.w = packed->data;
      job.m = m, job.n = n, job.k = k;
      job.after = Epilogue::add;  // a panel that is multiplied twice is added twice
      job.out = out.data();
      job.out_stride = n;
      gemm(*target.kernels, job, workers);
      return out;
    };
    InTurn alone(1, 0);
    const auto expected = product(alone);
    for (int64_t first = 0; first < 3; ++first) {
      InTurn one_does_all(3, first);
      CHECK(product(one_does_all) == expected);
      TestWorkers threads(3);
      CHECK(product(threads) == expected);
    }
  });
}

TEST(cpu_gemm_epilogues) {
  for_each_target([](const Target& target) {
    for (const WeightKind kind : {WeightKind::bf16, WeightKind::f32}) {
      for (const bool out_f32 : {false, true}) {
        run_gemm(target, kind, {15, 75, 45, Epilogue::gelu, true, false, out_f32, false}, 1);
        run_gemm(target, kind, {15, 75, 45, Epilogue::gelu, false, false, out_f32, false}, 2);
        run_gemm(target, kind, {15, 75, 45, Epilogue::add, true, true, out_f32, false}, 1);
        run_gemm(target, kind, {15, 75, 45, Epilogue::add, false, false, out_f32, false}, 2);
        run_gemm(target, kind, {15, 96, 45, Epilogue::gated, false, false, out_f32, false}, 1);
        run_gemm(target, kind, {1, 128, 45, Epilogue::gated, false, false, out_f32, false}, 2);
      }
    }
  });
}

namespace {

// A quantised matrix and the values it stands for.
struct Quantized {
  std::unique_ptr<Aligned> packed;
  std::vector<float> scales;  // s8
  std::vector<int32_t> sums;  // s8
  std::vector<float> values;  // [n, k]
};

Quantized quantize(WeightKind kind, const std::vector<float>& w, int64_t n, int64_t k) {
  Quantized out;
  out.values.resize(n * k);
  if (kind == WeightKind::s8) {
    std::vector<int8_t> q(n * k);
    out.scales.assign(panel_count(n) * kPanelRows, 0);
    out.sums.assign(panel_count(n) * kPanelRows, 0);
    for (int64_t r = 0; r < n; ++r) {
      out.scales[r] = quantize_s8(q.data() + r * k, w.data() + r * k, k);
      for (int64_t i = 0; i < k; ++i) {
        out.sums[r] += q[r * k + i];
        out.values[r * k + i] = out.scales[r] * static_cast<float>(q[r * k + i]);
      }
    }
    out.packed = pack(kind, q.data(), n, k);
    return out;
  }
  out.packed = std::make_unique<Aligned>(packed_bytes(kind, n, k));
  for (int64_t panel = 0; panel < panel_count(n); ++panel) {
    char* at = static_cast<char*>(out.packed->data) + panel * panel_bytes(kind, k);
    const float* rows[kPanelRows];
    for (int64_t r = 0; r < kPanelRows; ++r)
      rows[r] = panel * kPanelRows + r < n ? w.data() + (panel * kPanelRows + r) * k : nullptr;
    pack_plain_s4(at, rows, k);
    for (int64_t r = 0; r < kPanelRows && rows[r]; ++r) {  // as the format says
      for (int64_t i = 0; i < k; ++i) {
        const char* group = at + i / kGroupDepth * kGroupBytes;
        uint32_t word;
        uint16_t scale;
        std::memcpy(&word, group + i % kGroupDepth / 8 * kUnitBytes + r * 4, 4);
        std::memcpy(&scale, group + 4 * kUnitBytes + r * 2, 2);
        const int64_t shift = i % 8 / 2 * 4 + i % 2 * 16;
        out.values[(panel * kPanelRows + r) * k + i] =
            widen(scale) * static_cast<float>(static_cast<int>(word >> shift & 15) - 8);
      }
    }
  }
  return out;
}

void run_quantized(const Target& target, WeightKind kind, int64_t m, int64_t n, int64_t k, bool x_f32, int threads) {
  std::ostringstream name;
  name << target.name << (kind == WeightKind::s8 ? " s8 " : " s4 ") << m << "x" << n << "x" << k;
  Random random(static_cast<uint32_t>(m + n + k));
  const Quantized w = quantize(kind, random.floats(n * k, 0.3f), n, k);
  const auto x16 = exact(random.halves(m * k, 1));
  const auto x32 = exact(random.floats(m * k, 1));
  auto out = std::make_unique<uint16_t[]>(m * n);
  GemmJob job;
  job.x = x_f32 ? static_cast<const void*>(x32.get()) : x16.get();
  job.x_stride = k;
  job.x_f32 = x_f32;
  job.w = w.packed->data;
  job.kind = kind;
  job.w_scale = w.scales.data();
  job.w_sum = w.sums.data();
  job.m = m, job.n = n, job.k = k;
  job.out = out.get();
  job.out_stride = n;
  TestWorkers workers(threads);
  gemm(*target.kernels, job, workers);
  std::vector<double> expected;
  std::vector<float> plain, found;
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      double y = 0;
      float y32 = 0;
      for (int64_t i = 0; i < k; ++i) {
        const float v = x_f32 ? x32[r * k + i] : widen(x16[r * k + i]), weight = w.values[c * k + i];
        y += static_cast<double>(v) * weight;
        y32 += to_float(from_float<bf16>(v)) * to_float(from_float<bf16>(weight));
      }
      expected.push_back(y);
      plain.push_back(to_float(from_float<bf16>(y32)));
      found.push_back(widen(out[r * n + c]));
    }
  }
  check_close(name.str(), found, expected, plain);
}

// x in 8 bits: no value further off than half a step a product allows, and the mean square at most twice that of even
// rounding. Weights in 4 bits are rounded once more, to bytes with a scale a row.
void run_int8(const Target& target, WeightKind kind, int64_t m, int64_t n, int64_t k, float shift, int threads) {
  std::ostringstream name;
  name << target.name << (kind == WeightKind::s4 ? " s4" : "") << " int8 " << m << "x" << n << "x" << k;
  Random random(static_cast<uint32_t>(m + n + k));
  const Quantized w = quantize(kind, random.floats(n * k, 0.3f), n, k);
  auto x = random.floats(m * k, 1);
  for (float& v : x) v += shift;
  const auto x_exact = exact(x);
  auto out = std::make_unique<float[]>(m * n);
  GemmJob job;
  job.x = x_exact.get();
  job.x_stride = k;
  job.x_f32 = true;
  job.x_int8 = true;
  job.w = w.packed->data;
  job.kind = kind;
  job.w_scale = w.scales.data();
  job.w_sum = w.sums.data();
  job.m = m, job.n = n, job.k = k;
  job.out = out.get();
  job.out_f32 = true;
  job.out_stride = n;
  TestWorkers workers(threads);
  gemm(*target.kernels, job, workers);
  double square = 0, allowed_square = 0;
  for (int64_t r = 0; r < m; ++r) {
    const auto [low, high] = std::minmax_element(x.begin() + r * k, x.begin() + (r + 1) * k);
    const double step = (std::max(*high, 0.0f) - std::min(*low, 0.0f)) / 255;
    for (int64_t c = 0; c < n; ++c) {
      double y = 0, sum = 0, squares = 0, xs = 0, x_squares = 0, largest = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double weight = w.values[c * k + i];
        y += x[r * k + i] * weight;
        sum += std::fabs(weight);
        squares += weight * weight;
        xs += std::fabs(x[r * k + i]);
        x_squares += static_cast<double>(x[r * k + i]) * x[r * k + i];
        largest = std::max(largest, std::fabs(weight));
      }
      // A row's bytes go to 127 for 8 steps of its coarsest group, whose largest value is 7 steps or more, or 8 of them.
      const double byte = kind == WeightKind::s4 ? largest * (8.0 / 7) / 127 : 0;
      // Half a step, and at the ends of the range another half that the rounded zero point can cost.
      const double error = std::fabs(out[r * n + c] - y), allowed = sum * step + xs * byte + 1e-5 * (std::fabs(y) + 1);
      if (!(error <= allowed)) {
        std::ostringstream message;
        message << name.str() << ": at " << r << ", " << c << " expected " << y << ", found " << out[r * n + c]
                << ", allowed " << allowed;
        return test::fail(__FILE__, __LINE__, message.str());
      }
      square += error * error;
      allowed_square += step * step / 12 * squares + byte * byte / 12 * x_squares + 1e-10;
    }
  }
  if (!(square <= 2 * allowed_square))
    test::fail(__FILE__, __LINE__, name.str() + ": larger errors than rounding explains");
}

}  // namespace

TEST(cpu_gemm_quantized) {
  for_each_target([](const Target& target) {
    for (const WeightKind kind : {WeightKind::s8, WeightKind::s4}) {
      for (const int64_t m : {1, 2, 3, 4, 5, 7, 8, 9, 15, 61}) run_quantized(target, kind, m, 67, 77, false, 2);
      run_quantized(target, kind, 1, 33, 1, false, 1);
      run_quantized(target, kind, 2, 40, 2500, true, 1);  // longer than sums of 16 by 8 bits stay exact
      run_quantized(target, kind, 20, 40, 257, true, 2);
      run_quantized(target, kind, 1, 900, 64, false, 3);
    }
  });
}

TEST(cpu_gemm_int8_activations) {
  for_each_target([](const Target& target) {
    for (const WeightKind kind : {WeightKind::s8, WeightKind::s4}) {
      for (const int64_t m : {9, 13, 14, 15, 131}) run_int8(target, kind, m, 67, 45, 0.3f, 2);
      run_int8(target, kind, 30, 33, 1025, 2.0f, 1);  // all of one sign
      run_int8(target, kind, 30, 33, 4, -2.0f, 1);
      run_int8(target, kind, 300, 40, 2500, 0, 2);
    }
  });
}

TEST(cpu_quantize_extremes) {
  int8_t q[3];
  const float values[3] = {-2, 1, 0}, zeros[3] = {};
  CHECK_EQ(quantize_s8(q, values, 3), 2.0f / 127);
  CHECK_EQ(int(q[0]), -127);
  CHECK_EQ(int(q[1]), 64);
  CHECK_EQ(quantize_s8(q, zeros, 3), 0.0f);
  CHECK_EQ(int(q[0]), 0);
  for_each_target([](const Target& target) {  // the largest sums there can be: every product 127 * 32767, or 7 * 32767
    for (const WeightKind kind : {WeightKind::s8, WeightKind::s4}) {
      const int64_t k = 5000;
      const Quantized w = quantize(kind, std::vector<float>(k, 1.0f), 1, k);
      std::vector<uint16_t> x(k, from_float<bf16>(3.0f).bits);
      float out = 0;
      GemmJob job;
      job.x = x.data();
      job.x_stride = k;
      job.w = w.packed->data;
      job.kind = kind;
      job.w_scale = w.scales.data();
      job.w_sum = w.sums.data();
      job.m = 1, job.n = 1, job.k = k;
      job.out = &out;
      job.out_f32 = true;
      job.out_stride = 1;
      TestWorkers workers(1);
      gemm(*target.kernels, job, workers);
      CHECK(std::fabs(out - 15000) < 15000 * 0x1p-8);
    }
  });
}

// x that 16 bits hold as it is, with signs that add up or alternate, against the largest weights: up to the sum in f32 nothing is lost, and a row
// gets the same bits however many others there are.
TEST(cpu_stream_is_exact) {
  for_each_target([](const Target& target) {
    for (const WeightKind kind : {WeightKind::s8, WeightKind::s4}) {
      for (const int64_t k : {1, 31, 333, 4864}) {
        // Of weights in 8 bits as many as there are, but for AMX, which takes more than a few rows in bf16.
        const int64_t n = 40, most = kind == WeightKind::s4 || target.kernels->matrix_tiles ? kStreamRows : 130;
        Random random(11);
        auto w = random.floats(n * k, 1);
        for (int64_t i = 0; i < n / 2 * k; ++i)
          w[i] = i / k % 3 == 0 ? 1.0f : i / k % 3 == 1 ? -1.0f : i % 2 == 0 ? 1.0f : -1.0f;
        const Quantized quantized = quantize(kind, w, n, k);
        std::vector<float> x(most * k);
        for (int64_t r = 0; r < most; ++r) {
          for (int64_t i = 0; i < k; ++i) {
            const auto any = static_cast<float>(static_cast<int>(random.floats(1, 32639)[0]));
            const float ends[] = {32639, -32639, i % 2 == 0 ? 32639.0f : -32639.0f, i % 2 == 0 ? 128.0f : -32512.0f};
            x[r * k + i] = i == 0 ? 32639 : r < 4 ? ends[r] : any;
          }
        }
        const auto product = [&](int64_t first, int64_t m, int threads) {
          std::vector<float> out(m * n);
          GemmJob job;
          job.x = x.data() + first * k;
          job.x_stride = k;
          job.x_f32 = true;
          job.w = quantized.packed->data;
          job.kind = kind;
          job.w_scale = quantized.scales.data();
          job.w_sum = quantized.sums.data();
          job.m = m, job.n = n, job.k = k;
          job.out = out.data();
          job.out_stride = n;
          job.out_f32 = true;
          TestWorkers workers(threads);
          gemm(*target.kernels, job, workers);
          return out;
        };
        // The sums of s4's groups are added up in f32.
        const double allowed = 0x1p-24 * static_cast<double>(kind == WeightKind::s4 ? 8 + k / kGroupDepth : 16);
        const auto all = product(0, most, 2);
        for (int64_t r = 0; r < most; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            double y = 0, size = 0;
            for (int64_t i = 0; i < k; ++i) {
              const double term = static_cast<double>(x[r * k + i]) * quantized.values[c * k + i];
              y += term;
              size += std::fabs(term);
            }
            CHECK(std::fabs(all[r * n + c] - y) <= size * allowed);
          }
        }
        for (const int64_t m : {1, 2, 3, 5, 9, 15, 32, 127}) {
          if (m > most - 3) break;
          const auto some = product(3, m, 1);
          CHECK(std::memcmp(some.data(), all.data() + 3 * n, some.size() * sizeof(float)) == 0);
        }
      }
    }
  });
}

TEST(cpu_targets) {
  CHECK_EQ(std::string(target_named("portable").name), "portable");
  CHECK(target_named(nullptr).supported);
  CHECK_ERROR(Code::bad_argument, target_named("avx1024"));
  for (const Target& target : targets()) {
    if (!target.supported) CHECK_ERROR(Code::bad_argument, target_named(target.name));
  }
}
