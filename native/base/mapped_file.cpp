#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace drivlm {

MappedFile::MappedFile(const std::string& path, int64_t expected_bytes) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // non-blocking: a pipe must not hang us
  if (fd < 0) {
    const bool full = errno == EMFILE || errno == ENFILE;  // no fault of the file
    throw Error(full ? Code::out_of_memory : Code::bad_weights,
                path + ": cannot be opened (" + std::strerror(errno) + ")." +
                    (full ? " Close some files, or raise the limit (ulimit -n)." : ""));
  }
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw Error(Code::bad_weights, path + ": not a regular file.");
  }
  if (info.st_size != expected_bytes || expected_bytes <= 0) {
    ::close(fd);
    throw Error(Code::bad_weights,
                text("%s: expected %lld bytes as when its header was read, found %lld. Did something write to it?",
                     path.c_str(), static_cast<long long>(expected_bytes), static_cast<long long>(info.st_size)));
  }
  void* address = ::mmap(nullptr, expected_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  const int why = errno;
  if (address == MAP_FAILED) {
    ::close(fd);
    throw Error(Code::out_of_memory, path + ": cannot be mapped (" + std::strerror(why) + ").");
  }
  fd_ = fd;
  data_ = static_cast<const char*>(address);
  bytes_ = expected_bytes;
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<char*>(data_), bytes_);
  ::close(fd_);
}

void MappedFile::read(int64_t offset, void* to, int64_t bytes) const {
  for (char* out = static_cast<char*>(to); bytes > 0;) {
    const ssize_t got = ::pread(fd_, out, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(Code::bad_weights, path_ + ": cannot be read (" + std::strerror(errno) + ").");
    if (got == 0) throw Error(Code::bad_weights, path_ + ": became shorter while it was read.");
    out += got;
    offset += got;
    bytes -= got;
  }
}

void MappedFile::drop(int64_t offset, int64_t bytes) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t first = (offset + page - 1) / page * page;
  const int64_t last = (offset + bytes) / page * page;
  if (last > first) ::madvise(const_cast<char*>(data_) + first, last - first, MADV_DONTNEED);
}

}  // namespace drivlm
