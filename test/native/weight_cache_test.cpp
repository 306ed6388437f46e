// The cache of packed weights: what is kept comes back, and nothing else does, whatever the file has become.
#include <sys/file.h>
#include <unistd.h>

#include <fcntl.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "check.h"
#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/targets.h"
#include "packed/packed_file.h"

namespace drivlm {
namespace {

namespace fs = std::filesystem;
using State = WeightCacheReport::State;

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "drivlm-cache-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path_); }

  std::string file(const std::string& name = "weights.cache") const { return (path_ / name).string(); }
  int64_t count() const { return std::distance(fs::directory_iterator(path_), fs::directory_iterator()); }

 private:
  fs::path path_;
};

std::vector<char> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

const std::atomic<bool> kGoOn{false};
const std::string kKey(WeightCache::kKeyBytes, 'k');

struct Kept {
  std::string name;
  PackedForm form;
  std::vector<char> bytes;
};

std::vector<Kept> matrices() {
  std::vector<Kept> all = {{"vision.fc1", {1, 2, 0, 32, 4}, std::vector<char>(256)},
                           {"language.head", {1, 3, 1, 64, 9}, std::vector<char>(1000)},
                           {"language.qkv", {1, 3, 0, 1, 1}, std::vector<char>(1)}};
  char next = 0;
  for (Kept& one : all) {
    for (char& byte : one.bytes) byte = next = static_cast<char>(next * 5 + 3);
  }
  return all;
}

struct Load {
  int64_t found = 0;
  WeightCacheReport report;
};

// A load of matrices(): takes what the cache has, adds the rest.
Load load(const std::string& file, const std::string& key = kKey, const std::atomic<bool>& cancel = kGoOn) {
  WeightCache cache({file, key});
  Load result;
  const std::vector<Kept> all = matrices();
  std::vector<std::unique_ptr<Memory>> found;
  for (const Kept& one : all) {
    found.push_back(cache.find(one.name, one.form, one.bytes.size()));
    if (const Memory* memory = found.back().get()) {
      ++result.found;
      CHECK_EQ(memory->bytes, one.bytes.size());
      CHECK_EQ(reinterpret_cast<uintptr_t>(memory->data) % 64, uintptr_t{0});
      CHECK(std::memcmp(memory->data, one.bytes.data(), one.bytes.size()) == 0);
    } else {
      cache.add(one.name, one.form, one.bytes.data(), one.bytes.size());
    }
  }
  result.report = cache.finish(cancel);
  return result;
}

// Matrices taken from a file that is only looked at.
int64_t found_in(const std::string& file, const std::vector<char>& bytes) {
  write_file(file, bytes);
  WeightCache cache({file, kKey});
  int64_t found = 0;
  for (const Kept& one : matrices()) found += cache.find(one.name, one.form, one.bytes.size()) != nullptr;
  return found;
}

// A damaged file: nothing that is wrong is taken, a whole one is written in its place, and the reason is said.
void expect_rebuilt(const std::string& file, const std::vector<char>& damaged) {
  write_file(file, damaged);
  const Load again = load(file);
  CHECK(again.found < 3);
  CHECK(again.report.state == State::written);
  CHECK(!again.report.reason.empty());
  CHECK(load(file).report.state == State::read);
}

constexpr size_t kHeaderBytes = 24 + WeightCache::kKeyBytes, kEntryBytes = 64 + 5 * 8 + 2 * 8 + 16;
constexpr size_t kDirectoryBytes = kHeaderBytes + 3 * kEntryBytes;

// Changes a number of the directory and makes its checksum fit.
std::vector<char> forged(std::vector<char> bytes, size_t at, uint64_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  const Hash128 checksum = hash_bytes(bytes.data(), kDirectoryBytes);
  std::memcpy(bytes.data() + kDirectoryBytes, &checksum, sizeof checksum);
  return bytes;
}

}  // namespace

