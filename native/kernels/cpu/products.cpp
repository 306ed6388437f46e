#include "kernels/cpu/products.h"

#include <algorithm>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/pool_workers.h"

namespace drivlm::cpu {

namespace {

constexpr int64_t kPanelBytes = 64 << 10;  // of a piece

int64_t depth_of(WeightKind kind, int64_t k) { return std::min(k, kPanelBytes / kUnitBytes * unit_depth(kind)); }

// Panels [panel, end) of b [n, k] from its places [p0, p0 + depth) on.
void pack(const KernelTable& kernels, WeightKind kind, char* to, const Factor<float>& b, int64_t panel, int64_t end,
          int64_t n, int64_t p0, int64_t depth) {
  const int64_t first = panel * kPanelRows;
  const float* from = b.by_rows ? b.data + first * b.stride + p0 : b.data + p0 * b.stride + first;
  kernels.pack_f32(to, kind, from, b.stride, !b.by_rows, std::min(end * kPanelRows, n) - first, depth);
}

// c [m, n] = or += a's places [p0, p0 + depth) times the panels of b's.
GemmJob piece_of(WeightKind kind, float* c, int64_t stride, const Factor<float>& a, const char* panels, int64_t m,
                 int64_t n, int64_t p0, int64_t depth, bool add) {
  GemmJob job;
  job.x = a.by_rows ? a.data + p0 : a.data + p0 * a.stride;
  job.x_stride = a.stride;
  job.x_by_columns = !a.by_rows;
  job.x_f32 = job.out_f32 = true;
  job.w = panels;
  job.kind = kind;
  job.m = m;
  job.n = n;
  job.k = depth;
  job.after = add || p0 > 0 ? Epilogue::add : Epilogue::store;
  job.out = c;
  job.out_stride = stride;
  return job;
}

}  // namespace

float* aligned(std::vector<float>& memory) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<float*>((at + 63) / 64 * 64);
}

WeightKind product_kind(const KernelTable& kernels, DType precision) {
  return precision == DType::bf16 && kernels.bf16_pairs ? WeightKind::bf16 : WeightKind::f32;
}

void reserve(ProductSpace& space, int64_t n, int64_t k) {
  const size_t floats = packed_bytes(space.kind, n, depth_of(space.kind, k)) / sizeof(float) + 16;
  if (space.panels.size() < floats) space.panels.resize(floats);
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
  reserve(space, n, k);
  char* panels = reinterpret_cast<char*>(aligned(space.panels));
  const int64_t most = depth_of(space.kind, k);
  for (int64_t p0 = 0; p0 < k; p0 += most) {
    const int64_t depth = std::min(most, k - p0);
    // Shares of panels: a thread that packs several reads whole pieces of the rows that stand by columns.
    const int64_t count = panel_count(n),
                  shares = std::min<int64_t>(count, workers.count() > 1 ? 4 * workers.count() : 1);
    run(workers, shares, [&](int64_t share) {
      const int64_t first = count * share / shares;
      pack(kernels, space.kind, panels + first * panel_bytes(space.kind, depth), b, first, count * (share + 1) / shares,
           n, p0, depth);
    });
    GemmJob job = piece_of(space.kind, c, stride, a, panels, m, n, p0, depth, add);
    job.bias = p0 == 0 ? bias : nullptr;
    gemm(kernels, job, workers);
  }
}

int64_t packed_floats(WeightKind kind, int64_t n, int64_t k) {
  return static_cast<int64_t>(packed_bytes(kind, n, k) / sizeof(float));
}

PackedFactor pack_factor(const KernelTable& kernels, WeightKind kind, float* to, Factor<float> b, int64_t n,
                         int64_t k) {
  char* panels = reinterpret_cast<char*>(to);
  const int64_t most = depth_of(kind, k);
  for (int64_t p0 = 0; p0 < k; p0 += most) {
    const int64_t depth = std::min(most, k - p0);
    pack(kernels, kind, panels, b, 0, panel_count(n), n, p0, depth);
    panels += packed_bytes(kind, n, depth);
  }
  return {to, n, k};
}

void product(const KernelTable& kernels, WeightKind kind, float* c, int64_t stride, Factor<float> a,
             const PackedFactor& b, int64_t m, int64_t n, bool add) {
  if (m <= 0 || n <= 0) return;
  PoolWorkers alone(1);
  const char* panels = reinterpret_cast<const char*>(b.panels);
  const int64_t most = depth_of(kind, b.k);
  for (int64_t p0 = 0; p0 < b.k; p0 += most) {
    const int64_t depth = std::min(most, b.k - p0);
    gemm(kernels, piece_of(kind, c, stride, a, panels, m, n, p0, depth, add), alone);
    panels += packed_bytes(kind, b.n, depth);
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
