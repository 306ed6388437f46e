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

}  // namespace drivlm
