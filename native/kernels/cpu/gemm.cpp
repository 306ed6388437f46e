#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/scratch.h"

namespace drivlm::cpu {

namespace {

// Packed x of one task; leaves room in 2 MiB of L2 for a panel and the one after it.
constexpr int64_t kPackedBytes = 1 << 20;

// Panels that a thread takes at most at a time where each meets many rows, so that others find some left to help with.
constexpr int64_t kTogether = 4;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Panels [next, end), side by side in memory. A line of the caches each, since every thread changes its own.
struct alignas(64) Run {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

// A thread's way through the runs of all: a quarter of what is left of its own at a time, `most` at the most, then of those of others. So it reads on where it
// stopped and uses what it fetched, packs x once, and who starts late or is held up is waited for as long as one panel takes.
class Taken : public Panels {
 public:
  Taken(Run* runs, int64_t count, int64_t own, int64_t most) : runs_(runs), count_(count), own_(own), most_(most) {
    ahead_ = find();
  }

  bool any() const { return ahead_.first < ahead_.end; }
  PanelRange take() override {
    const PanelRange range = ahead_;
    ahead_ = {};
    return range.first < range.end ? range : find();
  }

 private:
  PanelRange find() {
    for (; passed_ < count_; ++passed_) {
      Run& run = runs_[(own_ + passed_) % count_];
      for (int64_t first = run.next.load(std::memory_order_relaxed); first < run.end;) {
        const int64_t end = first + std::min(ceil_div(run.end - first, 4), most_);
        if (run.next.compare_exchange_weak(first, end, std::memory_order_relaxed)) return {first, end};
      }
    }
    return {};
  }

  Run* const runs_;
  const int64_t count_, own_, most_;
  int64_t passed_ = 0;
  PanelRange ahead_;
};

}  // namespace

void gemm(const KernelTable& kernels, const GemmJob& job, Workers& workers) {
  if (job.m == 0 || job.n == 0) return;
  const int64_t threads = workers.count(), panels = panel_count(job.n);
  const bool bytes = (job.kind == WeightKind::s8 || job.kind == WeightKind::s4) && job.x_int8;
  const bool in_tiles = kernels.matrix_tiles && job.kind != WeightKind::f32;
  const int64_t tile_rows = in_tiles ? kMatrixTileRows : kernels.tile_rows;
  const int64_t tile_bytes = tile_rows * (bytes ? 1 : in_tiles ? 2 : 4) * std::max<int64_t>(job.k, 1);
  const int64_t most_tiles = std::max<int64_t>(1, kPackedBytes / tile_bytes);

  // Many rows: every thread has blocks of them whose packed x fits, all panels of each, and when it is done with them helps with those of others. Few rows: every
  // thread has a run of the panels of each block, so that each is read by one thread only.
  const bool by_rows = job.m >= 4 * tile_rows * threads;
  const int64_t tiles = ceil_div(ceil_div(job.m, tile_rows), by_rows ? threads : 1);  // of a thread
  const int64_t row_blocks = ceil_div(tiles, most_tiles) * (by_rows ? threads : 1);
  const int64_t block_rows = ceil_div(job.m, row_blocks), lanes = by_rows ? 1 : std::min(panels, threads);
  std::vector<Run> runs(threads > 1 ? row_blocks * lanes : 0);  // one thread alone allocates nothing
  for (size_t i = 0; i < runs.size(); ++i) {
    const int64_t lane = static_cast<int64_t>(i) % lanes;
    runs[i].next.store(panels * lane / lanes, std::memory_order_relaxed);
    runs[i].end = panels * (lane + 1) / lanes;
  }
  const auto multiply = [&](int64_t block, int64_t lane) {
    Run all{0, panels};
    Taken mine(runs.empty() ? &all : &runs[block * lanes], lanes, lane, by_rows ? kTogether : panels);
    if (!mine.any()) return;  // before x is packed for nothing
    void* scratch = thread_scratch(kernels.gemm_scratch(block_rows, job.k));
    kernels.gemm(job, job.m * block / row_blocks, job.m * (block + 1) / row_blocks, mine, scratch);
  };
  run(workers, by_rows ? threads : lanes, [&](int64_t task) {
    const int64_t own = by_rows ? row_blocks * task / threads : 0;
    for (int64_t i = 0; i < row_blocks; ++i) multiply((own + i) % row_blocks, by_rows ? 0 : task);
  });
}

}  // namespace drivlm::cpu
