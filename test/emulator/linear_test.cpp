// linear.cu and matvec.cu against f64.
#include <cmath>
#include <cstring>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/weight_packing.h"
#include "testing.h"
#if defined(DRIVLM_EMULATED)
#include "control.h"
#endif

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;
using drivlm::Encoding;
using drivlm::Epilogue;

namespace {

enum class Kind { store, bias, gelu, add, scale_add, gated, f32 };
const char* kind_name(Kind kind) {
  constexpr const char* names[] = {"store", "bias", "gelu", "add", "scale_add", "gated", "f32"};
  return names[int(kind)];
}

template <class F>
F gelu_of(F x) {
  return F(0.5) * x * (F(1) + std::erf(x / std::sqrt(F(2))));
}
template <class F>
F silu_of(F x) {
  return x / (F(1) + std::exp(-x));
}

// A matrix on the device in one of the formats, and what its kernels make of it.
struct TestWeights {
  TestWeights(int64_t n, int64_t k, Encoding encoding) : layout{encoding, n, k}, bytes(size_t(layout.bytes())) {
    std::vector<int8_t> q(layout.stride());
    std::vector<float> row(k);
    for (int64_t i = 0; i < n; ++i) {
      for (float& w : row) w = uniform(-1, 1) / std::sqrt(float(k));
      if (i % 5 == 4) std::fill(row.begin(), row.end(), 0.f);
      unsigned char* to = bytes.host.data() + i * layout.row_bytes();
      unsigned char* scales = bytes.host.data() + layout.scales_at() + i * layout.row_scale_bytes();
      if (encoding == Encoding::bf16) {
        for (int64_t j = 0; j < layout.stride(); ++j) {
          const bf16 value = __float2bfloat16(j < k ? row[j] : 0.f);
          std::memcpy(to + 2 * j, &value, 2);
          if (j < k) values.push_back(__bfloat162float(value)), scale.push_back(1);
        }
        continue;
      }
      pack_row(layout, to, scales, row.data(), q.data());
      std::vector<drivlm::bf16> groups(drivlm::s4_groups(k));
      std::vector<int8_t> plain(groups.size() * drivlm::kS4Group);
      float of_row = 0;
      if (encoding == Encoding::s8) of_row = drivlm::quantize_s8(plain.data(), row.data(), k);
      if (encoding == Encoding::s4) drivlm::quantize_s4(plain.data(), groups.data(), row.data(), k);
      for (int64_t j = 0; j < k; ++j) {
        values.push_back(plain[j]);
        scale.push_back(encoding == Encoding::s8 ? of_row : drivlm::to_float(groups[j / drivlm::kS4Group]));
      }
    }
    bytes.upload();
  }

  // x * row `i` as a plain program would have it: in F, by the format's rule. Tiles widen 4-bit weights to bf16, matvec multiplies group sums. With
  // `x_scale` x are integers, and their sums are exact.
  template <class F>
  F dot(const float* x, int64_t i, bool widened, const float* x_scale) const {
    const int64_t k = layout.cols;
    const float *v = values.data() + i * k, *s = scale.data() + i * k;
    F sum = 0;
    if (x_scale) {
      int64_t whole = 0;
      for (int64_t j = 0; j < k; ++j) whole += int64_t(x[j]) * int64_t(v[j]);
      return F(whole) * (F(s[0]) * F(*x_scale));
    }
    if (layout.encoding == Encoding::s8) {
      for (int64_t j = 0; j < k; ++j) sum += F(x[j]) * F(v[j]);
      return sum * F(s[0]);
    }
    if (layout.encoding == Encoding::bf16 || std::is_same_v<F, double>) {
      for (int64_t j = 0; j < k; ++j) sum += F(x[j]) * (F(v[j]) * F(s[j]));
      return sum;
    }
    for (int64_t first = 0; first < k; first += drivlm::kS4Group) {
      const int64_t last = std::min(k, first + drivlm::kS4Group);
      F group = 0;
      if (widened) {
        for (int64_t j = first; j < last; ++j) group += F(x[j]) * F(to_bf16(v[j] * s[j]));
        sum += group;
      } else {
        for (int64_t j = first; j < last; ++j) group += F(x[j]) * F(v[j]);
        sum += group * F(s[first]);
      }
    }
    return sum;
  }

