#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <memory>
#include <new>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/scratch.h"

namespace drivlm::cpu {

namespace {

// Packed x of one task; leaves room in 2 MiB of L2 for a panel and the one after it.
constexpr int64_t kPackedBytes = 1 << 20;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void gemm(const KernelTable& kernels, const GemmJob& job, Workers& workers) {
  if (job.m == 0 || job.n == 0) return;
  const int64_t threads = workers.count(), panels = panel_count(job.n);
  const bool bytes = (job.kind == WeightKind::s8 || job.kind == WeightKind::s4) && job.x_int8;
  const bool in_tiles = kernels.matrix_tiles && job.kind != WeightKind::f32;
  const int64_t tile_rows = in_tiles ? kMatrixTileRows : kernels.tile_rows;
  const int64_t tile_bytes = tile_rows * (bytes ? 1 : in_tiles ? 2 : 4) * std::max<int64_t>(job.k, 1);
  const int64_t most_tiles = std::max<int64_t>(1, kPackedBytes / tile_bytes);

  // Many rows: every thread has equal rows, in blocks whose packed x fits, over all panels. Few rows: shares of panels,
  // so that each panel is read by one thread only; four shares a thread, so that a thread that starts late costs little.
  const bool by_rows = job.m >= 4 * tile_rows * threads;
  const int64_t tiles = ceil_div(ceil_div(job.m, tile_rows), by_rows ? threads : 1);  // of a thread
  const int64_t row_blocks = ceil_div(tiles, most_tiles) * (by_rows ? threads : 1);
  int64_t panel_blocks = 1;
  if (!by_rows && threads > 1)
    panel_blocks = std::min(panels, threads * std::clamp<int64_t>(panels / (8 * threads), 1, 4));
  const int64_t block_rows = ceil_div(job.m, row_blocks);
  run(workers, row_blocks * panel_blocks, [&](int64_t task) {
    const int64_t i = task % row_blocks, j = task / row_blocks;
    void* scratch = thread_scratch(kernels.gemm_scratch(block_rows, job.k));
    kernels.gemm(job, job.m * i / row_blocks, job.m * (i + 1) / row_blocks, panels * j / panel_blocks,
                 panels * (j + 1) / panel_blocks, scratch);
  });
}

}  // namespace drivlm::cpu
