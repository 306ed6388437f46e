#include "packed/packed_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/hash.h"

namespace drivlm {

namespace {

constexpr uint64_t kMagic = 0x3143574c56495244;  // "DRIVLWC1"; the last character is the version of what stands here
constexpr uint64_t kAlignment = 64;
constexpr uint64_t kMaxEntries = 1 << 16;
constexpr size_t kWriteBytes = 16 << 20;  // between two looks at a cancellation
constexpr size_t kReadBytes = 256 << 10;  // compared at a time: stays in a core's cache

struct Header {
  uint64_t magic, file_bytes, entries;
  char key[WeightCache::kKeyBytes];
};

struct Entry {
  char name[64];  // ends with a zero
  PackedForm form;
  uint64_t offset, bytes;
  Hash128 checksum;
};

static_assert(sizeof(Header) % 8 == 0 && sizeof(Entry) % 8 == 0);

constexpr uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t directory_bytes(uint64_t entries) { return sizeof(Header) + entries * sizeof(Entry); }

// Bytes of a mapped cache; the mapping lives as long as they are used.
class MappedBytes : public Memory {
 public:
  MappedBytes(std::shared_ptr<const MappedFile> file, uint64_t offset, size_t size) : file_(std::move(file)) {
    data = const_cast<char*>(file_->data()) + offset;
    bytes = size;
  }

 private:
  std::shared_ptr<const MappedFile> file_;
};

Error failed(const std::string& path, const char* what) {
  return Error(Code::bad_weights, path + ": cannot be " + what + " (" + std::strerror(errno) + ").");
}

std::string random_hex() {
  std::random_device random;
  return text("%08x%08x", random(), random());
}

// A file that is locked and has a name of its own; gone with this object unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& beside) {
    // Between the two calls another writer may take the new file for one that was left behind, and remove it.
    for (int tries = 0; tries < 100; ++tries) {
      path_ = beside + "." + random_hex() + kEnding;
      fd_ = ::open(path_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
      if (fd_ < 0) throw failed(path_, "created");
      ::flock(fd_, LOCK_EX);  // where the file system has no locks, no writer removes files of others either
      struct stat info;
      if (::fstat(fd_, &info) != 0 || info.st_nlink > 0) return;
      ::close(fd_);
    }
    throw Error(Code::bad_weights, path_ + ": was removed again and again while it was made.");
  }
  ~TemporaryFile() {
    if (!renamed_) ::unlink(path_.c_str());
    ::close(fd_);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(uint64_t offset, const void* data, size_t bytes, const std::atomic<bool>& cancel) const {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
      if (cancel) throw Error(Code::aborted, "Loading was aborted.");
      const ssize_t written = ::pwrite(fd_, from, std::min(bytes, kWriteBytes), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) throw failed(path_, "written");
      from += written;
      offset += written;
      bytes -= written;
    }
  }

  void rename_to(const std::string& path) {
    if (::fsync(fd_) != 0) throw failed(path_, "written");
    if (::rename(path_.c_str(), path.c_str()) != 0) throw failed(path, "replaced");
    renamed_ = true;
    const int folder = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    ::fsync(folder);
    ::close(folder);
  }

  // Removes what writers of `path` that were killed left beside it: files of such a name that nobody has locked.
  static void remove_left_behind(const std::string& path) {
    const std::string folder = folder_of(path), prefix = path.substr(path.rfind('/') + 1) + ".";
    DIR* entries = ::opendir(folder.c_str());
    if (entries == nullptr) return;
    while (const dirent* entry = ::readdir(entries)) {
      const std::string name = entry->d_name;
      if (name.size() != prefix.size() + 16 + sizeof kEnding - 1 || name.rfind(prefix, 0) != 0 ||
          !name.ends_with(kEnding))
        continue;
      const std::string left = folder + "/" + name;
      const int fd = ::open(left.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
      if (fd < 0) continue;
      if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(left.c_str());
      ::close(fd);
    }
    ::closedir(entries);
  }

 private:
  static constexpr char kEnding[] = ".tmp";

  static std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  }

  std::string path_;
  int fd_ = -1;
  bool renamed_ = false;
};

}  // namespace

PackedFile::PackedFile(const std::string& path) {
  struct stat info;
  const int64_t bytes = ::stat(path.c_str(), &info) == 0 ? info.st_size : 0;  // what is wrong is told by opening it
  mapped_ = std::make_shared<const MappedFile>(path, bytes);
  parse();
  for (auto& [name, place] : places_) order_.push_back(&place);
  std::sort(order_.begin(), order_.end(), [](const Place* a, const Place* b) { return a->bytes > b->bytes; });
}

