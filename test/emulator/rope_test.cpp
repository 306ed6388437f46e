// rope.cu against f64, and its cache in 8 bits against packed/formats.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cuda/kernels.h"
#include "packed/formats.h"
#include "testing.h"

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;
using drivlm::KvFormat;

TEST(rope_append) {
  for (int dim : {16, 32, 64, 96, 128}) {
    for (bool normed : {false, true}) {
      const int heads = 3, kv_heads = 1, rows = 5, all = heads + 2 * kv_heads, pages = 3;
      Halves qkv(size_t(rows) * all * dim, 2);
      Floats cos_sin(size_t(7) * dim, 1), q_norm(dim, 0.5f, 1), k_norm(dim, 0.5f, 1);
      Halves keys(size_t(pages) * kv_heads * kPageTokens * dim, 1), values(keys.host.size(), 1);
      const std::vector<float> before = qkv.values;
      Buffer<int32_t> slots(std::vector<int32_t>{130, 63, 64, 0, 191}), angles(std::vector<int32_t>{3, 6, 0, 3, 4});
      RopeAppend job{};
      job.qkv = qkv.data, job.cos_sin = cos_sin.data, job.slots = slots.data, job.angles = angles.data;
      if (normed) job.q_norm = q_norm.data, job.k_norm = k_norm.data;
      job.eps = 1e-6f, job.keys = keys.data, job.values = values.data;
      job.rows = rows, job.heads = heads, job.kv_heads = kv_heads, job.head_dim = dim;
      rope_append(job, nullptr);
      qkv.download(), keys.download(), values.download();
      std::vector<double> exact;
      std::vector<float> plain, got;
      for (int r = 0; r < rows; ++r) {
        for (int h = 0; h < heads + kv_heads; ++h) {
          const float* x = &before[(r * all + h) * dim];
          const float* weight = h < heads ? q_norm.host.data() : k_norm.host.data();
          const auto rotate = [&](auto zero, bool round) {
            using F = decltype(zero);
            const auto bf = [&](F v) { return round ? F(to_bf16(float(v))) : v; };
            std::vector<F> y(x, x + dim), out(dim);
            if (normed) {
              F sum = 0;
              for (F v : y) sum += v * v;
              const F inverse = 1 / std::sqrt(sum / dim + F(1e-6f));
              for (int i = 0; i < dim; ++i) y[i] = bf(bf(y[i] * inverse) * F(weight[i]));
            }
            for (int i = 0; i < dim / 2; ++i) {
              const float* angle = &cos_sin.host[angles.host[r] * dim];
              const F c = angle[i], s = angle[dim / 2 + i];
              out[i] = bf(y[i] * c - y[i + dim / 2] * s);
              out[i + dim / 2] = bf(y[i + dim / 2] * c + y[i] * s);
            }
            return out;
          };
          for (double v : rotate(double(0), false)) exact.push_back(v);
          for (float v : rotate(float(0), true)) plain.push_back(v);
          const float* from = h < heads ? &qkv.values[(r * all + h) * dim]
                                        : &keys.values[(slots.host[r] / 64 * kPageTokens + slots.host[r] % 64) * dim];
          got.insert(got.end(), from, from + dim);
        }
        for (int i = 0; i < dim; ++i) {
          CHECK(values.values[size_t(slots.host[r]) * dim + i] == before[(r * all + heads + kv_heads) * dim + i]);
        }
      }
      check_close(drivlm::text("rope head_dim %d%s", dim, normed ? " with norms" : ""), got, exact, plain);
    }
  }
}

TEST(
    rope_append_int8) {  // the bytes and scales that quantize_s8 makes of what a cache in bf16 gets, keys and queries spread
  const int heads = 1, kv_heads = 2, rows = 3, all = heads + 2 * kv_heads, pages = 2;
  for (int dim : {16, 32, 64, 96, 128}) {
    Halves qkv(size_t(rows) * all * dim, 2);
    std::fill_n(qkv.host.begin() + (all + heads) * dim, dim, __float2bfloat16(0));  // a key of zeros
    const std::vector<bf16> before = qkv.host;
    Floats cos_sin(size_t(rows) * dim, 1), k_norm(dim, 0.5f, 1);
    Buffer<int32_t> slots(std::vector<int32_t>{127, 0, 65}), angles(std::vector<int32_t>{1, 0, 2});
    Halves wide_keys(size_t(pages) * kv_heads * kPageTokens * dim, 1), wide_values(wide_keys.host.size(), 1);
    const size_t block = size_t(kv_block_bytes(dim, KvFormat::int8));
    Buffer<char> keys(pages * kv_heads * block), values(keys.host.size());
    RopeAppend job{};
    job.qkv = qkv.data, job.cos_sin = cos_sin.data, job.slots = slots.data, job.angles = angles.data;
    job.k_norm = k_norm.data, job.eps = 1e-6f;
    job.rows = rows, job.heads = heads, job.kv_heads = kv_heads, job.head_dim = dim;
    std::vector<float> queries[2];  // of a cache in bf16, in int8
    for (KvFormat format : {KvFormat::activation, KvFormat::int8}) {
      const bool bytes = format == KvFormat::int8;
      qkv.host = before;
      qkv.upload();
      job.format = format;
      job.keys = bytes ? static_cast<void*>(keys.data) : wide_keys.data;
      job.values = bytes ? static_cast<void*>(values.data) : wide_values.data;
      rope_append(job, nullptr);
      cudaDeviceSynchronize();
      qkv.download();
      for (int row = 0; row < rows; ++row) {
        const float* q = &qkv.values[row * all * dim];
        queries[bytes].insert(queries[bytes].end(), q, q + dim);
      }
    }
    for (int row = 0; row < rows; ++row) {  // those of bf16 have been rounded before
      float *found = &queries[1][row * dim], *expected = &queries[0][row * dim], top = 0;
      drivlm::spread_head(expected, dim);
      for (int d = 0; d < dim; ++d) top = std::max(top, std::fabs(expected[d]));
      for (int d = 0; d < dim; ++d) CHECK(std::fabs(found[d] - expected[d]) <= top / 64);
    }
    wide_keys.download(), wide_values.download(), keys.download(), values.download();
    std::vector<int8_t> q(dim);
    for (int32_t slot : slots.host) {
      for (int h = 0; h < kv_heads; ++h) {
        for (bool is_key : {true, false}) {
          const int64_t head = slot / kPageTokens * kv_heads + h, place = slot % kPageTokens;
          const Halves& wide = is_key ? wide_keys : wide_values;
          const char* found = (is_key ? keys : values).host.data() + head * block;
          const float* kept = &wide.values[(head * kPageTokens + place) * dim];
          std::vector<float> x(kept, kept + dim);
          if (is_key) drivlm::spread_head(x.data(), dim);
          const float scale = drivlm::quantize_s8(q.data(), x.data(), dim);
          CHECK(std::memcmp(found + place * dim, q.data(), dim) == 0);
          CHECK(std::memcmp(found + kPageTokens * dim + place * 4, &scale, 4) == 0);
        }
      }
    }
  }
}
