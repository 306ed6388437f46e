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

  // The whole range is about to be read: maps its pages in one go, which costs less than a fault for every few of them. May do nothing.
  void expect(int64_t offset, int64_t bytes) const;

  // Gives the pages wholly inside the range back; a later read maps them again.
  void drop(int64_t offset, int64_t bytes) const;

 private:
  std::string path_;
  const char* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace drivlm