PackedFile::~PackedFile() {
  stop_check();
  join();
}

void PackedFile::parse() {
  const MappedFile& file = *mapped_;
  const auto fail = [](const std::string& sentence) { throw Error(Code::bad_weights, sentence); };
  const std::string damaged = file.path() + " is damaged: ";
  const uint64_t file_bytes = file.bytes();
  Header header;
  if (file_bytes < sizeof header) fail(damaged + "it ends within its header.");
  file.read(0, &header, sizeof header);
  if (header.magic != kMagic) fail(file.path() + " is no weight cache of this version.");
  if (header.file_bytes != file_bytes) {
    fail(damaged + text("its header says %llu bytes, it has %llu.", static_cast<unsigned long long>(header.file_bytes),
                        static_cast<unsigned long long>(file_bytes)));
  }
  if (header.entries > kMaxEntries || file_bytes < directory_bytes(header.entries) + sizeof(Hash128)) {
    fail(damaged + text("its header says %llu matrices.", static_cast<unsigned long long>(header.entries)));
  }
  // Read rather than looked at where it is mapped: the file may be cut meanwhile.
  const uint64_t directory = directory_bytes(header.entries);
  std::vector<char> bytes(directory);
  file.read(0, bytes.data(), directory);
  Hash128 checksum;
  file.read(directory, &checksum, sizeof checksum);
  if (checksum != hash_bytes(bytes.data(), directory)) fail(damaged + "the checksum of its header does not fit.");
  key_.assign(header.key, kKeyBytes);
  for (uint64_t i = 0; i < header.entries; ++i) {
    Entry entry;
    std::memcpy(&entry, bytes.data() + sizeof header + i * sizeof entry, sizeof entry);
    const size_t length = strnlen(entry.name, sizeof entry.name);
    if (length == sizeof entry.name || entry.offset % kAlignment != 0 || entry.offset < directory + sizeof checksum ||
        entry.offset > file_bytes || entry.bytes > file_bytes - entry.offset) {
      fail(damaged + text("matrix %llu lies outside of it.", static_cast<unsigned long long>(i)));
    }
    places_[{entry.name, length}] = {entry.form, entry.offset, entry.bytes, entry.checksum, {}};
  }
}

// Reads the bytes rather than mapping them: whoever computes with a page first maps it. Nothing where it was stopped.
std::optional<bool> PackedFile::compare(const Place& place, std::vector<char>& piece,
                                        const std::atomic<bool>* cancel) const {
  piece.resize(kReadBytes);
  Checksum sum;
  try {
    for (uint64_t at = 0; at < place.bytes; at += kReadBytes) {
      if (cancel && (*cancel || stop_)) return {};
      const size_t bytes = std::min<uint64_t>(kReadBytes, place.bytes - at);
      mapped_->read(place.offset + at, piece.data(), bytes);
      sum.add(piece.data(), bytes);
    }
  } catch (const Error&) {  // a disk that cannot, or a file that was cut
    return false;
  }
  return sum.value() == place.checksum;
}

void PackedFile::work(const std::atomic<bool>* cancel) {
  std::vector<char> piece;
  for (size_t i = next_++; i < order_.size() && !*cancel && !stop_; i = next_++)
    order_[i]->right = compare(*order_[i], piece, cancel);
}

void PackedFile::add_threads(int threads) {
  try {
    while (static_cast<int>(threads_.size()) < threads) threads_.emplace_back([this] { work(&stop_); });
  } catch (const std::system_error&) {  // no more threads: those there are do it
  }
}

void PackedFile::begin_check(int threads) { add_threads(threads); }

void PackedFile::stop_check() { stop_ = true; }

void PackedFile::join() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void PackedFile::check(int threads, const std::atomic<bool>& cancel) {
  if (threads_.empty()) next_ = 0;
  add_threads(threads - 1);
  work(&cancel);
  if (cancel) stop_check();
  join();
  if (cancel) throw Error(Code::aborted, "Loading was aborted.");
}

const PackedFile::Place* PackedFile::find(const std::string& name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &found->second;
}

bool PackedFile::right(const Place& place) const {
  std::vector<char> piece;
  return place.right ? *place.right : compare(place, piece, nullptr).value_or(false);
}

