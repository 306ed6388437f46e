// What a run found, as a table for people and as JSON for files: rows as bench/README.md describes them.
#pragma once

#include <string>
#include <vector>

#include "../../test/emulator/testing.h"

namespace drivlm::gpu {

// What the card can do, measured in the same run. GB/s is 1e9.
struct Peaks {
  double copy_gbs = 0;         // device to device, bytes read and written
  double matrix_tflops = 0;    // mma.sync in bf16 from registers
  double byte_tops = 0;        // and of bytes
  double to_device_gbs = 0;    // from pinned memory
  double from_device_gbs = 0;  // to pinned memory
};

// What work takes at least; zeros: no floor.
struct Work {
  double flops = 0, bytes = 0;
  double byte_ops = 0;  // operations of products of bytes, beside flops
};

struct Row {
  std::string name;
  std::string unit;            // us, ms, tok/s, s or MiB
  std::vector<double> values;  // warm runs
  double cold = 0;             // 0: not told apart
  double seconds = 0;          // median time of the work below
  Work work;
  std::string skipped;  // why there are no values
};

struct Report {
  bool small = false;
  std::string device_json;  // what `describe` found, an object
  Peaks peaks;
  std::vector<test::CaseOutcome> cases;
  std::vector<Row> rows;
  std::vector<std::string> failed, skipped;  // sentences

  std::string json() const;
  std::string table() const;  // of the rows
};

std::string quoted(const std::string& text);
std::string number(double value);  // null unless finite
double median(std::vector<double> values);

}  // namespace drivlm::gpu
