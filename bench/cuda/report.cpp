#include "report.h"

#include <algorithm>
#include <cmath>

namespace drivlm::gpu {

namespace {

double quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  const double at = part * static_cast<double>(values.size() - 1);
  const size_t low = static_cast<size_t>(at), high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

// Seconds of the tensor cores at these peaks.
double matrix_seconds(const Work& work, const Peaks& peaks) {
  return (work.flops > 0 ? work.flops / (peaks.matrix_tflops * 1e12) : 0) +
         (work.byte_ops > 0 ? work.byte_ops / (peaks.byte_tops * 1e12) : 0);
}

// Seconds below which the work cannot be done at these peaks; 0 where nothing is known.
double floor_seconds(const Row& row, const Peaks& peaks) {
  if (peaks.matrix_tflops <= 0 || peaks.byte_tops <= 0 || peaks.copy_gbs <= 0) return 0;
  return std::max(matrix_seconds(row.work, peaks), row.work.bytes / (peaks.copy_gbs * 1e9));
}

std::string list(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : ", ") + part;
  return "[" + out + "]";
}

std::vector<std::string> quoted_all(const std::vector<std::string>& texts) {
  std::vector<std::string> out;
  for (const std::string& one : texts) out.push_back(quoted(one));
  return out;
}

std::string row_json(const Row& row, const Peaks& peaks) {
  const std::string start = "{\"name\": " + quoted(row.name) + ", \"unit\": " + quoted(row.unit);
  if (row.values.empty()) {
    return start + ", \"value\": null, \"floor\": null, \"share\": null, \"skipped\": " + quoted(row.skipped) + "}";
  }
  const double value = median(row.values), floor = floor_seconds(row, peaks);
  const bool timed = row.seconds > 0 && floor > 0;
  // The floor in the row's unit: a time shrinks with the share, a rate grows.
  const double share = timed ? floor / row.seconds : 0;
  std::string out = start + ", \"value\": " + number(value);
  out += ", \"floor\": " + (timed ? number(row.unit == "tok/s" ? value / share : value * share) : "null");
  out += ", \"share\": " + (timed ? number(share) : "null");
  out += ", \"p10\": " + number(quantile(row.values, 0.1)) + ", \"p90\": " + number(quantile(row.values, 0.9));
  out += ", \"runs\": " + std::to_string(row.values.size());
  if (row.cold > 0) out += ", \"cold\": " + number(row.cold);
  if (row.seconds > 0 && row.work.bytes > 0) {
    const double gbs = row.work.bytes / row.seconds / 1e9;
    out += ", \"gbs\": " + number(gbs) + ", \"copy_share\": " + number(peaks.copy_gbs > 0 ? gbs / peaks.copy_gbs : NAN);
  }
  if (const double operations = row.work.flops + row.work.byte_ops; row.seconds > 0 && operations > 0) {
    out += ", \"tflops\": " + number(operations / row.seconds / 1e12) +
           ", \"matrix_share\": " + number(matrix_seconds(row.work, peaks) / row.seconds);
  }
  return out + "}";
}

}  // namespace

double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += std::string("\\") + c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += drivlm::text("\\u%04x", c);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string number(double value) { return std::isfinite(value) ? drivlm::text("%.6g", value) : "null"; }

std::string Report::json() const {
  std::vector<std::string> case_list, row_list;
  size_t failed_cases = 0;
  for (const auto& one : cases) {
    failed_cases += !one.failures.empty();
    case_list.push_back("\n    {\"name\": " + quoted(one.name) + ", \"ok\": " +
                        (one.failures.empty() ? "true" : "false") + ", \"seconds\": " + number(one.seconds) +
                        (one.failures.empty() ? "" : ", \"failures\": " + list(quoted_all(one.failures))) + "}");
  }
  for (const Row& row : rows) row_list.push_back("\n    " + row_json(row, peaks));
  std::string out = "{\n  \"device\": " + device_json + ",\n";
  out += std::string("  \"small\": ") + (small ? "true" : "false") + ",\n";
  out += "  \"peaks\": {\"copy_gbs\": " + number(peaks.copy_gbs) +
         ", \"matrix_tflops\": " + number(peaks.matrix_tflops) + ", \"byte_tops\": " + number(peaks.byte_tops) +
         ", \"to_device_gbs\": " + number(peaks.to_device_gbs) +
         ", \"from_device_gbs\": " + number(peaks.from_device_gbs) + "},\n";
  out += "  \"cases\": {\"passed\": " + std::to_string(cases.size() - failed_cases) +
         ", \"failed\": " + std::to_string(failed_cases) + ", \"list\": " + list(case_list) + "},\n";
  out += "  \"rows\": " + list(row_list) + ",\n";
  out += "  \"failed\": " + list(quoted_all(failed)) + ",\n  \"skipped\": " + list(quoted_all(skipped)) + "\n}\n";
  return out;
}

std::string Report::table() const {
  std::string out =
      drivlm::text("%-42s %10s %-5s %8s %8s %9s %9s\n", "row", "median", "unit", "floor %", "GB/s", "TFLOP/s", "first");
  for (const Row& row : rows) {
    if (row.values.empty()) {
      out +=
          drivlm::text("%-42s %10s %-5s skipped: %s\n", row.name.c_str(), "-", row.unit.c_str(), row.skipped.c_str());
      continue;
    }
    const double floor = floor_seconds(row, peaks);
    const double operations = row.work.flops + row.work.byte_ops;
    const auto cell = [](double value, bool known, int digits) {
      return known ? drivlm::text("%.*g", digits, value) : std::string("-");
    };
    out += drivlm::text("%-42s %10.4g %-5s %8s %8s %9s %9s\n", row.name.c_str(), median(row.values), row.unit.c_str(),
                        cell(100 * floor / row.seconds, floor > 0 && row.seconds > 0, 3).c_str(),
                        cell(row.work.bytes / row.seconds / 1e9, row.work.bytes > 0 && row.seconds > 0, 4).c_str(),
                        cell(operations / row.seconds / 1e12, operations > 0 && row.seconds > 0, 4).c_str(),
                        cell(row.cold, row.cold > 0, 4).c_str());
  }
  return out;
}

}  // namespace drivlm::gpu