WeightCache::WeightCache(const WeightCachePlace& place) : place_(place) {
  if (!on()) return;
  if (place.key.size() != kKeyBytes) {
    throw Error(Code::bad_argument, text("Expected %zu characters for the key of the weight cache, received %zu.",
                                         kKeyBytes, place.key.size()));
  }
  // Another process may have replaced a file that was opened ahead: then the one that is there now counts.
  if (place.ahead && place.ahead->key() == place.key) {
    packed_ = place.ahead;
    return;
  }
  if (place.ahead) place.ahead->stop_check();
  struct stat info;
  if (::stat(place.file.c_str(), &info) != 0 && errno == ENOENT) return;
  try {
    packed_ = std::make_shared<PackedFile>(place.file);
    if (packed_->key() == place.key) return;
    reason_ = place.file + " was made from other files or for another version.";
  } catch (const Error& error) {
    reason_ = error.what();
  }
  packed_ = nullptr;
}

void WeightCache::check(int threads, const std::atomic<bool>& cancel) {
  if (!packed_) return;
  packed_->check(threads, cancel);
  // What was compared ahead may have been cut since: then its last byte cannot be read.
  try {
    char last;
    packed_->mapped()->read(packed_->mapped()->bytes() - 1, &last, 1);
  } catch (const Error& error) {
    reason_ = error.what();
    packed_ = nullptr;
  }
}

std::unique_ptr<Memory> WeightCache::find(const std::string& name, const PackedForm& form, size_t bytes) {
  if (!packed_) return nullptr;
  const PackedFile::Place* place = packed_->find(name);
  const bool fits = place && place->form == form && place->bytes == bytes;
  if (!fits || !packed_->right(*place)) {
    reason_ =
        place_.file + " is damaged: " + name + (fits ? " is not what was written." : " is not in it as expected.");
    return nullptr;
  }
  kept_.push_back({name, form, packed_->mapped()->data() + place->offset, bytes, place->checksum, true, nullptr});
  return std::make_unique<MappedBytes>(packed_->mapped(), place->offset, bytes);
}

void WeightCache::add(const std::string& name, const PackedForm& form, const void* data, size_t bytes,
                      std::shared_ptr<const void> owner) {
  if (on()) kept_.push_back({name, form, data, bytes, {}, false, std::move(owner)});
}

WeightCacheReport WeightCache::finish(const std::atomic<bool>& cancel) {
  if (!on()) return {};
  if (kept_.empty()) return {WeightCacheReport::State::none, "This device packs no weights."};
  if (std::all_of(kept_.begin(), kept_.end(), [](const Kept& one) { return one.found; })) {
    return {WeightCacheReport::State::read, ""};
  }
  try {
    write(cancel);
    return {WeightCacheReport::State::written, reason_};
  } catch (const Error& error) {
    if (error.code == Code::aborted) throw;
    return {WeightCacheReport::State::none, error.what()};
  }
}

void WeightCache::write(const std::atomic<bool>& cancel) const {
  TemporaryFile::remove_left_behind(place_.file);
  TemporaryFile out(place_.file);
  std::vector<char> directory(directory_bytes(kept_.size()) + sizeof(Hash128));
  uint64_t end = aligned(directory.size());
  char* to = directory.data() + sizeof(Header);
  for (const Kept& one : kept_) {
    Entry entry{};
    if (one.name.size() >= sizeof entry.name)
      throw Error(Code::internal, one.name + ": too long a name for the weight cache.");
    std::memcpy(entry.name, one.name.data(), one.name.size());
    entry.form = one.form;
    entry.offset = end;
    entry.bytes = one.bytes;
    entry.checksum = one.found ? one.checksum : checksum_of(one.data, one.bytes);
    std::memcpy(to, &entry, sizeof entry);
    to += sizeof entry;
    out.write(end, one.data, one.bytes, cancel);
    end = aligned(end + one.bytes);
  }
  const Kept& last = kept_.back();
  Header header{kMagic, end - (aligned(last.bytes) - last.bytes), kept_.size(), {}};
  std::memcpy(header.key, place_.key.data(), kKeyBytes);
  std::memcpy(directory.data(), &header, sizeof header);
  const Hash128 checksum = hash_bytes(directory.data(), directory.size() - sizeof checksum);
  std::memcpy(to, &checksum, sizeof checksum);
  out.write(0, directory.data(), directory.size(), cancel);
  out.rename_to(place_.file);
}

}  // namespace drivlm
