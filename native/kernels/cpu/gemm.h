// Matrix products on packed weights: out = x [m, k] * W [n, k]^T with what follows a linear layer fused in.
//
// Packing   W is stored in panels of 32 rows. A panel is a run of 128-byte units; a unit holds, for each of the 32
// rows, 4 bytes
//           along k: two bf16, four int8 or one f32. So a vector load gives 16 output columns and a 32-bit
//           broadcast of x meets them all. n and k are padded with zeros: a panel is unit_count(kind, k) * 128 bytes.
// Gated     gate and up of a gated MLP share a panel: 16 rows of gate, then the same 16 rows of up.
// Threads   gemm() deals rows or panels out to `Workers`; a form itself runs on one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/epilogue.h"

namespace drivlm::cpu {

// Of what is said above and at WeightKind, and of how values are rounded (packed/formats.h): raised when any of it changes, since caches on
// disk hold packed weights.
constexpr int64_t kPackingVersion = 2;

constexpr int64_t kPanelRows = 32;
constexpr int64_t kUnitBytes = 128;

// s8   One scale a row: w = scale[n] * q, q in -127..127. Unit: four q a row. With few rows of x these are taken as
// 16-bit
//      integers (one scale a row, nothing lost beyond bf16); with more either the panel is expanded to bf16, or x to u8
//      with a scale and a zero point a row (x_int8).
// s4   One bf16 scale for 32 values of a row: w = scale * (q - 8), q in 0..15. A group of 32 values along k is four
// units, each with eight q
//      a row (q of k = 2j in bits 4j of the low half-word, of k = 2j + 1 in those of the high one), then the 32 scales.
enum class WeightKind : uint8_t { bf16, f32, s8, s4 };

constexpr int64_t kGroupDepth = 32;  // s4
constexpr int64_t kGroupBytes = 4 * kUnitBytes + kPanelRows * 2;

constexpr int64_t unit_depth(WeightKind kind) {
  return kind == WeightKind::bf16 ? 2 : kind == WeightKind::s8 ? 4 : kind == WeightKind::s4 ? 8 : 1;
}
constexpr int64_t unit_count(WeightKind kind, int64_t k) { return (k + unit_depth(kind) - 1) / unit_depth(kind); }
constexpr int64_t panel_count(int64_t n) { return (n + kPanelRows - 1) / kPanelRows; }
constexpr int64_t panel_bytes(WeightKind kind, int64_t k) {
  return kind == WeightKind::s4 ? (k + kGroupDepth - 1) / kGroupDepth * kGroupBytes : unit_count(kind, k) * kUnitBytes;
}
constexpr size_t packed_bytes(WeightKind kind, int64_t n, int64_t k) {
  return static_cast<size_t>(panel_count(n) * panel_bytes(kind, k));
}

// Rows of x that AMX takes at a time.
constexpr int64_t kMatrixTileRows = 32;

// Rows of x up to which it is not rounded to 8 bits, and up to which weights in 4 bits are streamed as they are.
constexpr int64_t kStreamRows = 8;

struct GemmJob {
  const void* x = nullptr;  // bf16 or f32; f32 for f32 weights keeps all of it
  int64_t x_stride = 0;     // in elements
  bool x_f32 = false;
  bool x_by_columns = false;  // f32 with bf16 or f32 weights: value (i, p) at x[p * x_stride + i]
  bool x_int8 = false;        // s8, s4: x is rounded to 8 bits when there are more than kStreamRows rows

  const void* w = nullptr;  // packed, 64-byte aligned
  WeightKind kind = WeightKind::bf16;
  const float* w_scale = nullptr;  // s8: [panels * 32] in packed order
  const int32_t* w_sum = nullptr;  // s8: [panels * 32] sums of each row's q
  int64_t m = 0, n = 0, k = 0;     // n counts the packed rows: 2 * ffn when gated

  Epilogue after = Epilogue::store;
  const float* bias = nullptr;   // [n] or null
  const float* scale = nullptr;  // Epilogue::add: [n] or null
  void* out = nullptr;           // bf16 or f32
  int64_t out_stride = 0;        // in elements
  bool out_f32 = false;
};

// Threads from outside. run() calls body(context, task) once for each task in [0, tasks), and returns when all are
// done.
class Workers {
 public:
  virtual ~Workers() = default;
  virtual int count() const = 0;
  virtual void run(int64_t tasks, void (*body)(const void* context, int64_t task), const void* context) = 0;
};

// run() with a lambda.
template <class Body>
void run(Workers& workers, int64_t tasks, const Body& body) {
  workers.run(tasks, [](const void* context, int64_t task) { (*static_cast<const Body*>(context))(task); }, &body);
}

// Panels of a product that wait for the thread which asks: a range at a time, an empty one when there are none left.
struct PanelRange {
  int64_t first = 0, end = 0;
};
class Panels {
 public:
  virtual ~Panels() = default;
  virtual PanelRange take() = 0;
};

// A target's part of its table: gemm_kernels.h.
struct GemmKernels {
  int tile_rows;      // rows of the largest register tile
  bool bf16_pairs;    // multiplies bf16 two at a time, so that f32 values are worth rounding for it
  bool matrix_tiles;  // AMX: products of bf16 and of bytes go through tiles of kMatrixTileRows

  // Rows [row0, row1) and what `panels` gives of a product. scratch: gemm_scratch bytes, 64-byte aligned.
  void (*gemm)(const GemmJob& job, int64_t row0, int64_t row1, Panels& panels, void* scratch);
  size_t (*gemm_scratch)(int64_t rows, int64_t k);

  // Panels of kind f32 or bf16, one after another, from rows of f32: value (i, p) at from[i * stride + p] or, by columns, at from[p * stride + i].
  void (*pack_f32)(void* panels, WeightKind kind, const float* from, int64_t stride, bool by_columns, int64_t rows,
                   int64_t k);
};

struct KernelTable;

// The whole product on the threads of `workers`.
void gemm(const KernelTable& kernels, const GemmJob& job, Workers& workers);

}  // namespace drivlm::cpu
