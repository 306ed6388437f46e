// What a frozen tower gives, kept in a file of the run: a tile that was seen once does not go through the tower again.
//
//   header, then for each tile: its hash, a checksum of its values, its values in f32
//
// It is a help, never needed: of another key it is made anew, a record that was cut off is written over, a damaged one is not found, and where the disk
// is full the file goes, so that the state of the run has the room.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/hash.h"
#include "base/tensor.h"
#include "train/state_file.h"

namespace drivlm {

class TowerCache {
 public:
  // `key`: kStateKeyBytes characters that say which tower, and how it is computed. `values`: of a tile. The file takes `max_bytes` at most. One
  // process at a time; the run's folder is locked. Throws BAD_DATA if it cannot be opened for writing.
  TowerCache(const std::string& path, const std::string& key, int64_t values, int64_t max_bytes);
  ~TowerCache();
  TowerCache(const TowerCache&) = delete;
  TowerCache& operator=(const TowerCache&) = delete;

  // Bytes of the file for so many tiles.
  static int64_t bytes(int64_t values, int64_t tiles);

  bool has(const Hash128& tile) const { return places_.contains(tile); }

  // Reads the values of a tile into `to`; false if there are none, or damaged ones: those are forgotten, and `to` may hold anything.
  bool find(const Hash128& tile, const Tensor& to);

  // errno of the write that failed, after which the file is gone and nothing is kept; 0 if none did.
  int error() const { return error_; }

  // Keeps the values of a tile, if there is room.
  void add(const Hash128& tile, const Tensor& values);

 private:
  void begin(const std::string& key);
  void give_up();

  const std::string path_;
  const int64_t values_, max_bytes_;
  int fd_;  // -1: given up
  int error_ = 0;
  int64_t end_ = 0;  // of the last whole record
  std::map<Hash128, int64_t> places_;
};

}  // namespace drivlm
