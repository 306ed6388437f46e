#include "train/tower_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace drivlm {

namespace {

constexpr uint64_t kMagic = 0x31435754564c5244;  // "DRLVTWC1"; the last character is the version of what stands here

struct Header {
  uint64_t magic;
  int64_t values;
  char key[kStateKeyBytes];
};

struct RecordHead {
  Hash128 tile, checksum;
};
static_assert(sizeof(Header) == 16 + kStateKeyBytes && sizeof(RecordHead) == 32);

int64_t record_bytes(int64_t values) {
  return static_cast<int64_t>(sizeof(RecordHead)) + values * static_cast<int64_t>(sizeof(float));
}

bool read_all(int fd, void* to, size_t bytes, int64_t offset) {
  char* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, at, std::min<size_t>(bytes, size_t{16} << 20), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    offset += got;
    bytes -= got;
  }
  return true;
}

bool write_all(int fd, const void* data, size_t bytes, int64_t offset) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(fd, from, std::min<size_t>(bytes, size_t{16} << 20), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written == 0) errno = ENOSPC;
    if (written <= 0) return false;
    from += written;
    offset += written;
    bytes -= written;
  }
  return true;
}

}  // namespace

int64_t TowerCache::bytes(int64_t values, int64_t tiles) {
  return static_cast<int64_t>(sizeof(Header)) + tiles * record_bytes(values);
}

TowerCache::TowerCache(const std::string& path, const std::string& key, int64_t values, int64_t max_bytes)
    : path_(path), values_(values), max_bytes_(max_bytes) {
  if (key.size() != kStateKeyBytes) throw Error(Code::bad_argument, "The key of a tower's file has 64 characters.");
  fd_ = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  struct stat found;
  const bool is_file = fd_ >= 0 && ::fstat(fd_, &found) == 0 && S_ISREG(found.st_mode);
  if (!is_file) {
    const std::string why = fd_ < 0 ? std::strerror(errno) : "no regular file";
    if (fd_ >= 0) ::close(fd_);
    throw Error(Code::bad_data, path + ": cannot be written (" + why + ").");
  }
  begin(key);
  RecordHead head;
  while (fd_ >= 0 && end_ + record_bytes(values_) <= found.st_size && read_all(fd_, &head, sizeof head, end_)) {
    places_[head.tile] = end_;
    end_ += record_bytes(values_);
  }
}

TowerCache::~TowerCache() {
  if (fd_ >= 0) ::close(fd_);
}

// Leaves end_ behind the header, which is written anew over whatever is not this tower's.
void TowerCache::begin(const std::string& key) {
  Header own{kMagic, values_, {}}, found;
  std::memcpy(own.key, key.data(), kStateKeyBytes);
  end_ = sizeof own;
  if (read_all(fd_, &found, sizeof found, 0) && std::memcmp(&found, &own, sizeof own) == 0) return;
  if (::ftruncate(fd_, 0) != 0 || !write_all(fd_, &own, sizeof own, 0)) give_up();
}

void TowerCache::give_up() {
  error_ = errno;
  ::unlink(path_.c_str());
  ::close(fd_);
  fd_ = -1;
  places_.clear();
}

bool TowerCache::find(const Hash128& tile, const Tensor& to) {
  if (to.count() != values_) throw Error(Code::internal, "tower cache: a tile of other values");
  const auto place = places_.find(tile);
  if (place == places_.end()) return false;
  RecordHead head;
  if (read_all(fd_, &head, sizeof head, place->second) && head.tile == tile &&
      read_all(fd_, to.data, to.bytes(), place->second + static_cast<int64_t>(sizeof head)) &&
      head.checksum == checksum_of(to.data, to.bytes()))
    return true;
  places_.erase(place);
  return false;
}

void TowerCache::add(const Hash128& tile, const Tensor& values) {
  if (values.count() != values_) throw Error(Code::internal, "tower cache: a tile of other values");
  if (fd_ < 0 || has(tile) || end_ + record_bytes(values_) > max_bytes_) return;
  const RecordHead head{tile, checksum_of(values.data, values.bytes())};
  if (!write_all(fd_, &head, sizeof head, end_) ||
      !write_all(fd_, values.data, values.bytes(), end_ + static_cast<int64_t>(sizeof head)))
    return give_up();
  places_[tile] = end_;
  end_ += record_bytes(values_);
}

}  // namespace drivlm
