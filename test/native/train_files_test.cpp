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
#include "train/tower_cache.h"

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

namespace {

constexpr int64_t kValues = 5;

struct Tile {
  Hash128 hash;
  float values[kValues];
  Tensor tensor() { return Tensor(values, DType::f32, {kValues}); }
};

std::vector<Tile> some_tiles() {
  std::vector<Tile> tiles(3);
  for (size_t i = 0; i < tiles.size(); ++i) {
    tiles[i].hash = {i, 7 * i + 1};
    for (int64_t j = 0; j < kValues; ++j) tiles[i].values[j] = static_cast<float>(10 * i + j);
  }
  return tiles;
}

// How many of the tiles are found, with their values; one that is found with others ends the test.
int64_t found_in(const std::string& path, const std::string& key, std::vector<Tile> tiles) {
  TowerCache cache(path, key, kValues, 1 << 20);
  int64_t count = 0;
  for (Tile& tile : tiles) {
    Tile read{};
    if (!cache.find(tile.hash, read.tensor())) continue;
    CHECK(std::memcmp(read.values, tile.values, sizeof tile.values) == 0);
    ++count;
  }
  return count;
}

}  // namespace

TEST(a_towers_values_are_found_as_they_were_kept_or_not_at_all) {
  const Folder folder;
  const std::string path = folder.file("tower"), key(kStateKeyBytes, 'k');
  std::vector<Tile> tiles = some_tiles();
  {
    TowerCache cache(path, key, kValues, 1 << 20);
    Tile none{};
    CHECK(!cache.find(tiles[0].hash, none.tensor()));
    for (Tile& tile : tiles) cache.add(tile.hash, tile.tensor());
    cache.add(tiles[0].hash, tiles[1].tensor());  // is there: kept as it was
    CHECK_EQ(cache.has({9, 9}), false);
  }
  const std::string whole = contents(path);
  CHECK_EQ(static_cast<int64_t>(whole.size()), TowerCache::bytes(kValues, 3));
  CHECK_EQ(found_in(path, key, tiles), 3);

  const int64_t head = TowerCache::bytes(kValues, 0);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    put(path, damaged);
    CHECK_EQ(found_in(path, key, tiles), static_cast<int64_t>(i) < head ? 0 : 2);
  }
  for (size_t length = 0; length < whole.size(); ++length) {
    put(path, whole.substr(0, length));
    const int64_t left = (static_cast<int64_t>(length) - head) / (TowerCache::bytes(kValues, 1) - head);
    CHECK_EQ(found_in(path, key, tiles), std::max<int64_t>(0, left));
    TowerCache cache(path, key, kValues, 1 << 20);  // goes on behind what is whole
    for (Tile& tile : tiles) cache.add(tile.hash, tile.tensor());
    CHECK(contents(path) == whole);
  }
  std::string other = key;
  other.back() = 'x';
  CHECK_EQ(found_in(path, other, tiles), 0);
  CHECK_EQ(static_cast<int64_t>(contents(path).size()), head);
  CHECK_ERROR(Code::bad_data, TowerCache(folder.file("absent/tower"), key, kValues, 1 << 20));
  CHECK_ERROR(Code::bad_data, TowerCache(folder.file(""), key, kValues, 1 << 20));
}

TEST(a_towers_file_keeps_to_its_limit_and_goes_when_the_disk_is_full) {
  const Folder folder;
  const std::string path = folder.file("tower"), key(kStateKeyBytes, 'k');
  std::vector<Tile> tiles = some_tiles();
  {
    TowerCache cache(path, key, kValues, TowerCache::bytes(kValues, 2));
    for (Tile& tile : tiles) cache.add(tile.hash, tile.tensor());
    CHECK(cache.has(tiles[1].hash) && !cache.has(tiles[2].hash));
  }
  rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{static_cast<rlim_t>(TowerCache::bytes(kValues, 2)) + 40, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  {
    TowerCache cache(path, key, kValues, 1 << 20);
    CHECK(cache.has(tiles[1].hash));
    cache.add(tiles[2].hash, tiles[2].tensor());
    for (Tile& tile : tiles) CHECK(!cache.has(tile.hash));
    cache.add(tiles[0].hash, tiles[0].tensor());
    CHECK(!cache.find(tiles[0].hash, tiles[0].tensor()));
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(::access(path.c_str(), F_OK) != 0);
}

}  // namespace drivlm