  const WeightLayout layout;
  Buffer<unsigned char> bytes;
  std::vector<float> values, scale;  // [n, k]
};

// One element in precision F; rounds where the network does if `plain`.
template <class F>
F element(const std::vector<float>& x, const TestWeights& w, const std::vector<float>& bias,
          const std::vector<float>& scale, const std::vector<float>& before, int64_t m, int64_t i, Kind kind,
          bool widened, const std::vector<float>& x_scales) {
  const bool plain = std::is_same_v<F, float>;
  const int64_t n = w.layout.rows, k = w.layout.cols;
  const auto round = [&](F value) { return plain ? F(to_bf16(float(value))) : value; };
  const float* x_scale = x_scales.empty() ? nullptr : &x_scales[m];
  const auto dot = [&](int64_t row) { return w.dot<F>(x.data() + m * k, row, widened, x_scale); };
  const F b = kind == Kind::store || kind == Kind::gated ? 0 : F(bias[i]);
  switch (kind) {
    case Kind::store:
    case Kind::bias: return round(dot(i) + b);
    case Kind::f32: return dot(i) + b;
    case Kind::gelu: return round(gelu_of(round(dot(i) + b)));
    case Kind::add: return round(F(before[m * n + i]) + round(dot(i) + b));
    case Kind::scale_add: return round(F(before[m * n + i]) + round(round(dot(i) + b) * F(scale[i])));
    case Kind::gated: return round(round(silu_of(round(dot(2 * i)))) * round(dot(2 * i + 1)));
  }
  return 0;
}

// x in 8 bits, by a plain program: values become q - zero, and the scale of each row is returned. `bytes` must be what the device has made.
std::vector<float> round_plainly(std::vector<float>& x, int64_t rows, int64_t k, int64_t stride,
                                 const std::vector<uint8_t>& bytes, const std::vector<InputScale>& found) {
  std::vector<float> scales;
  int64_t wrong = 0;
  for (int64_t m = 0; m < rows; ++m) {
    float* row = x.data() + m * k;
    float least = 0, most = 0;
    for (int64_t j = 0; j < k; ++j) least = std::min(least, row[j]), most = std::max(most, row[j]);
    const float scale = (most - least) / 255.f, inverse = scale > 0 ? 1.f / scale : 0.f;
    const float zero = std::nearbyintf(-least * inverse);
    wrong += found[m].scale != scale || float(found[m].zero) != zero;
    for (int64_t j = 0; j < stride; ++j) {
      constexpr int kPlace[] = {0, 2, 1, 3};
      const float q = j < k ? std::nearbyintf(std::clamp(std::fmaf(row[j], inverse, zero), 0.f, 255.f)) : 0.f;
      wrong += float(bytes[m * stride + j / 4 * 4 + kPlace[j % 4]]) != q;
      if (j < k) row[j] = q - zero;
    }
    scales.push_back(scale);
  }
  if (wrong > 0)
    fail(drivlm::text("%lld x %lld in 8 bits: %lld values differ", (long long)rows, (long long)k, (long long)wrong));
  return scales;
}

// What `job` has left in its out is, bit for bit, what the tile makes of it without parts of k.
void check_same_bits(Linear job, LinearTile tile) {
  const size_t out_n = size_t(job.after == Epilogue::gated ? job.n / 2 : job.n);
  const size_t bytes = size_t(job.rows) * out_n * (job.out_f32 ? sizeof(float) : sizeof(bf16));
  Buffer<unsigned char> whole(bytes);
  std::vector<unsigned char> parts(bytes);
  check(cudaMemcpy(parts.data(), job.out, bytes, cudaMemcpyDeviceToHost), "test");
  job.out = whole.data;
  linear(job, tile, nullptr);
  whole.download();
  CHECK(parts == whole.host);
}

void check_linear(int64_t rows, int64_t n, int64_t k, Kind kind, int tile,  // tile -1: matvec
                  Encoding encoding = Encoding::bf16, bool x_int8 = false, int splits = 0) {
  const int64_t out_n = kind == Kind::gated ? n / 2 : n;
  Halves x(rows * k, 1), out(kind == Kind::f32 ? 1 : rows * out_n, 1);
  const TestWeights w(n, k, encoding);
  Floats bias(n, 1), scale(n, 0.5f), out_f32(kind == Kind::f32 ? rows * n : 1, 0);
  const std::vector<float> before = out.values;

  Linear job{x.data, w.layout.at(w.bytes.data), rows, n, k};
  if (kind != Kind::store && kind != Kind::gated) job.bias = bias.data;
  if (kind == Kind::scale_add) job.scale = scale.data;
  if (kind == Kind::gelu) job.after = Epilogue::gelu;
  if (kind == Kind::add || kind == Kind::scale_add) job.after = Epilogue::add;
  if (kind == Kind::gated) job.after = Epilogue::gated;
  job.out_f32 = kind == Kind::f32;
  job.out = job.out_f32 ? static_cast<void*>(out_f32.data) : out.data;
  Buffer<uint8_t> bytes(x_int8 ? size_t(rows * w.layout.stride()) : 0);
  Buffer<InputScale> input_scales(x_int8 ? size_t(rows) : 0);
  std::vector<float> x_values = x.values, x_scales;
  if (x_int8) {
    round_rows(bytes.data, input_scales.data, x.data, rows, k, w.layout.stride(), nullptr);
    job.x = bytes.data, job.x_scales = input_scales.data;
  }
  Buffer<float> partial(size_t(splits * rows * n));
  if (splits > 0) {
    linear_split(job, splits, partial.data, nullptr);
    if (x_int8 && job.after != Epilogue::add) check_same_bits(job, LinearTile(tile));
  } else {
    tile < 0 ? matvec(job, nullptr) : linear(job, LinearTile(tile), nullptr);
  }
  if (x_int8) {
    bytes.download(), input_scales.download();
    x_scales = round_plainly(x_values, rows, k, w.layout.stride(), bytes.host, input_scales.host);
  }

  std::vector<double> exact(rows * out_n);
  std::vector<float> plain(rows * out_n);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t i = 0; i < out_n; ++i) {
      exact[m * out_n + i] =
          element<double>(x_values, w, bias.host, scale.host, before, m, i, kind, tile >= 0, x_scales);
      plain[m * out_n + i] =
          element<float>(x_values, w, bias.host, scale.host, before, m, i, kind, tile >= 0, x_scales);
    }
  }
  constexpr const char* kEncodings[] = {"", " int8", " int4"};
  const std::string what =
      drivlm::text("%s %lldx%lldx%lld %s%s%s%s", tile < 0 ? "matvec" : linear_tile_name(LinearTile(tile)),
                   (long long)rows, (long long)n, (long long)k, kind_name(kind), kEncodings[int(encoding)],
                   x_int8 ? " int8 activations" : "", splits ? " split" : "");
  if (job.out_f32) {
    out_f32.download();
    check_close(what, out_f32.host, exact, plain, 24);
  } else if (rows > 0) {
    out.download();
    check_close(what, out.values, exact, plain);
  }
}

