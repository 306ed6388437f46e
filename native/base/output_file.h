// A file that is there whole or not at all: written beside its place, and renamed.
#pragma once

#include <string>

namespace drivlm {

class OutputFile {
 public:
  // Begins `path` + ".partial", over what a killed writer left of it. One writer a path at a time. Throws BAD_DATA, as all of these.
  explicit OutputFile(const std::string& path);
  ~OutputFile();  // without commit: removes it
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(const void* data, size_t bytes);

  // On the disk, and in its place; what stood there is gone.
  void commit();

 private:
  const std::string path_, partial_;
  int fd_;
};

}  // namespace drivlm
