#include "kernels/cpu/packed_device.h"

#include "kernels/cpu/packed_kv.h"
#include "kernels/cpu/scratch.h"
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

// Packs panels whose row i is `row_of(panel, i)`.
template <class RowOf>
void pack(PackedMatrix& matrix, const cpu::KernelTable& kernels, int threads, const RowOf& row_of) {
  const int64_t k = matrix.cols, panels = cpu::panel_count(matrix.rows);
  ThreadPool::instance().parallel_for(threads, panels, 4, [&](int64_t first, int64_t last) {
    const int64_t most_bytes = kPanelRows * k * static_cast<int64_t>(sizeof(float));
    char* const stored =
        static_cast<char*>(cpu::thread_scratch(2 * most_bytes));  // the rows, and those that are widened
    float* const widened = reinterpret_cast<float*>(stored + most_bytes);
    for (int64_t panel = first; panel < last; ++panel) {
      SourceRow from[kPanelRows];
      cpu::StoredRows rows;
      rows.k = k;
      for (int64_t i = 0; i < kPanelRows; ++i) {
        from[i] = row_of(panel, i);
        rows.f32 |= from[i].source && from[i].source->dtype() != DType::bf16;
      }
      char* at = stored;
      for (int64_t i = 0, count; i < kPanelRows; i += count) {
        const MappedMatrix* source = from[i].source;
        count = 1;
        if (!source) continue;
        while (i + count < kPanelRows && from[i + count].source == source &&
               from[i + count].index == from[i].index + count)
          ++count;
        source->read(from[i].index, count, at);
        const bool as_stored = source->dtype() == (rows.f32 ? DType::f32 : DType::bf16);
        for (int64_t row = i; row < i + count; ++row, at += k * dtype_bytes(source->dtype())) {
          rows.row[row] = as_stored ? at : reinterpret_cast<const char*>(widened + row * k);
          if (!as_stored) source->widen(at, 1, widened + row * k);
        }
      }
      const bool s8 = matrix.kind == WeightKind::s8;
      kernels.pack_panel(matrix.panels() + panel * cpu::panel_bytes(matrix.kind, k),
                         s8 ? matrix.scales() + panel * kPanelRows : nullptr,
                         s8 ? matrix.sums() + panel * kPanelRows : nullptr, matrix.kind, rows);
    }
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

template <class RowOf>
std::unique_ptr<Matrix> PackedCpuDevice::packed(const HostTensor& source, int64_t rows, bool gated,
                                                const RowOf& row_of) const {
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
  pack(*matrix, kernels_, threads_, row_of);
  return matrix;
}

std::unique_ptr<Matrix> PackedCpuDevice::load_matrix(const HostTensor& source) {
  const MappedMatrix stored(source);
  return packed(source, source.rows, false, [&](int64_t panel, int64_t i) {
    const int64_t row = panel * kPanelRows + i;
    return SourceRow{row < source.rows ? &stored : nullptr, row};
  });
}

std::unique_ptr<Matrix> PackedCpuDevice::load_gated(const HostTensor& gate, const HostTensor& up) {
  const MappedMatrix gate_rows(gate), up_rows(up);
  constexpr int64_t kHalf = kPanelRows / 2;
  return packed(gate, gate.rows + up.rows, true, [&](int64_t panel, int64_t i) {
    const int64_t row = panel * kHalf + i % kHalf;
    return SourceRow{row >= gate.rows ? nullptr : i < kHalf ? &gate_rows : &up_rows, row};
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