constexpr Kind kKinds[] = {Kind::store, Kind::bias, Kind::gelu, Kind::add, Kind::scale_add, Kind::gated, Kind::f32};

}  // namespace

TEST(linear_edges) {
  constexpr int kBm[] = {128, 128, 64, 64, 16}, kBn[] = {128, 128, 128, 64, 64};
  for (int tile = 0; tile < 5; ++tile) {
    for (int64_t rows : {1, kBm[tile] - 1, kBm[tile], kBm[tile] + 1}) check_linear(rows, 72, 40, Kind::bias, tile);
    check_linear(kBm[tile] + 3, kBn[tile] + 8, 200, Kind::scale_add, tile);
    check_linear(3, kBn[tile] - 1, 64, Kind::store, tile);
  }
}
TEST(linear_epilogues) {
  for (int tile = 0; tile < 5; ++tile) {
    for (Kind kind : kKinds) {
      check_linear(21, 136, 96, kind, tile);
    }
    for (Kind kind : {Kind::bias, Kind::gelu, Kind::scale_add, Kind::f32}) check_linear(5, 33, 72, kind, tile);
  }
}
TEST(linear_empty) {
  for (int tile = 0; tile < 5; ++tile) check_linear(0, 64, 64, Kind::bias, tile);
}
TEST(linear_groups) {  // more row tiles than a group, and a last group that is smaller
  check_linear(16 * 9 + 5, 200, 32, Kind::bias, int(LinearTile::t16x64));
}
TEST(linear_patch_embedding) {
  check_linear(70, 72, 588, Kind::bias, int(LinearTile::t64x64));
  check_linear(520, 16, 60, Kind::bias, int(LinearTile::t64x64));
}
TEST(linear_tower_rows) { check_linear(1025, 136, 64, Kind::gelu, int(LinearTile::t128x128x4)); }
TEST(linear_conflicts) {
#if defined(DRIVLM_EMULATED)
  for (int tile = 0; tile < 5; ++tile) check_linear(130, 136, 192, Kind::bias, tile);
  cudaDeviceSynchronize();
  CHECK(emu::stats.matrix_products > 0);
  CHECK(emu::stats.ldmatrix_conflicts == 0);
#endif
}
TEST(linear_tile_table) {
  const DeviceLimits orin{16, 163 << 10, 164 << 10}, desktop{128, 99 << 10, 100 << 10}, h100{132, 227 << 10, 228 << 10};
  const auto is = [](int64_t rows, int64_t n, const DeviceLimits& limits, LinearTile tile) {
    const LinearTile chosen = choose_linear_tile(rows, n, limits);
    if (chosen != tile) {
      fail(drivlm::text("%lld x %lld on %d SMs: %s, expected %s", (long long)rows, (long long)n, limits.multiprocessors,
                        linear_tile_name(chosen), linear_tile_name(tile)));
    }
  };
  is(13325, 4096, orin, LinearTile::t128x128x4);
  is(13325, 1024, h100, LinearTile::t128x128x4);
  is(13325, 4096, desktop, LinearTile::t128x128x3);  // four stages would leave one block on an SM
  is(1025, 1024, h100, LinearTile::t64x64);          // starved: small tiles
  is(10, 896, orin, LinearTile::t16x64);
}
TEST(matvec_rows) {
  for (int64_t rows : {1, 2, 7, 8}) check_linear(rows, 40, 96, Kind::bias, -1);
}
TEST(matvec_epilogues) {
  for (Kind kind : kKinds) {
    check_linear(3, 72, 200, kind, -1);
    check_linear(8, 50, 1032, kind, -1);  // eight warps share k
  }
  check_linear(2, 609, 64, Kind::f32, -1);
}
TEST(matvec_long_k) { check_linear(1, 24, 4864, Kind::add, -1); }
TEST(matvec_empty) { check_linear(0, 64, 64, Kind::bias, -1); }
TEST(matvec_quantised) {
  for (Encoding encoding : {Encoding::s8, Encoding::s4}) {
    for (int64_t rows : {1, 2, 7, 8}) check_linear(rows, 40, 96, Kind::bias, -1, encoding);
    for (Kind kind : kKinds) {
      check_linear(3, 72, 200, kind, -1, encoding);   // a last group of 8 weights
      check_linear(8, 50, 1032, kind, -1, encoding);  // eight warps share k
    }
    for (int64_t k : {8, 16, 24, 32, 64, 128, 136}) check_linear(2, 24, k, Kind::store, -1, encoding);
    check_linear(1, 24, 4864, Kind::add, -1, encoding);
    check_linear(0, 64, 64, Kind::bias, -1, encoding);
  }
}
TEST(linear_quantised) {
  constexpr LinearTile kTiles[] = {LinearTile::t64x128, LinearTile::t64x64, LinearTile::t16x64};
  constexpr int kBm[] = {64, 64, 16}, kBn[] = {128, 64, 64};
  for (Encoding encoding : {Encoding::s8, Encoding::s4}) {
    for (int i = 0; i < 3; ++i) {
      for (int64_t rows : {1, kBm[i], kBm[i] + 1}) check_linear(rows, 72, 40, Kind::bias, int(kTiles[i]), encoding);
      check_linear(kBm[i] + 3, kBn[i] + 8, 328, Kind::scale_add, int(kTiles[i]), encoding);
      check_linear(3, kBn[i] - 1, 64, Kind::store, int(kTiles[i]), encoding);
      check_linear(0, 64, 64, Kind::bias, int(kTiles[i]), encoding);
    }
    for (Kind kind : kKinds) check_linear(21, 136, 96, kind, int(LinearTile::t64x64), encoding);
  }
}
TEST(linear_int8) {  // x and weights in 8 bits
  constexpr int kBm[] = {128, 128, 64, 64, 16}, kBn[] = {128, 128, 128, 64, 64};
  const auto check = [](int64_t rows, int64_t n, int64_t k, Kind kind, int tile) {
    check_linear(rows, n, k, kind, tile, Encoding::s8, true);
  };
  for (int tile = 0; tile < 5; ++tile) {
    for (int64_t rows : {1, kBm[tile], kBm[tile] + 1}) check(rows, 72, 40, Kind::bias, tile);
    check(kBm[tile] + 3, kBn[tile] + 8, 328, Kind::scale_add, tile);
    check(3, kBn[tile] - 1, 64, Kind::store, tile);
  }
  check(0, 64, 64, Kind::bias, int(LinearTile::t64x64));
  check(9, 40, 1032, Kind::bias, int(LinearTile::t16x64));  // four warps round a row
  for (Kind kind : kKinds) check(21, 136, 96, kind, int(LinearTile::t64x64));
}
TEST(linear_int8_conflicts) {
#if defined(DRIVLM_EMULATED)
  for (int tile = 0; tile < 5; ++tile) check_linear(130, 136, 192, Kind::bias, tile, Encoding::s8, true);
  cudaDeviceSynchronize();
  CHECK(emu::stats.matrix_products > 0 && emu::stats.ldmatrix_conflicts == 0);
#endif
}
TEST(linear_split) {  // parts of k, of unequal length, more of them than there are steps
  for (Encoding encoding : {Encoding::bf16, Encoding::s8, Encoding::s4}) {
    const auto check = [&](int64_t rows, int64_t n, int64_t k, Kind kind, int splits) {
      check_linear(rows, n, k, kind, int(LinearTile::t64x64), encoding, false, splits);
    };
    check(9, 40, 328, Kind::bias, 2);
    check(16, 65, 520, Kind::scale_add, 3);
    check(33, 72, 392, Kind::store, 4);
    check(64, 24, 72, Kind::add, 5);
    for (Kind kind : kKinds) check(17, 66, 264, kind, 2);
  }
  check_linear(0, 64, 64, Kind::bias, int(LinearTile::t64x64), Encoding::bf16, false, 2);
}
TEST(linear_split_int8) {  // sums are integers until they are whole
  const auto check = [](int64_t rows, int64_t n, int64_t k, Kind kind, int splits) {
    check_linear(rows, n, k, kind, int(rows <= 16 ? LinearTile::t16x64 : LinearTile::t64x64), Encoding::s8, true,
                 splits);
  };
  check(9, 40, 328, Kind::bias, 2);
  check(16, 65, 520, Kind::scale_add, 3);
  check(33, 72, 392, Kind::store, 4);
  check(64, 24, 72, Kind::add, 5);  // more parts than steps
  check(0, 64, 64, Kind::bias, 2);
  for (Kind kind : kKinds) check(17, 66, 264, kind, 2);
}
TEST(linear_int4_bytes) {  // weights in 4 bits made bytes, as the CPU makes them, and their products
  for (int64_t k : {8, 32, 72, 1032}) {
    const int64_t n = 21, rows = 17;
    const TestWeights w(n, k, Encoding::s4);
    const int64_t stride = w.layout.stride();
    Buffer<uint8_t> bytes(n * stride), rounded(rows * stride);
    Buffer<RowScale> scales(n);
    Buffer<InputScale> x_scales(rows);
    bytes_of_s4(bytes.data, scales.data, w.layout.at(w.bytes.data), n, nullptr);
    Halves x(rows * k, 1);
    Floats out(rows * n, 0);
    round_rows(rounded.data, x_scales.data, x.data, rows, k, stride, nullptr);
    Linear job{rounded.data, {bytes.data, stride, Encoding::s8, scales.data}, rows, n, k};
    job.x_scales = x_scales.data, job.out = out.data, job.out_f32 = true;
    linear(job, LinearTile::t16x64, nullptr);
    bytes.download(), scales.download(), rounded.download(), x_scales.download(), out.download();

    std::vector<float> x_values = x.values;
    const std::vector<float> x_scale = round_plainly(x_values, rows, k, stride, rounded.host, x_scales.host);
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float *v = w.values.data() + i * k, *s = w.scale.data() + i * k;
      float top = 0;
      for (int64_t j = 0; j < k; ++j) top = std::max(top, std::fabs(s[j]));
      const float inverse = top > 0 ? (127.f / 8) / top : 0.f;
      std::vector<int64_t> sums(rows, 0);
      int32_t total = 0;
      for (int64_t j = 0; j < stride; ++j) {
        constexpr int kPlace[] = {0, 2, 1, 3};
        const int8_t found = int8_t(bytes.host[i * stride + j / 4 * 4 + kPlace[j % 4]]);
        const float want = j < k ? std::fmaf(v[j], s[j] * inverse, 12582912.f) - 12582912.f : 0.f;
        wrong += float(found) != want;
        total += found;
        for (int64_t m = 0; j < k && m < rows; ++m) sums[m] += int64_t(x_values[m * k + j]) * found;
      }
      wrong += scales.host[i].scale != top * (8.f / 127) || scales.host[i].sum != total;
      for (int64_t m = 0; m < rows; ++m)
        wrong += out.host[m * n + i] != float(sums[m]) * (scales.host[i].scale * x_scale[m]);
    }
    if (wrong > 0) fail(drivlm::text("4 bits as bytes, k %lld: %lld values differ", (long long)k, (long long)wrong));
  }
}
TEST(linear_splits_table) {
  const DeviceLimits orin{16, 163 << 10, 164 << 10}, h100{132, 227 << 10, 228 << 10};
  CHECK(choose_linear_splits(9, 896, 4864, orin) == 2 && choose_linear_splits(64, 896, 4864, h100) == 18);
  CHECK(choose_linear_splits(64, 896, 896, h100) == 3);     // at least 256 values of k in a part
  CHECK(choose_linear_splits(64, 9728, 896, orin) == 1);    // tiles enough
  CHECK(choose_linear_splits(65, 896, 4864, h100) == 1);    // rows enough
  CHECK(choose_linear_splits(64, 6400, 65536, h100) == 2);  // 100 tiles for 132 multiprocessors
}
