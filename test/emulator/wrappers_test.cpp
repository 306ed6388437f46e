// Each wrapper of an instruction against its definition in the PTX manual.
#include "wrappers_test.h"

#include <cmath>
#include <cstring>

#include "testing.h"

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;

TEST(wrapper_mma) {
  for (bool tile : {false, true}) {
    Halves a(16 * 16, 1), b(16 * 8, 1);  // row-major A [m][k], B [k][n]
    Floats c(16 * 8, 1);
    Buffer<uint32_t> r_a(32 * 4), r_b(32 * 2);
    Buffer<float> r_c(32 * 4), r_d(32 * 4);
    const auto pair = [](bf16 low, bf16 high) {
      uint16_t l, h;
      std::memcpy(&l, &low, 2), std::memcpy(&h, &high, 2);
      return uint32_t(l) | uint32_t(h) << 16;
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        const int m = g + (i & 1) * 8, k = t * 2 + (i >> 1) * 8;
        r_a.host[lane * 4 + i] = pair(a.host[m * 16 + k], a.host[m * 16 + k + 1]);
        r_c.host[lane * 4 + i] = c.host[(g + (i >> 1) * 8) * 8 + t * 2 + (i & 1)];
      }
      for (int i = 0; i < 2; ++i) {
        const int k = t * 2 + i * 8;
        r_b.host[lane * 2 + i] = pair(b.host[k * 8 + g], b.host[(k + 1) * 8 + g]);
      }
    }
    r_a.upload(), r_b.upload(), r_c.upload();
    run_mma(r_a.data, r_b.data, r_c.data, r_d.data, tile);
    r_d.download();
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int m = lane / 4 + (i >> 1) * 8, n = lane % 4 * 2 + (i & 1);
        double sum = c.host[m * 8 + n];
        for (int k = 0; k < 16; ++k) sum += double(a.values[m * 16 + k]) * b.values[k * 8 + n];
        CHECK(std::fabs(r_d.host[lane * 4 + i] - sum) < 1e-5);
      }
    }
  }
}

TEST(wrapper_mma_u8s8) {  // every value of a byte, sums that begin anywhere
  std::vector<uint8_t> a(16 * 32);
  std::vector<int8_t> b(32 * 8);
  Buffer<uint32_t> r_a(32 * 4), r_b(32 * 2);
  Buffer<int32_t> r_c(32 * 4), r_d(32 * 4);
  for (size_t i = 0; i < a.size(); ++i) a[i] = uint8_t(i < 256 ? i : generator()());
  for (size_t i = 0; i < b.size(); ++i) b[i] = int8_t(i * 37);
  for (int32_t& c : r_c.host) c = int32_t(generator()()) / 2;
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      for (int e = 0; e < 4; ++e) {
        r_a.host[lane * 4 + i] |= uint32_t(a[(g + (i & 1) * 8) * 32 + (i >> 1) * 16 + 4 * t + e]) << (8 * e);
        if (i < 2) r_b.host[lane * 2 + i] |= uint32_t(uint8_t(b[(i * 16 + 4 * t + e) * 8 + g])) << (8 * e);
      }
    }
  }
  r_a.upload(), r_b.upload(), r_c.upload();
  run_mma_u8s8(r_a.data, r_b.data, r_c.data, r_d.data);
  r_d.download();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int m = lane / 4 + (i >> 1) * 8, n = lane % 4 * 2 + (i & 1);
      int32_t sum = r_c.host[lane * 4 + i];
      for (int k = 0; k < 32; ++k) sum += int32_t(a[m * 32 + k]) * b[k * 8 + n];
      CHECK(r_d.host[lane * 4 + i] == sum);
    }
  }
}

TEST(wrapper_ldmatrix) {
  for (bool trans : {false, true}) {
    Buffer<uint4> rows(32);
    uint16_t words[32][8];
    for (int r = 0; r < 32; ++r) {
      for (int i = 0; i < 8; ++i) words[r][i] = uint16_t(r * 8 + i);
      std::memcpy(&rows.host[r], words[r], 16);
    }
    rows.upload();
    Buffer<uint32_t> registers(32 * 4);
    run_ldmatrix(rows.data, registers.data, trans);
    registers.download();
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        for (int half = 0; half < 2; ++half) {
          const int i = lane / 4, j = lane % 4 * 2 + half;
          const uint16_t want = trans ? words[m * 8 + j][i] : words[m * 8 + i][j];
          CHECK(uint16_t(registers.host[lane * 4 + m] >> (16 * half)) == want);
        }
      }
    }
  }
}

TEST(wrapper_copy) {
  for (int bytes : {16, 8, 4}) {
    for (int valid : {0, 1, 63, 64}) {
      Buffer<uint4> in(64), out(64);
      for (int i = 0; i < 64; ++i) in.host[i] = make_uint4(i, i + 100, i + 200, i + 300);
      in.upload();
      run_copy(in.data, out.data, valid, bytes);
      out.download();
      for (int i = 0; i < 64; ++i) {
        const uint4 got = out.host[63 - i];
        const bool zero = i >= valid;
        CHECK(got.x == (zero ? 0u : i) && got.y == (zero ? 0u : i + 100u));
        CHECK(got.z == (zero ? 0u : i + 200u) && got.w == (zero ? 0u : i + 300u));
      }
    }
  }
}

