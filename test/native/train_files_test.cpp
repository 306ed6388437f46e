// What training leaves on the disk: rounding, files that are whole or not at all, states, and the bounds of packs.
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

#include "base/numeric.h"
#include "base/output_file.h"
#include "check.h"
#include "train/state_file.h"

namespace drivlm {

namespace {

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/drivlm-train-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~Folder() {
    const std::string command = "rm -rf '" + path_ + "'";
    if (std::system(command.c_str()) != 0) std::cerr << path_ << " stays\n";
  }
  std::string file(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

uint32_t rounded(float v) { return from_float<f16>(v).bits; }

}  // namespace

// Every value of f16 is its own, and halves between two go to the even one; infinity only from 65520 on.
TEST(f16_rounds_to_nearest_even) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(f16{static_cast<uint16_t>(bits)});
    if (std::isnan(value)) {
      CHECK(std::isnan(to_float(from_float<f16>(value))));
      continue;
    }
    CHECK_EQ(rounded(value), bits);
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float next = to_float(f16{static_cast<uint16_t>(bits + 1)}), middle = value + (next - value) / 2;
    CHECK_EQ(rounded(middle), bits % 2 == 0 ? bits : bits + 1);
    CHECK_EQ(rounded(std::nextafterf(middle, value)), bits);
    CHECK_EQ(rounded(std::nextafterf(middle, next)), bits + 1);
  }
  CHECK_EQ(rounded(65519.99f), 0x7bffu);
  CHECK_EQ(rounded(65520.f), 0x7c00u);
  CHECK_EQ(rounded(-1e30f), 0xfc00u);
}

TEST(an_output_file_is_whole_or_not_there) {
  const Folder folder;
  const std::string path = folder.file("out");
  put(path, "old");
  {
    OutputFile out(path);
    out.append("new", 3);
    CHECK_EQ(contents(path), "old");
  }
  CHECK_EQ(contents(path), "old");
  CHECK(::access((path + ".partial").c_str(), F_OK) != 0);
  OutputFile out(path);
  out.append("new", 3);
  out.commit();
  CHECK_EQ(contents(path), "new");
  CHECK_ERROR(Code::bad_data, OutputFile(folder.file("absent/out")));
}

// As on a full disk: the system takes a part, then no more.
TEST(an_output_file_that_cannot_grow_leaves_the_old_one) {
  const Folder folder;
  const std::string path = folder.file("out");
  put(path, "old");
  rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{1000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  {
    OutputFile out(path);
    const std::string much(5000, 'x');
    CHECK_ERROR(Code::bad_data, out.append(much.data(), much.size()));
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK_EQ(contents(path), "old");
  CHECK(::access((path + ".partial").c_str(), F_OK) != 0);
}

TEST(a_state_is_read_as_it_was_written_or_not_at_all) {
  const Folder folder;
  const std::string path = folder.file("state"), key(kStateKeyBytes, 'k');
  std::vector<float> a(100), b(7), c(100), d(7);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i) * 0.1f - 3;
  for (size_t i = 0; i < b.size(); ++i) b[i] = -static_cast<float>(i);
  const auto tensor = [](std::vector<float>& v) {
    return Tensor(v.data(), DType::f32, {static_cast<int64_t>(v.size())});
  };
  write_state(path, key, 12345, {tensor(a), tensor(b)});
  CHECK_EQ(read_state(path, key, {tensor(c), tensor(d)}), 12345);
  CHECK(a == c && b == d);

  std::string other = key;
  other.back() = 'x';
  CHECK_ERROR(Code::bad_data, read_state(path, other, {tensor(c), tensor(d)}));
  CHECK_ERROR(Code::bad_data, read_state(path, key, {tensor(c)}));
  CHECK_ERROR(Code::bad_data, read_state(path, key, {tensor(d), tensor(c)}));
  const std::string whole = contents(path);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    put(path, damaged);
    CHECK_ERROR(Code::bad_data, read_state(path, key, {tensor(c), tensor(d)}));
  }
  for (size_t length : {size_t{0}, size_t{1}, whole.size() / 2, whole.size() - 1}) {
    put(path, whole.substr(0, length));
    CHECK_ERROR(Code::bad_data, read_state(path, key, {tensor(c), tensor(d)}));
  }
}

}  // namespace drivlm
