// Weights that are read where their file is mapped: what was given back is read again, and a process does not come to hold the file.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "check.h"
#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/targets.h"

namespace drivlm {
namespace {

constexpr int64_t kRows = 4096, kCols = 512;  // 8 MiB of f32

float value(int64_t row, int64_t col) { return static_cast<float>((row * 7 + col * 13) % 251 - 125) / 64.0f; }

// A file of one matrix, gone with the test.
class MatrixFile {
 public:
  MatrixFile() {
    std::string pattern = (std::filesystem::temp_directory_path() / "drivlm-mapped-XXXXXX").string();
    ::close(::mkstemp(pattern.data()));
    path_ = pattern;
    std::vector<float> values;
    for (int64_t i = 0; i < kRows * kCols; ++i) values.push_back(value(i / kCols, i % kCols));
    std::ofstream(path_, std::ios::binary).write(reinterpret_cast<const char*>(values.data()), kBytes);
    file_ = std::make_unique<MappedFile>(path_, kBytes);
  }
  ~MatrixFile() { std::filesystem::remove(path_); }

  // In two runs, as a tensor that a checkpoint keeps in two places.
  HostTensor tensor(const std::string& name) const {
    constexpr int64_t kFirst = 1001;
    return {name,
            DType::f32,
            kRows,
            kCols,
            {{file_->data(), kFirst, file_.get()}, {file_->data() + kFirst * kCols * 4, kRows - kFirst, file_.get()}}};
  }

  void cut(int64_t bytes) const { std::filesystem::resize_file(path_, bytes); }

  // KiB of the file that this process holds.
  int64_t held() const {
    std::ifstream maps("/proc/self/smaps");
    bool ours = false;
    for (std::string line; std::getline(maps, line);) {
      if (line.find(path_) != std::string::npos) ours = true;
      long long kib;
      if (ours && std::sscanf(line.c_str(), "Rss: %lld kB", &kib) == 1) return kib;
    }
    return -1;
  }

  static constexpr int64_t kBytes = kRows * kCols * 4;

 private:
  std::string path_;
  std::unique_ptr<MappedFile> file_;
};

TEST(mapped_matrix_drops_and_reads_again) {
  const MatrixFile file;
  const MappedMatrix matrix(file.tensor("table"));
  std::vector<float> row(kCols);
  const auto right = [&] {
    for (int64_t r = 0; r < kRows; ++r) {
      matrix.row(r, row.data());
      for (int64_t c = 0; c < kCols; ++c) {
        if (row[c] != value(r, c)) return false;
      }
    }
    return true;
  };
  CHECK(right());
  CHECK(file.held() >= MatrixFile::kBytes / 1024);
  matrix.drop(900, 300);  // across the runs' border
  CHECK(file.held() < MatrixFile::kBytes / 1024 && file.held() > 0);
  CHECK(right());
  matrix.drop(0, kRows);
  CHECK(file.held() < MatrixFile::kBytes / 1024 / 16);
  CHECK(right());
}

TEST(mapped_matrix_reads_rows_without_mapping_them) {
  const MatrixFile file;
  const MappedMatrix matrix(file.tensor("table"));
  std::vector<float> rows(300 * kCols);
  matrix.read(900, 300, reinterpret_cast<char*>(rows.data()));  // across the runs' border
  for (int64_t i = 0; i < 300 * kCols; ++i) CHECK(rows[i] == value(900 + i / kCols, i % kCols));
  CHECK_EQ(file.held(), 0);
  file.cut(MatrixFile::kBytes - 1);
  matrix.read(kRows - 2, 1, reinterpret_cast<char*>(rows.data()));
  CHECK_ERROR(Code::bad_weights, matrix.read(kRows - 1, 1, reinterpret_cast<char*>(rows.data())));
}

TEST(mapped_matrix_of_other_memory_is_never_dropped) {
  std::vector<float> values(kRows * kCols);
  for (int64_t i = 0; i < kRows * kCols; ++i) values[i] = value(i / kCols, i % kCols);
  const MappedMatrix matrix(HostTensor{"table", DType::f32, kRows, kCols, {{values.data(), kRows}}});
  matrix.drop(0, kRows);
  std::vector<float> row(kCols);
  matrix.row(kRows - 1, row.data());
  for (int64_t c = 0; c < kCols; ++c) CHECK(row[c] == value(kRows - 1, c));
}

TEST(packing_holds_nothing_of_the_file) {
  const MatrixFile file;
  PackedCpuDevice device(2, *cpu::chosen_target().kernels, {});
  const auto matrix = device.load_matrix(file.tensor("language.head"));
  CHECK_EQ(file.held(), 0);  // it reads, and maps nothing
  const auto table = device.load_table(file.tensor("language.embedding"));
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < kRows; ++i) ids.push_back((i * 1237) % kRows);
  std::vector<bf16> out(ids.size() * kCols);
  device.ops().gather(Tensor(out.data(), DType::bf16, {kRows, kCols}), ids.data(), kRows, *table);
  for (int64_t i = 0; i < kRows; ++i)
    CHECK(to_float(out[i * kCols + 5]) == to_float(from_float<bf16>(value(ids[i], 5))));
  CHECK(file.held() < MatrixFile::kBytes / 1024 / 16);
}

}  // namespace
}  // namespace drivlm
