// A 128-bit hash of pixels: two tiles of one hash are taken for the same tile. Two independent multiply-mix lanes of 64 bits
// (the folded 64 x 64 -> 128 product of wyhash-like hashes); not for adversaries, and nothing secret depends on it.
#pragma once

#include <cstdint>
#include <cstring>

namespace drivlm {

struct Hash128 {
  uint64_t a = 0, b = 0;
  auto operator<=>(const Hash128&) const = default;
};

inline Hash128 hash_bytes(const void* data, size_t bytes) {
  auto fold = [](uint64_t x, uint64_t y) {
    const unsigned __int128 product = static_cast<unsigned __int128>(x) * y;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  constexpr uint64_t k[4] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93};
  Hash128 h{bytes ^ k[0], ~bytes ^ k[1]};
  const char* p = static_cast<const char*>(data);
  for (; bytes > 0;) {
    uint64_t word[2] = {0, 0};
    const size_t take = bytes < 16 ? bytes : 16;
    std::memcpy(word, p, take);
    h.a = fold(h.a ^ word[0] ^ k[0], word[1] ^ k[2] ^ (h.a >> 29));
    h.b = fold(h.b ^ word[1] ^ k[1], word[0] ^ k[3] ^ (h.b >> 31));
    p += take;
    bytes -= take;
  }
  return {fold(h.a ^ k[2], h.b ^ k[3]), fold(h.b ^ k[0], h.a ^ k[1])};
}

// Of many bytes that lie on a disk: against damage, not forgery. Four lanes of one multiplication for 16 bytes each, since the chain of
// hash_bytes is bound by the latency of its multiplications: 806 MB in page cache take a fifth of its time.
class Checksum {
 public:
  // Pieces one after the other; each but the last has a multiple of 64 bytes.
  void add(const void* data, size_t bytes) {
    uint64_t lanes[4] = {lanes_[0], lanes_[1], lanes_[2], lanes_[3]};
    const char* from = static_cast<const char*>(data);
    const size_t blocks = bytes / 64;
    for (size_t i = 0; i < blocks; ++i, from += 64) {
      uint64_t words[8];
      std::memcpy(words, from, sizeof words);
      for (int lane = 0; lane < 4; ++lane) {
        const auto product =
            static_cast<unsigned __int128>(words[2 * lane] ^ lanes[lane]) * (words[2 * lane + 1] ^ 0xd1b54a32d192ed03);
        lanes[lane] = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64) ^ words[2 * lane];
      }
    }
    std::memcpy(lanes_, lanes, sizeof lanes);
    tail_ = hash_bytes(from, bytes % 64);
  }

  Hash128 value() const {
    const uint64_t all[6] = {lanes_[0], lanes_[1], lanes_[2], lanes_[3], tail_.a, tail_.b};
    return hash_bytes(all, sizeof all);
  }

 private:
  uint64_t lanes_[4] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93};
  Hash128 tail_ = hash_bytes(nullptr, 0);
};

inline Hash128 checksum_of(const void* data, size_t bytes) {
  Checksum sum;
  sum.add(data, bytes);
  return sum.value();
}

}  // namespace drivlm
