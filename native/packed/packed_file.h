// Packed weights on disk: one file that a load leaves behind and the next one maps in place of packing.
//
//   Header     magic, bytes of the file, entries, key
//   Entry ...  name, form, place and checksum of each matrix
//   Hash128    of the header and the entries
//   ...        the matrices' bytes, each at a multiple of 64
//
// All numbers are of this machine's byte order, as the packed bytes are; elsewhere the magic differs.
//
// Trust      Nothing in a file is believed before it is checked: the directory by its checksum, and each place, size and form again on its
//            own, since a checksum can be made to fit; a matrix's bytes by theirs. What fails is packed anew. Any bytes are safe to compute
//            with, but a file that shrinks while it is mapped is fatal as the checkpoint's own are (mapped_file.h).
// Writing    Under a name of its own in the same folder, the header last, fsync, then renamed: under the final name there is never a part
//            of a file, and any number of processes may do so at once. A writer that was killed leaves a file that nobody has locked;
//            the next writer removes it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "device/device.h"

namespace drivlm {

// A file of packed weights that is mapped, with a whole directory. Its matrices may be compared with their checksums before it is known
// whether it is the right file.
class PackedFile {
 public:
  static constexpr size_t kKeyBytes = 64;

  struct Place {
    PackedForm form;
    uint64_t offset, bytes;
    Hash128 checksum;
    std::optional<bool> right;  // once compared: whether the bytes are what was written
  };

  // Throws BAD_WEIGHTS with a sentence about what is wrong.
  explicit PackedFile(const std::string& path);
  ~PackedFile();  // ends what begin_check() has begun

  // What the file was made from.
  const std::string& key() const { return key_; }
  const std::shared_ptr<const MappedFile>& mapped() const { return mapped_; }

  // Compares on `threads` threads, and returns.
  void begin_check(int threads);
  void stop_check();  // soon; waits for nobody
  // Compares what is left, on up to `threads` threads with those that have begun. Throws ABORTED when `cancel` becomes true.
  void check(int threads, const std::atomic<bool>& cancel);

  // After check(), or without one. Null if there is no such matrix.
  const Place* find(const std::string& name) const;
  // Whether its bytes are what was written; compares them unless a check did.
  bool right(const Place& place) const;

 private:
  void parse();
  void work(const std::atomic<bool>* cancel);
  void add_threads(int threads);
  void join();
  std::optional<bool> compare(const Place& place, std::vector<char>& piece, const std::atomic<bool>* cancel) const;

  std::shared_ptr<const MappedFile> mapped_;
  std::string key_;
  std::map<std::string, Place> places_;
  std::vector<Place*> order_;  // that of a check
  std::atomic<size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// Where packed weights are kept, and what they were made from.
struct WeightCachePlace {
  std::string file;                             // empty: nowhere
  std::string key;                              // kKeyBytes characters; a file with another key is stale
  std::shared_ptr<PackedFile> ahead = nullptr;  // `file` as it was opened before the key was known, if it was
};

// What came of it.
struct WeightCacheReport {
  enum class State { off, read, written, none };  // none: neither could be
  State state = State::off;
  std::string reason;  // a sentence: why it was made anew though there was one, or why there is none
};

class WeightCache final : public PackedStore {
 public:
  static constexpr size_t kKeyBytes = PackedFile::kKeyBytes;

  // Maps the file if there is one and its directory is whole. Throws BAD_ARGUMENT for a key of another length only.
  explicit WeightCache(const WeightCachePlace& place);

  bool on() const override { return !place_.file.empty(); }

  // Compares all matrices with their checksums, on up to `threads` threads; find() then takes what was right. Without, find() compares. Throws
  // ABORTED when `cancel` becomes true.
  void check(int threads, const std::atomic<bool>& cancel);

  std::unique_ptr<Memory> find(const std::string& name, const PackedForm& form, size_t bytes) override;
  void add(const std::string& name, const PackedForm& form, const void* data, size_t bytes,
           std::shared_ptr<const void> owner = nullptr) override;

  // Writes the file if a matrix was not found in it. Throws ABORTED when `cancel` becomes true; every other failure is in the report.
  WeightCacheReport finish(const std::atomic<bool>& cancel);

 private:
  struct Kept {
    std::string name;
    PackedForm form;
    const void* data;
    size_t bytes;
    Hash128 checksum;  // of a kept matrix that was found
    bool found;
    std::shared_ptr<const void> owner;
  };
  void write(const std::atomic<bool>& cancel) const;

  const WeightCachePlace place_;
  std::shared_ptr<PackedFile> packed_;  // null: none that fits
  std::vector<Kept> kept_;
  std::string reason_;
};

}  // namespace drivlm
