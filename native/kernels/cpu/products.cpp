#include "kernels/cpu/products.h"

#include <algorithm>

#include "kernels/cpu/kernel_table.h"

namespace drivlm::cpu {

namespace {

constexpr int64_t kDepth = 512;
constexpr int64_t kBlock = 32;  // side of the squares that are turned at a time

int64_t padded(int64_t n) { return (n + kPanelRows - 1) / kPanelRows * kPanelRows; }

// A line of 16 floats at which a vector's memory can begin.
float* aligned(std::vector<float>& memory) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<float*>((at + 63) / 64 * 64);
}

void grow(std::vector<float>& memory, int64_t count) {
  if (static_cast<int64_t>(memory.size()) < count + 16) memory.resize(count + 16);
}

// out [rows, depth] of elements (first + i, p0 + p) of a factor that stands by columns.
void turn(float* out, const Factor<float>& from, int64_t first, int64_t rows, int64_t p0, int64_t depth) {
  for (int64_t p = 0; p < depth; p += kBlock) {
    const int64_t end = std::min(depth, p + kBlock);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t q = p; q < end; ++q) out[i * depth + q] = from.data[(p0 + q) * from.stride + first + i];
    }
  }
}

// Panel `panel` of b's rows, terms [p0, p0 + depth). An f32 unit is one value of each of the 32 rows, so that a factor by columns is copied.
void pack_panel(const KernelTable& kernels, float* to, const Factor<float>& b, int64_t n, int64_t panel, int64_t p0,
                int64_t depth) {
  const int64_t first = panel * kPanelRows, rows = std::min(kPanelRows, n - first);
  if (b.by_rows) {
    const void* sources[kPanelRows] = {};
    for (int64_t i = 0; i < rows; ++i) sources[i] = b.data + (first + i) * b.stride + p0;
    return kernels.pack_panel(to, WeightKind::f32, sources, depth);
  }
  for (int64_t p = 0; p < depth; ++p, to += kPanelRows) {
    const float* from = b.data + (p0 + p) * b.stride + first;
    std::copy(from, from + rows, to);
    std::fill(to + rows, to + kPanelRows, 0.0f);
  }
}

}  // namespace

void reserve(ProductSpace& space, int64_t m, int64_t n, int64_t k) {
  const int64_t depth = std::min(k, kDepth);
  grow(space.panels, padded(n) * depth);
  grow(space.rows, m * depth);
}

template <>
void product<float>(const KernelTable& kernels, Workers& workers, ProductSpace& space, float* c, int64_t stride,
                    Factor<float> a, Factor<float> b, int64_t m, int64_t n, int64_t k, bool add, const float* bias) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) c[i * stride + j] = (add ? c[i * stride + j] : 0) + (bias ? bias[j] : 0);
    }
    return;
  }
  reserve(space, m, n, k);
  float* panels = aligned(space.panels);
  float* rows = aligned(space.rows);
  for (int64_t p0 = 0; p0 < k; p0 += kDepth) {
    const int64_t depth = std::min(kDepth, k - p0);
    run(workers, panel_count(n),
        [&](int64_t panel) { pack_panel(kernels, panels + panel * kPanelRows * depth, b, n, panel, p0, depth); });
    GemmJob job;
    if (a.by_rows) {
      job.x = a.data + p0;
      job.x_stride = a.stride;
    } else {
      run(workers, (m + kBlock - 1) / kBlock, [&](int64_t block) {
        const int64_t first = block * kBlock;
        turn(rows + first * depth, a, first, std::min(kBlock, m - first), p0, depth);
      });
      job.x = rows;
      job.x_stride = depth;
    }
    job.x_f32 = job.out_f32 = true;
    job.w = panels;
    job.kind = WeightKind::f32;
    job.m = m;
    job.n = n;
    job.k = depth;
    job.after = add || p0 > 0 ? Epilogue::add : Epilogue::store;
    job.bias = p0 == 0 ? bias : nullptr;
    job.out = c;
    job.out_stride = stride;
    gemm(kernels, job, workers);
  }
}

template <>
void product<double>(const KernelTable&, Workers& workers, ProductSpace&, double* c, int64_t stride, Factor<double> a,
                     Factor<double> b, int64_t m, int64_t n, int64_t k, bool add, const double* bias) {
  auto at = [](const Factor<double>& f, int64_t i, int64_t p) {
    return f.by_rows ? f.data[i * f.stride + p] : f.data[p * f.stride + i];
  };
  run(workers, std::max<int64_t>(m, 0), [&](int64_t i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = (add ? c[i * stride + j] : 0.0) + (bias ? bias[j] : 0.0);
      for (int64_t p = 0; p < k; ++p) sum += at(a, i, p) * at(b, j, p);
      c[i * stride + j] = sum;
    }
  });
}

}  // namespace drivlm::cpu
