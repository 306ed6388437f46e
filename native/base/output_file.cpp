#include "base/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace drivlm {

namespace {

Error failed(const std::string& path) {
  const bool full = errno == ENOSPC || errno == EDQUOT;
  return Error(Code::bad_data, path + ": cannot be written (" + std::strerror(errno) + ")." +
                                   (full ? " Make room there, or choose another output folder." : ""));
}

}  // namespace

OutputFile::OutputFile(const std::string& path) : path_(path), partial_(path + ".partial") {
  fd_ = ::open(partial_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
  if (fd_ < 0) throw failed(partial_);
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_.c_str());
}

void OutputFile::append(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd_, from, std::min<size_t>(bytes, size_t{16} << 20));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw failed(partial_);
    from += written;
    bytes -= written;
  }
}

void OutputFile::commit() {
  if (::fsync(fd_) != 0) throw failed(partial_);
  if (::rename(partial_.c_str(), path_.c_str()) != 0) throw failed(path_);
  ::close(fd_);
  fd_ = -1;
  const size_t cut = path_.rfind('/');
  const std::string folder = cut == std::string::npos ? "." : path_.substr(0, cut + 1);
  const int handle = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return;
  ::fsync(handle);
  ::close(handle);
}

}  // namespace drivlm