TEST(weight_cache_keeps) {
  const Folder folder;
  const Load first = load(folder.file()), second = load(folder.file());
  CHECK_EQ(first.found, 0);
  CHECK(first.report.state == State::written);
  CHECK_EQ(first.report.reason, "");
  CHECK_EQ(second.found, 3);
  CHECK(second.report.state == State::read);
  CHECK_EQ(folder.count(), 1);
  CHECK(load("").report.state == State::off);
  CHECK_ERROR(Code::bad_argument, load(folder.file(), "short"));
}

TEST(weight_cache_of_another_key_is_stale) {
  const Folder folder;
  load(folder.file());
  const std::string other(WeightCache::kKeyBytes, 'o');
  const Load stale = load(folder.file(), other);
  CHECK_EQ(stale.found, 0);
  CHECK(stale.report.state == State::written);
  CHECK(stale.report.reason.find("made from other files") != std::string::npos);
  CHECK(load(folder.file(), other).report.state == State::read);
}

TEST(weight_cache_damaged_anywhere_is_rebuilt) {
  const Folder folder;
  const std::string file = folder.file();
  load(file);
  const std::vector<char> whole = read_file(file);
  CHECK(whole.size() > kDirectoryBytes);
  for (size_t at = 0; at < kDirectoryBytes + sizeof(Hash128); ++at) {
    std::vector<char> bytes = whole;
    bytes[at] ^= 0x5a;
    CHECK_EQ(found_in(file, bytes), 0);
    if (at % 101 == 0) expect_rebuilt(file, bytes);
  }
  for (size_t size = 0; size < whole.size(); size += size < kDirectoryBytes + 64 ? 1 : 61) {
    const std::vector<char> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_EQ(found_in(file, part), 0);
    if (size % 101 == 0) expect_rebuilt(file, part);
  }
  std::vector<char> longer = whole;
  longer.push_back(0);
  expect_rebuilt(file, longer);
  // A byte of a matrix: that one is made anew, the others are taken.
  for (const size_t back : {size_t{1}, size_t{100}}) {
    std::vector<char> bytes = whole;
    bytes[bytes.size() - back] ^= 1;
    write_file(file, bytes);
    const Load again = load(file);
    CHECK_EQ(again.found, 2);
    CHECK(again.report.state == State::written);
    CHECK(load(file).report.state == State::read);
  }
}

// Compared ahead by several threads: the same matrices are taken.
TEST(weight_cache_checked_by_threads) {
  const Folder folder;
  const std::string file = folder.file();
  load(file);
  std::vector<char> bytes = read_file(file);
  for (const int64_t wrong : {0, 1}) {
    for (const int threads : {1, 2, 7}) {
      WeightCache cache({file, kKey});
      cache.check(threads, kGoOn);
      int64_t found = 0;
      for (const Kept& one : matrices()) found += cache.find(one.name, one.form, one.bytes.size()) != nullptr;
      CHECK_EQ(found, 3 - wrong);
    }
    bytes.back() ^= 1;
    write_file(file, bytes);
  }
  const std::atomic<bool> cancelled{true};
  WeightCache cache({file, kKey});
  CHECK_ERROR(Code::aborted, cache.check(2, cancelled));
}

// Opened and compared before its key is known.
TEST(weight_cache_checked_ahead) {
  const Folder folder;
  const std::string file = folder.file(), other(WeightCache::kKeyBytes, 'o');
  const auto found_by = [&](const std::shared_ptr<PackedFile>& ahead, const std::string& key) {
    WeightCache cache({file, key, ahead});
    cache.check(2, kGoOn);
    int64_t found = 0;
    for (const Kept& one : matrices()) {
      const auto memory = cache.find(one.name, one.form, one.bytes.size());
      found += memory != nullptr;
      CHECK(!memory || std::memcmp(memory->data, one.bytes.data(), one.bytes.size()) == 0);
    }
    return found;
  };
  const auto open = [&](int threads) {
    auto ahead = std::make_shared<PackedFile>(file);
    if (threads > 0) ahead->begin_check(threads);
    return ahead;
  };
  CHECK_ERROR(Code::bad_weights, open(1));
  load(file);
  const std::vector<char> whole = read_file(file);
  for (const int threads : {0, 1, 3}) {
    CHECK_EQ(found_by(open(threads), kKey), 3);
    CHECK_EQ(found_by(open(threads), other), 0);
    const auto stopped = open(threads);
    stopped->stop_check();
    CHECK_EQ(found_by(stopped, kKey), 3);
    open(threads);  // and closed again
    // Replaced by another process before the load: what is there now is taken.
    const auto stale = open(threads);
    load(folder.file("next"), other);
    fs::rename(folder.file("next"), file);
    CHECK_EQ(found_by(stale, other), 3);
    fs::remove(file);
    write_file(file, whole);
    // Damaged, or cut before or after it was compared.
    std::vector<char> damaged = whole;
    damaged.back() ^= 1;
    write_file(file, damaged);
    CHECK_EQ(found_by(open(threads), kKey), 2);
    write_file(file, whole);
    const auto cut = open(threads);
    cut->check(1, kGoOn);
    fs::resize_file(file, kDirectoryBytes + 100);
    CHECK_EQ(found_by(cut, kKey), 0);
    write_file(file, whole);
  }
  const std::atomic<bool> cancelled{true};
  WeightCache cache({file, kKey, open(2)});
  CHECK_ERROR(Code::aborted, cache.check(2, cancelled));
}

