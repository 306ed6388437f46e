// norm.cu against f64.
#include <cmath>

#include "kernels/cuda/kernels.h"
#include "testing.h"

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;

namespace {

enum class Mode { alone, in_place, shuffle1, shuffle2 };

void check_norm(int64_t rows, int64_t dim, bool layer, Mode mode, float center = 0) {
  const bool shuffled = mode == Mode::shuffle1 || mode == Mode::shuffle2;
  const int64_t grid = 4, tiles = 2;
  if (shuffled) rows = tiles * grid * grid / 4;
  Halves x(shuffled ? tiles * (1 + grid * grid) * dim / 4 : rows * dim, 2, center), out(rows * dim, 1);
  Floats weight(dim, 0.5f, 1), bias(dim, 1);
  NormJob job{};
  job.x = x.data, job.out = mode == Mode::in_place ? x.data : out.data, job.weight = weight.data;
  if (layer) job.bias = bias.data;
  job.rows = rows, job.dim = dim, job.x_stride = job.out_stride = dim, job.eps = 1e-6f, job.layer = layer;
  if (shuffled) job.grid = grid, job.version = mode == Mode::shuffle1 ? 1 : 2;
  norm(job, nullptr);

  const std::vector<float> before = x.values;
  std::vector<double> exact;
  std::vector<float> plain;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> row(dim);
    for (int64_t c = 0; c < dim; ++c) {
      if (shuffled) {
        const int64_t tile = r / 4, i = r % 4 / 2, j = r % 2, k = c % (dim / 4), dr = c / (dim / 2),
                      dc = c / (dim / 4) % 2;
        const int64_t pr = 2 * (mode == Mode::shuffle1 ? j : i) + dr, pc = 2 * (mode == Mode::shuffle1 ? i : j) + dc;
        row[c] = before[(tile * 17 + 1 + pr * grid + pc) * (dim / 4) + k];
      } else {
        row[c] = before[r * dim + c];
      }
    }
    const auto normalise = [&](auto zero, bool round) {
      using F = decltype(zero);
      const auto bf = [&](F v) { return round ? F(to_bf16(float(v))) : v; };
      F mean = 0, square = 0;
      if (layer) {
        for (float v : row) mean += F(v);
        mean /= F(dim);
      }
      for (float v : row) square += (F(v) - mean) * (F(v) - mean);
      const F inverse = 1 / std::sqrt(square / F(dim) + F(1e-6f));
      std::vector<F> out;
      for (int64_t c = 0; c < dim; ++c) {
        const F n = (F(row[c]) - mean) * inverse;
        out.push_back(bf(layer ? n * F(weight.host[c]) + F(bias.host[c]) : bf(n) * F(weight.host[c])));
      }
      return out;
    };
    for (double v : normalise(double(0), false)) exact.push_back(v);
    for (float v : normalise(float(0), true)) plain.push_back(v);
  }
  (mode == Mode::in_place ? x : out).download();
  const std::vector<float>& got = (mode == Mode::in_place ? x : out).values;
  check_close(
      drivlm::text("%s norm %lldx%lld mode %d", layer ? "layer" : "rms", (long long)rows, (long long)dim, int(mode)),
      got, exact, plain);
}

}  // namespace

TEST(norm_sizes) {
  for (bool layer : {false, true}) {
    for (int64_t dim : {8, 128, 160, 248, 256, 264, 896, 1024, 1032, 4096, 4104, 8192})
      check_norm(3, dim, layer, Mode::alone);
    for (int64_t rows : {1, 4, 5, 1025}) check_norm(rows, 64, layer, Mode::alone);
  }
}
TEST(norm_modes) {
  for (bool layer : {false, true}) {
    for (int64_t dim : {128, 1024, 2048}) check_norm(5, dim, layer, Mode::in_place);
  }
  for (Mode mode : {Mode::shuffle1, Mode::shuffle2}) {
    for (int64_t dim : {256, 512, 4096}) check_norm(0, dim, true, mode);
  }
}
TEST(norm_large_mean) { check_norm(4, 1024, true, Mode::alone, 100); }
TEST(norm_rounded) {  // the bytes of norm, then round_rows
  for (bool layer : {false, true}) {
    for (int64_t dim : {8, 72, 256, 1016, 1024, 1032, 4096, 4104, 8192}) {
      const int64_t rows = 5, stride = round_up(dim, 16);
      Halves x(rows * dim, 2, 0.5f), out(rows * dim, 1);
      Floats weight(dim, 0.5f, 1), bias(dim, 1);
      Buffer<uint8_t> apart(rows * stride), fused(rows * stride);
      Buffer<InputScale> apart_scales(rows), fused_scales(rows);
      std::fill(fused.host.begin(), fused.host.end(), 1);
      fused.upload();
      NormJob job{};
      job.x = x.data, job.out = out.data, job.weight = weight.data;
      if (layer) job.bias = bias.data;
      job.rows = rows, job.dim = dim, job.x_stride = job.out_stride = dim, job.eps = 1e-6f, job.layer = layer;
      norm(job, nullptr);
      round_rows(apart.data, apart_scales.data, out.data, rows, dim, stride, nullptr);
      job.out = nullptr, job.rounded = fused.data, job.scales = fused_scales.data, job.rounded_stride = stride;
      norm(job, nullptr);
      apart.download(), fused.download(), apart_scales.download(), fused_scales.download();
      CHECK(apart.host == fused.host);
      for (int64_t r = 0; r < rows; ++r) {
        CHECK(apart_scales.host[r].scale == fused_scales.host[r].scale);
        CHECK(apart_scales.host[r].zero == fused_scales.host[r].zero);
      }
    }
  }
}
TEST(norm_columns) {  // q of a packed row; the rest stays as it was
  Halves x(6 * 96, 2);
  Floats weight(32, 0.5f, 1);
  NormJob job{};
  job.x = job.out = nullptr;
  bf16* part = x.data + 32;
  job.x = part, job.out = part, job.weight = weight.data, job.rows = 6, job.dim = 32,
  job.x_stride = job.out_stride = 96;
  job.eps = 1e-6f, job.layer = false;
  const std::vector<float> before = x.values;
  norm(job, nullptr);
  x.download();
  for (int r = 0; r < 6; ++r) {
    double square = 0;
    for (int c = 32; c < 64; ++c) square += double(before[r * 96 + c]) * before[r * 96 + c];
    for (int c = 0; c < 96; ++c) {
      const float was = before[r * 96 + c], is = x.values[r * 96 + c];
      if (c < 32 || c >= 64) {
        CHECK(is == was);
      } else {
        const float want = to_bf16(to_bf16(float(was / std::sqrt(square / 32 + 1e-6))) * weight.host[c - 32]);
        CHECK(std::fabs(is - want) <= 0.01f * std::fabs(want) + 1e-6f);
      }
    }
  }
}
TEST(scale_add) {
  for (bool scaled : {false, true}) {
    for (int64_t dim : {8, 64, 1024}) {
      Halves x(37 * dim, 2), y(37 * dim, 2);
      Floats scale(dim, 1);
      const std::vector<float> before = x.values;
      scale_add(x.data, y.data, scaled ? scale.data : nullptr, 37, dim, nullptr);
      x.download();
      std::vector<double> exact;
      std::vector<float> plain;
      for (size_t i = 0; i < before.size(); ++i) {
        const float s = scaled ? scale.host[i % dim] : 1.f;
        exact.push_back(double(before[i]) + double(s) * y.values[i]);
        plain.push_back(to_bf16(before[i] + to_bf16(s * y.values[i])));
      }
      check_close("scale_add", x.values, exact, plain);
    }
  }
}
