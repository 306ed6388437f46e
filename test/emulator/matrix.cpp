// ldmatrix and mma.sync for a whole warp. Fragment layouts as in the PTX manual: with lane = 4 g + t, register i of A
// holds rows g + 8 (i & 1), columns 2 t, 2 t + 1 of its k half i / 2; register i of B holds rows 2 t, 2 t + 1 of its k half i,
// column g; the accumulator holds rows g and g + 8, columns 2 t, 2 t + 1.
#include <algorithm>

#include "state.h"

namespace emu {

namespace {

typedef float Row8 __attribute__((vector_size(32), aligned(4)));
typedef uint32_t Row8Int __attribute__((vector_size(32)));

float low(uint32_t pair) { return __builtin_bit_cast(float, pair << 16); }
float high(uint32_t pair) { return __builtin_bit_cast(float, pair & 0xffff0000u); }

struct MatrixA {
  float value[16][16];  // [m][k]
  void set(int lane, int i, uint32_t pair) {
    float* at = &value[(i & 1) * 8 + lane / 4][(i >> 1) * 8 + lane % 4 * 2];
    at[0] = low(pair), at[1] = high(pair);
  }
};
struct MatrixB {
  Row8 row[16];  // [k][n]
  void set(int lane, int i, uint32_t pair) {
    const int k = i * 8 + lane % 4 * 2, n = lane / 4;
    row[k][n] = low(pair), row[k + 1][n] = high(pair);
  }
};

// c += a b, products summed in k order
void multiply(Row8* c, const MatrixA& a, const MatrixB& b) {
  for (int m = 0; m < 16; m += 4) {
    Row8 c0 = c[m], c1 = c[m + 1], c2 = c[m + 2], c3 = c[m + 3];
    for (int k = 0; k < 16; ++k) {
      const Row8 r = b.row[k];
      c0 += a.value[m][k] * r, c1 += a.value[m + 1][k] * r, c2 += a.value[m + 2][k] * r, c3 += a.value[m + 3][k] * r;
    }
    c[m] = c0, c[m + 1] = c1, c[m + 2] = c2, c[m + 3] = c3;
  }
  ++stats.matrix_products;
}

}  // namespace

void execute_mma(Warp& warp) {
  MatrixA a;
  MatrixB b;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) a.set(lane, i, warp.a[i][lane]);
    for (int i = 0; i < 2; ++i) b.set(lane, i, warp.b[i][lane]);
  }
  multiply(reinterpret_cast<Row8*>(&warp.c[0][0][0]), a, b);
}

void execute_mma_tile(Warp& warp) {
  constexpr int kMaxNi = 32;
  static MatrixB b[kMaxNi];  // launches run one at a time
  for (int j = 0; j < warp.ni; ++j) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 2; ++i) b[j].set(lane, i, warp.tile_b[lane][j * 2 + i]);
    }
  }
  for (int i = 0; i < warp.mi; ++i) {
    MatrixA a;
    for (int lane = 0; lane < 32; ++lane) {
      for (int q = 0; q < 4; ++q) a.set(lane, q, warp.tile_a[lane][i * 4 + q]);
    }
    for (int j = 0; j < warp.ni; ++j) {
      alignas(32) float c[16][8];
      const int at = (i * warp.ni + j) * 4;
      for (int lane = 0; lane < 32; ++lane) {
        const float* d = static_cast<const float*>(warp.tile_d[lane]) + at;
        std::memcpy(&c[lane / 4][lane % 4 * 2], d, 8);
        std::memcpy(&c[8 + lane / 4][lane % 4 * 2], d + 2, 8);
      }
      multiply(reinterpret_cast<Row8*>(c), a, b[j]);
      for (int lane = 0; lane < 32; ++lane) {
        float* d = static_cast<float*>(warp.tile_d[lane]) + at;
        std::memcpy(d, &c[lane / 4][lane % 4 * 2], 8);
        std::memcpy(d + 2, &c[8 + lane / 4][lane % 4 * 2], 8);
      }
    }
  }
}

// The same of bytes: a register holds columns 4 t ... 4 t + 3 of its k half of 16, unsigned in A, signed in B. Sums wrap as the hardware's do.
void execute_mma_u8s8_tile(Warp& warp) {
  for (int i = 0; i < warp.mi; ++i) {
    uint32_t a[16][32];  // [m][k]
    for (int lane = 0; lane < 32; ++lane) {
      for (int q = 0; q < 4; ++q) {
        for (int e = 0; e < 4; ++e) {
          a[lane / 4 + (q & 1) * 8][(q >> 1) * 16 + lane % 4 * 4 + e] = warp.tile_a[lane][i * 4 + q] >> (8 * e) & 0xff;
        }
      }
    }
    for (int j = 0; j < warp.ni; ++j) {
      Row8Int b[32], c[16] = {};  // [k][n], [m][n]
      for (int lane = 0; lane < 32; ++lane) {
        for (int q = 0; q < 2; ++q) {
          for (int e = 0; e < 4; ++e) {
            b[q * 16 + lane % 4 * 4 + e][lane / 4] = uint32_t(int8_t(warp.tile_b[lane][j * 2 + q] >> (8 * e)));
          }
        }
      }
      for (int m = 0; m < 16; ++m) {
        for (int k = 0; k < 32; ++k) c[m] += a[m][k] * b[k];
      }
      for (int lane = 0; lane < 32; ++lane) {
        int32_t* d = static_cast<int32_t*>(warp.tile_d[lane]) + (i * warp.ni + j) * 4;
        for (int e = 0; e < 4; ++e) {
          d[e] = int32_t(uint32_t(d[e]) + c[lane / 4 + (e >> 1) * 8][lane % 4 * 2 + (e & 1)]);
        }
      }
      ++stats.matrix_products;
    }
  }
}

void execute_ldmatrix(Warp& warp, bool trans) {
  for (int m = 0; m < warp.matrices; ++m) {
    uint16_t stored[8][8];
    for (int r = 0; r < 8; ++r) {  // lane 8 m + r gives the address of row r
      Lane& lane = warp.lanes[m * 8 + r];
      const uint32_t offset = uint32_t(warp.value[m * 8 + r]);
      if (offset & 15) {
        report("misaligned access", &lane, lane.site, "ldmatrix row at shared +%u", offset);
        abort_block(current);
      }
      shared_access(&lane, offset, 16, false, lane.site);
      std::memcpy(stored[r], lane.block->shared + offset, 16);
    }
    // The eight rows are fetched together: each should lie in its own 16-byte column of banks.
    int hits[8] = {};
    for (int r = 0; r < 8; ++r) {
      const uint64_t* rows = &warp.value[m * 8];
      if (std::find(rows, rows + r, rows[r]) == rows + r) ++hits[rows[r] >> 4 & 7];
    }
    stats.ldmatrix_conflicts += *std::max_element(hits, hits + 8) - 1;
    uint16_t loaded[8][8];
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 8; ++j) loaded[i][j] = trans ? stored[j][i] : stored[i][j];
    }
    std::memcpy(warp.result[m], loaded, sizeof loaded);  // lane l holds word l
  }
}

}  // namespace emu