// Larger than what is read at a time, and of no even number of bytes.
TEST(weight_cache_compares_in_pieces) {
  const Folder folder;
  const std::string file = folder.file();
  std::vector<char> bytes((1 << 20) + 77);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  const PackedForm form{1, 2, 0, 32, 4};
  {
    WeightCache cache({file, kKey});
    cache.add("vision.fc1", form, bytes.data(), bytes.size());
    CHECK(cache.finish(kGoOn).state == State::written);
  }
  Checksum sum;
  sum.add(bytes.data(), 640), sum.add(bytes.data() + 640, bytes.size() - 640);
  CHECK(sum.value() == checksum_of(bytes.data(), bytes.size()));
  const std::vector<char> whole = read_file(file);
  const size_t first = whole.size() - bytes.size();
  const auto taken = [&] {
    WeightCache cache({file, kKey});
    const auto memory = cache.find("vision.fc1", form, bytes.size());
    CHECK(!memory || std::memcmp(memory->data, bytes.data(), bytes.size()) == 0);
    return memory != nullptr;
  };
  CHECK(taken());
  for (const size_t at : {size_t{0}, size_t{(256 << 10) - 1}, size_t{256 << 10}, bytes.size() - 78, bytes.size() - 1}) {
    std::vector<char> damaged = whole;
    damaged[first + at] ^= 4;
    write_file(file, damaged);
    CHECK(!taken());
  }
}

// By another process, behind the mapping: found before anything is read where nothing is any more.
TEST(weight_cache_cut_while_it_is_mapped_is_rebuilt) {
  const Folder folder;
  const std::string file = folder.file();
  load(file);
  for (const int threads : {0, 2}) {
    {
      WeightCache cache({file, kKey});
      fs::resize_file(file, kDirectoryBytes + 100);
      if (threads > 0) cache.check(threads, kGoOn);
      for (const Kept& one : matrices()) CHECK(!cache.find(one.name, one.form, one.bytes.size()));
    }
    CHECK(load(file).report.state == State::written);
  }
}

TEST(weight_cache_forged_directory_is_rebuilt) {
  const Folder folder;
  const std::string file = folder.file();
  load(file);
  const std::vector<char> whole = read_file(file);
  constexpr size_t kForm = kHeaderBytes + 64, kOffset = kForm + 40, kBytes = kOffset + 8;
  for (const uint64_t offset : {uint64_t{0}, uint64_t{64}, uint64_t{whole.size()},
                                uint64_t{whole.size() / 64 * 64 + 64}, ~uint64_t{63}, uint64_t{1} << 63}) {
    expect_rebuilt(file, forged(whole, kOffset, offset));
  }
  uint64_t good;
  std::memcpy(&good, whole.data() + kOffset, sizeof good);
  expect_rebuilt(file, forged(whole, kOffset, good + 1));
  for (const uint64_t bytes :
       {uint64_t{0}, uint64_t{255}, uint64_t{257}, uint64_t{whole.size()}, ~uint64_t{0}, uint64_t{1} << 63}) {
    expect_rebuilt(file, forged(whole, kBytes, bytes));
  }
  for (const uint64_t entries : {uint64_t{0}, uint64_t{2}, uint64_t{4}, uint64_t{1} << 16, ~uint64_t{0}}) {
    expect_rebuilt(file, forged(whole, 16, entries));
  }
  expect_rebuilt(file, forged(whole, kForm, 2));  // another packing
  std::vector<char> endless = whole;
  std::memset(endless.data() + kHeaderBytes, 'x', 64);  // a name without an end
  expect_rebuilt(file, forged(endless, kOffset, good));
}

