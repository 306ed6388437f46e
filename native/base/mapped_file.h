// A file mapped read-only. A file that shrinks while mapped makes reads of the lost part fatal (SIGBUS): README says so.
#pragma once

#include <cstdint>
#include <string>

namespace drivlm {

class MappedFile {
 public:
  // Throws BAD_WEIGHTS unless `path` is a regular file of exactly `expected_bytes`.
  MappedFile(const std::string& path, int64_t expected_bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

  // Copies the range, by reads of the file: for what is looked at once, where mapping its pages would cost more than the copy. Throws
  // BAD_WEIGHTS if the file has become shorter or cannot be read.
  void read(int64_t offset, void* to, int64_t bytes) const;

  // Gives the pages wholly inside the range back; a later read maps them again.
  void drop(int64_t offset, int64_t bytes) const;

 private:
  std::string path_;
  int fd_ = -1;
  const char* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace drivlm
