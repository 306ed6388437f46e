#include "kernels/cpu/packed_device.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <numeric>

#include "kernels/cpu/packed_kv.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/thread_pool.h"

namespace drivlm {

namespace {

using cpu::kPanelRows;
using cpu::WeightKind;

// Weights are read front to back for every token: large pages save a third of the time that small ones lose to address
// translation.
class WeightMemory : public Memory {
 public:
  WeightMemory(size_t size, const std::string& name) {
    bytes = size;
    if (size == 0) return;
    data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      data = nullptr;
      throw Error(Code::out_of_memory, text("%s: %zu MiB for the packed weights could not be had (%s).", name.c_str(),
                                            size >> 20, std::strerror(errno)));
    }
    if (size >= kLargePage) ::madvise(data, size, MADV_HUGEPAGE);
  }
  ~WeightMemory() override {
    if (data) ::munmap(data, bytes);
  }

 private:
  static constexpr size_t kLargePage = size_t{2} << 20;
};

struct SourceRow {
  const MappedMatrix* source;  // null: no row, zeros
  int64_t index;
};

// Packs panels whose row i is `row_of(panel, i)`.
template <class RowOf>
void pack(PackedMatrix& matrix, const cpu::Forms& forms, int threads, const RowOf& row_of) {
  const int64_t k = matrix.cols, panels = cpu::panel_count(matrix.rows);
  ThreadPool::instance().parallel_for(threads, panels, 4, [&](int64_t first, int64_t last) {
    std::vector<float> wide(kPanelRows * k);
    std::vector<bf16> halves(matrix.kind == WeightKind::bf16 ? kPanelRows * k : 0);
    std::vector<int8_t> bytes(matrix.kind == WeightKind::s8 ? kPanelRows * k : 0);
    for (int64_t panel = first; panel < last; ++panel) {
      char* to = static_cast<char*>(matrix.memory->data) + panel * cpu::panel_bytes(matrix.kind, k);
      const float* rows[kPanelRows] = {};
      for (int64_t i = 0; i < kPanelRows; ++i) {
        const SourceRow from = row_of(panel, i);
        if (!from.source) continue;
        from.source->row(from.index, wide.data() + i * k);
        rows[i] = wide.data() + i * k;
      }
      if (matrix.kind == WeightKind::s4) {
        cpu::pack_s4_panel(to, rows, k);
        continue;
      }
      const void* packed[kPanelRows] = {};
      for (int64_t i = 0; i < kPanelRows; ++i) {
        if (!rows[i]) continue;
        if (matrix.kind == WeightKind::bf16) {
          bf16* row = halves.data() + i * k;
          for (int64_t j = 0; j < k; ++j) row[j] = from_float<bf16>(rows[i][j]);
          packed[i] = row;
        } else {
          int8_t* row = bytes.data() + i * k;
          matrix.scales[panel * kPanelRows + i] = cpu::quantize_s8(row, rows[i], k);
          matrix.sums[panel * kPanelRows + i] = std::accumulate(row, row + k, int32_t{0});
          packed[i] = row;
        }
      }
      forms.pack_panel(to, matrix.kind, packed, k);
    }
  });
}

}  // namespace

PackedMatrix::PackedMatrix(WeightKind kind, int64_t n, int64_t k, const std::string& name)
    : kind(kind), memory(std::make_unique<WeightMemory>(cpu::packed_bytes(kind, n, k), name)) {
  rows = n;
  cols = k;
  if (kind == WeightKind::s8) {
    scales.assign(cpu::panel_count(n) * kPanelRows, 0.0f);
    sums.assign(cpu::panel_count(n) * kPanelRows, 0);
  }
}

PackedCpuDevice::PackedCpuDevice(int threads, const cpu::Forms& forms, CpuFormat format)
    : CpuDevice(DType::bf16, threads,
                [threads, &forms, format](Device& device) {
                  return std::make_unique<PackedCpuOps>(device, threads, forms, format.int8_activations);
                }),
      forms_(forms),
      format_(format),
      threads_(threads) {}

WeightKind PackedCpuDevice::kind_of(const std::string& name) const {
  if (format_.weights == WeightFormat::bf16 || name == "vision.patch.weight") return WeightKind::bf16;
  return format_.weights == WeightFormat::int4 && name.rfind("language.layers.", 0) == 0 ? WeightKind::s4
                                                                                       : WeightKind::s8;
}

std::unique_ptr<Matrix> PackedCpuDevice::load_matrix(const HostTensor& source) {
  const MappedMatrix stored(source);
  auto matrix = std::make_unique<PackedMatrix>(kind_of(source.name), source.rows, source.cols, source.name);
  pack(*matrix, forms_, threads_, [&](int64_t panel, int64_t i) {
    const int64_t row = panel * kPanelRows + i;
    return SourceRow{row < source.rows ? &stored : nullptr, row};
  });
  return matrix;
}

std::unique_ptr<Matrix> PackedCpuDevice::load_gated(const HostTensor& gate, const HostTensor& up) {
  const MappedMatrix gate_rows(gate), up_rows(up);
  auto matrix = std::make_unique<PackedMatrix>(kind_of(gate.name), gate.rows + up.rows, gate.cols, gate.name);
  matrix->gated = true;
  constexpr int64_t kHalf = kPanelRows / 2;
  pack(*matrix, forms_, threads_, [&](int64_t panel, int64_t i) {
    const int64_t row = panel * kHalf + i % kHalf;
    return SourceRow{row >= gate.rows ? nullptr : i < kHalf ? &gate_rows : &up_rows, row};
  });
  return matrix;
}

bool PackedCpuDevice::keeps_mapping(const Matrix& matrix) const {
  return dynamic_cast<const PackedMatrix*>(&matrix) == nullptr;
}

size_t PackedCpuDevice::matrix_bytes(int64_t rows, int64_t cols, DType) const {
  if (format_.weights == WeightFormat::bf16) return cpu::packed_bytes(WeightKind::bf16, rows, cols);
  // Of int4 the bound: which matrix it will be is not known here.
  return cpu::packed_bytes(WeightKind::s8, rows, cols) + cpu::panel_count(rows) * kPanelRows * 8;
}

size_t PackedCpuDevice::kv_bytes(const KvShape& shape) const {
  if (!cpu::packs(shape)) return CpuDevice::kv_bytes(shape);
  return static_cast<size_t>(cpu::layout_of(shape).page_bytes() * shape.pages);
}

}  // namespace drivlm
