// A network and what it must give, in one plain file that scripts/dump-network.mjs writes: lines of text, then bytes.
//
//   drivlm network 1
//   <key> <number> ...                      of the description, e.g. vision.dim 64
//   file <bytes> <path>                     a file of weights
//   tensor <role> <type> <rank> <extents> <spans> [<file> <offset> <rows> <type>] ...
//   array <name> <type> <rank> <extents> <offset>      e.g. c1.ids, c1.tiles, c1.expect.projector
//   data <position of the bytes in this file>
//
// Test input that this repository made itself: a line that is not understood throws, and nothing more is promised.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "network/description.h"

namespace drivlm::test {

struct Array {
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;

  int64_t count() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
};

struct Dump {
  ModelSource source;
  std::map<std::string, Array> arrays;

  const Array* find(const std::string& name) const {
    const auto found = arrays.find(name);
    return found == arrays.end() ? nullptr : &found->second;
  }
};

Dump read_dump(const std::string& path);

}  // namespace drivlm::test