TEST(wrapper_streaming) {
  Buffer<uint4> in(64), out(64);
  for (unsigned i = 0; i < 64; ++i) in.host[i] = make_uint4(i, i + 100, i + 200, i + 300);
  in.upload();
  run_streaming(in.data, out.data);
  out.download();
  for (unsigned i = 0; i < 64; ++i) {
    CHECK(out.host[i].x == i && out.host[i].y == i + 100 && out.host[i].z == i + 200 && out.host[i].w == i + 300);
  }
}
TEST(wrapper_shuffles) {
  Buffer<int> in(32), out(6 * 32);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) {
    in.host[i] = i * i % 37;
    votes |= unsigned(in.host[i] & 1) << i;
  }
  in.upload();
  run_shuffles(in.data, out.data);
  out.download();
  for (int i = 0; i < 32; ++i) {
    CHECK(out.host[i] == in.host[5]);
    CHECK(out.host[32 + i] == in.host[i ^ 3]);
    CHECK(out.host[64 + i] == in.host[i + 2 < 32 ? i + 2 : i]);
    CHECK(out.host[96 + i] == in.host[i >= 1 ? i - 1 : i]);
    CHECK(unsigned(out.host[128 + i]) == votes);
    CHECK(out.host[160 + i] == in.host[31 - i]);
  }
}

TEST(wrapper_activations) {
  std::vector<float> points;
  for (float x = -20; x <= 20; x += 0.0625f) points.push_back(x);
  const int n = int(points.size());
  Buffer<float> in(points), out(3 * n);
  run_activations(in.data, out.data, n);
  out.download();
  for (int i = 0; i < n; ++i) {
    const double x = points[i];
    CHECK(std::fabs(out.host[i] - 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)))) < 1e-6 * (1 + std::fabs(x)));
    CHECK(std::fabs(out.host[n + i] - x / (1 + std::exp(-x))) < 1e-5 * (1 + std::fabs(x)));
    CHECK(std::fabs(out.host[2 * n + i] / std::exp2(x) - 1) < 1e-5);
  }
}

TEST(wrapper_fma) {  // one rounding; the operands that the weight formats use are exact
  Halves values(32 * 2 * 3, 300);
  Buffer<uint32_t> a(32), b(32), c(32), out(32);
  for (int i = 0; i < 32; ++i) {
    uint32_t* const operands[] = {&a.host[i], &b.host[i], &c.host[i]};
    for (int o = 0; o < 3; ++o) std::memcpy(operands[o], &values.host[6 * i + 2 * o], 4);
  }
  for (int i = 0; i < 8; ++i) a.host[i] = 0x43004300u | uint32_t(i * 0x00020003), b.host[i] = 0x3e803e80u;
  for (int i = 8; i < 16; ++i) a.host[i] = uint32_t(i * 0x00110007 & 0x00ff00ff), b.host[i] = 0x7f007f00u;  // subnormal
  for (int i = 0; i < 16; ++i) c.host[i] = i < 8 ? 0xc208c208u : 0xc000c000u;
  a.upload(), b.upload(), c.upload();
  run_fma(a.data, b.data, c.data, out.data);
  out.download();
  for (int i = 0; i < 32; ++i) {
    for (int half = 0; half < 2; ++half) {
      const auto value = [&](uint32_t pair) {
        const uint32_t bits = (pair >> (16 * half)) << 16;
        float wide;
        std::memcpy(&wide, &bits, 4);
        return double(wide);
      };
      const double exact = value(a.host[i]) * value(b.host[i]) + value(c.host[i]), found = value(out.host[i]);
      CHECK(found == double(to_bf16(float(exact))));
      CHECK(i >= 16 || found == exact);
    }
  }
}

TEST(wrapper_widen) {  // every byte, whatever stands above it; the nibbles of some
  Buffer<uint32_t> in(256), out(3 * 256);
  for (uint32_t i = 0; i < 256; ++i) in.host[i] = i | (255 - i) << 16 | (i * 37 & 0xff) << 8 | (i * 91 & 0xff) << 24;
  in.upload();
  run_widen(in.data, out.data);
  out.download();
  for (int i = 0; i < 256; ++i) {
    for (int half = 0; half < 2; ++half) {
      const auto value = [&](int which) {
        const uint32_t bits = out.host[which * 256 + i] >> (16 * half) << 16;
        float wide;
        std::memcpy(&wide, &bits, 4);
        return wide;
      };
      const int byte = in.host[i] >> (16 * half) & 0xff;
      CHECK(value(0) * 64 == float(int8_t(byte)));
      CHECK(value(1) == float(128 + byte % 16));
      CHECK(value(2) * 4 == float(byte / 16 - 8));
    }
  }
}

TEST(wrapper_shared_memory) {  // more after less, less after more, and what the kernel declares counts
  Buffer<int> out(1);
  for (int bytes : {80 << 10, 60 << 10, 80 << 10, 46 << 10, 16}) {
    out.host[0] = 0;
    out.upload();
    run_shared(out.data, bytes);
    check(cudaDeviceSynchronize(), "test");
    out.download();
    CHECK(out.host[0] == 3);
  }
}
