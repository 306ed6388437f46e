// Rotary position embedding: angles are computed on the host in f32, as the reference does. Those of every position stand in a table on
// the device from load on; only where a pass is too long for them, its own are computed for it. spec/model.md 3.5.
#pragma once

#include <vector>

#include "device/arena.h"
#include "device/device.h"
#include "network/description.h"

namespace drivlm {

// Instead of a regime: that of each position's own length.
constexpr int64_t kRopePerRow = -1;

class Rope {
 public:
  // Takes the table from the arena and fills it, unless the arena only measures. For sequences of up to `context` tokens and passes of up to
  // `max_rows` rows.
  Rope(const RopeConfig& config, int64_t head_dim, int64_t context, int64_t max_rows, Device& device, Arena& arena);

  // Which frequencies a forward pass uses when its last token makes the sequence `length` long. Keys of equal
  // regimes can stand in one cache; a prompt is rotated under one regime, that of its whole length.
  int64_t regime(int64_t length) const;

  // False when every length up to the context's has regime 0.
  bool depends_on_length() const { return regime(context_) != 0; }

  // f32 [rows, head_dim], on the device: head_dim / 2 cosines, then sines. Positions under regime 0 come first, row p for position p; then the
  // rows of the pass that need another regime.
  Tensor table() const { return table_; }

  // The table's rows for a pass, between begin_pass and end_pass: those of positions past .. past + rows under `regime` or kRopePerRow
  // follow one another from the row that is returned.
  void begin_pass() { pass_.clear(); }
  int64_t first_row(int64_t past, int64_t rows, int64_t regime);
  void end_pass();

 private:
  void frequencies(std::vector<float>& out, int64_t regime) const;
  void append(std::vector<float>& rows, int64_t position, const std::vector<float>& inverse) const;

  RopeConfig config_;
  int64_t half_, context_;
  Device& device_;
  int64_t positions_;         // rows of regime 0
  Tensor table_;              // [positions_, and max_rows if other regimes exist]
  std::vector<float> pass_;   // rows of this pass after those, on the host
  std::vector<float> other_;  // frequencies of the last other regime asked for
  int64_t other_regime_ = 0;
};

}  // namespace drivlm