TEST(weight_cache_leaves_nothing_half_written) {
  const Folder folder;
  const std::string file = folder.file();
  const std::atomic<bool> cancelled{true};
  CHECK_ERROR(Code::aborted, load(file, kKey, cancelled));
  CHECK_EQ(folder.count(), 0);

  // Of writers: one was killed, one is at work.
  const std::string left = file + ".0123456789abcdef.tmp", busy = file + ".fedcba9876543210.tmp",
                    other = file + ".old.tmp";
  for (const std::string& name : {left, busy, other}) write_file(name, std::vector<char>(100, 'x'));
  const int fd = ::open(busy.c_str(), O_RDONLY);
  CHECK_EQ(::flock(fd, LOCK_EX), 0);
  CHECK(load(file).report.state == State::written);
  CHECK(!fs::exists(left));
  CHECK(fs::exists(busy));
  CHECK(fs::exists(other));
  ::close(fd);
}

// Each looks for files that were left behind while the others make theirs.
TEST(weight_cache_of_writers_at_once_is_written_by_each) {
  const Folder folder;
  std::atomic<int64_t> others{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 60; ++k) {
        if (load(folder.file(), std::string(WeightCache::kKeyBytes, static_cast<char>('a' + (i + k) % 7)))
                .report.state == State::none)
          ++others;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(others.load(), int64_t{0});
  CHECK_EQ(folder.count(), int64_t{1});
}

TEST(weight_cache_that_cannot_be_written) {
  const Folder folder;
  fs::create_directory(folder.file("folder"));
  for (const std::string& file : {folder.file("folder"), folder.file("absent/weights.cache")}) {
    const Load refused = load(file);
    CHECK(refused.report.state == State::none);
    CHECK(refused.report.reason.find("cannot be") != std::string::npos);
  }
  CHECK_EQ(folder.count(), 1);
}

// A cache that one target has written serves every other: packing depends on none.
TEST(weight_cache_of_any_target) {
  constexpr int64_t kRows = 70, kCols = 100;
  std::vector<float> values(kRows * kCols);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(static_cast<int>(i * 7919 % 2003) - 1001) / 1000;
  for (const WeightFormat weights : {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
    const Folder folder;
    State expected = State::written;
    for (const cpu::Target& target : cpu::targets()) {
      if (!target.supported) continue;
      PackedCpuDevice device(2, *target.kernels, CpuFormat{weights, false});
      WeightCache cache({folder.file(), kKey}), off({});
      std::vector<std::unique_ptr<Matrix>> all;
      for (WeightCache* one : {&cache, &off}) {
        const auto host = [&](const char* role) {
          return HostTensor{std::string("language.layers.0.") + role,
                            DType::f32,
                            kRows,
                            kCols,
                            {{values.data(), kRows}},
                            Use::decoder,
                            one};
        };
        all.push_back(device.load_matrix(host("down.weight")));
        all.push_back(device.load_gated(host("gate.weight"), host("up.weight")));
      }
      CHECK(cache.finish(kGoOn).state == expected);
      expected = State::read;
      for (size_t i = 0; i < 2; ++i) {
        const auto &kept = dynamic_cast<const PackedMatrix&>(*all[i]),
                   &made = dynamic_cast<const PackedMatrix&>(*all[i + 2]);
        CHECK_EQ(kept.gated, i == 1);
        CHECK(std::memcmp(kept.panels(), made.panels(), PackedMatrix::bytes(made.kind, made.rows, made.cols)) == 0);
      }
    }
  }
}

}  // namespace drivlm
