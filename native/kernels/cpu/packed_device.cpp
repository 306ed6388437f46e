#include "kernels/cpu/packed_device.h"

#include <numeric>

#include "kernels/cpu/pack_s4.h"
#include "kernels/cpu/packed_kv.h"
#include "kernels/cpu/thread_pool.h"
#include "packed/formats.h"

namespace drivlm {

namespace {

using cpu::kPanelRows;
using cpu::WeightKind;

struct SourceRow {
  const MappedMatrix* source;  // null: no row, zeros
  int64_t index;
};

// Packs panels whose row i is `row_of(panel, i)`. `done(first, last)`: the rows of panels [first, last) were read.
template <class RowOf, class Done>
void pack(PackedMatrix& matrix, const cpu::KernelTable& kernels, int threads, const RowOf& row_of, const Done& done) {
  const int64_t k = matrix.cols, panels = cpu::panel_count(matrix.rows);
  ThreadPool::instance().parallel_for(threads, panels, 4, [&](int64_t first, int64_t last) {
    std::vector<float> wide(kPanelRows * k);
    std::vector<bf16> halves(matrix.kind == WeightKind::bf16 ? kPanelRows * k : 0);
    std::vector<int8_t> bytes(matrix.kind == WeightKind::s8 ? kPanelRows * k : 0);
    for (int64_t panel = first; panel < last; ++panel) {
      char* to = matrix.panels() + panel * cpu::panel_bytes(matrix.kind, k);
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
          matrix.scales()[panel * kPanelRows + i] = quantize_s8(row, rows[i], k);
          matrix.sums()[panel * kPanelRows + i] = std::accumulate(row, row + k, int32_t{0});
          packed[i] = row;
        }
      }
      kernels.pack_panel(to, matrix.kind, packed, k);
    }
    done(first, last);
  });
}

}  // namespace

PackedMatrix::PackedMatrix(WeightKind kind, int64_t n, int64_t k, bool gated, std::unique_ptr<Memory> memory)
    : kind(kind), gated(gated), memory_(std::move(memory)) {
  rows = n;
  cols = k;
}

size_t PackedMatrix::bytes(WeightKind kind, int64_t n, int64_t k) {
  const size_t of_rows = kind == WeightKind::s8 ? sizeof(float) + sizeof(int32_t) : 0;
  return cpu::packed_bytes(kind, n, k) + cpu::panel_count(n) * kPanelRows * of_rows;
}

PackedCpuDevice::PackedCpuDevice(int threads, const cpu::KernelTable& kernels, CpuFormat format)
    : CpuDevice(DType::bf16, threads,
                [threads, &kernels, format](Device& device) {
                  return std::make_unique<PackedCpuOps>(device, threads, kernels, format.int8_activations);
                }),
      kernels_(kernels),
      format_(format),
      threads_(threads) {}

WeightKind PackedCpuDevice::kind_of(Use use) const {
  switch (encoding_of(format_.weights, use)) {
    case Encoding::bf16: return WeightKind::bf16;
    case Encoding::s8: return WeightKind::s8;
    case Encoding::s4: return WeightKind::s4;
  }
  return WeightKind::bf16;
}

template <class RowOf, class Done>
std::unique_ptr<Matrix> PackedCpuDevice::packed(const HostTensor& source, int64_t rows, bool gated, const RowOf& row_of,
                                                const Done& done) const {
  const WeightKind kind = kind_of(source.use);
  const PackedForm form{cpu::kPackingVersion, static_cast<int64_t>(kind), gated, rows, source.cols};
  const size_t bytes = PackedMatrix::bytes(kind, rows, source.cols);
  if (source.store) {
    if (auto kept = source.store->find(source.name, form, bytes)) {
      return std::make_unique<PackedMatrix>(kind, rows, source.cols, gated, std::move(kept));
    }
  }
  auto memory = std::make_unique<HostMemory>(bytes, "The packed " + source.name, true);
  if (source.store) source.store->add(source.name, form, memory->data, bytes);
  auto matrix = std::make_unique<PackedMatrix>(kind, rows, source.cols, gated, std::move(memory));
  pack(*matrix, kernels_, threads_, row_of, done);
  return matrix;
}

std::unique_ptr<Matrix> PackedCpuDevice::load_matrix(const HostTensor& source) {
  const MappedMatrix stored(source);
  return packed(
      source, source.rows, false,
      [&](int64_t panel, int64_t i) {
        const int64_t row = panel * kPanelRows + i;
        return SourceRow{row < source.rows ? &stored : nullptr, row};
      },
      [&](int64_t first, int64_t last) { stored.drop(first * kPanelRows, (last - first) * kPanelRows); });
}

std::unique_ptr<Matrix> PackedCpuDevice::load_gated(const HostTensor& gate, const HostTensor& up) {
  const MappedMatrix gate_rows(gate), up_rows(up);
  constexpr int64_t kHalf = kPanelRows / 2;
  return packed(
      gate, gate.rows + up.rows, true,
      [&](int64_t panel, int64_t i) {
        const int64_t row = panel * kHalf + i % kHalf;
        return SourceRow{row >= gate.rows ? nullptr : i < kHalf ? &gate_rows : &up_rows, row};
      },
      [&](int64_t first, int64_t last) {
        gate_rows.drop(first * kHalf, (last - first) * kHalf);
        up_rows.drop(first * kHalf, (last - first) * kHalf);
      });
}

bool PackedCpuDevice::keeps_mapping(const Matrix& matrix) const {
  return dynamic_cast<const PackedMatrix*>(&matrix) == nullptr;
}

size_t PackedCpuDevice::matrix_bytes(int64_t rows, int64_t cols, Use use, DType) const {
  return PackedMatrix::bytes(kind_of(use), rows, cols);
}

size_t PackedCpuDevice::kv_bytes(const KvShape& shape) const {
  if (!cpu::packs(shape)) {
    if (shape.format == KvFormat::int8) {
      throw Error(
          Code::bad_argument,
          text(
              "A KV cache in int8 needs heads of 16, 32 … 128 values; this model's have %lld. Load it with kvCache 'bf16'.",
              static_cast<long long>(shape.head_dim)));
    }
    return CpuDevice::kv_bytes(shape);
  }
  return static_cast<size_t>(cpu::layout_of(shape).page_bytes() * shape.pages);
}

}  // namespace drivlm
