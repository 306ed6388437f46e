#include "train/state_file.h"

#include <cstddef>
#include <cstring>
#include <memory>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/output_file.h"

namespace drivlm {

namespace {

constexpr uint64_t kMagic = 0x31535443564c5244;  // "DRLVCTS1"; the last character is the version of what stands here

// Followed by a checksum for each tensor, then their values.
struct Header {
  uint64_t magic, updates, tensors, values;
  char key[kStateKeyBytes];
  Hash128 checksums;  // of those that follow, and of what stands above
};
static_assert(sizeof(Header) == 32 + kStateKeyBytes + 16);

Header header_of(const std::string& key, uint64_t updates, const std::vector<Tensor>& tensors,
                 const std::vector<Hash128>& checksums) {
  if (key.size() != kStateKeyBytes) throw Error(Code::bad_argument, "The key of a state has 64 characters.");
  Header header{kMagic, updates, tensors.size(), 0, {}, {}};
  for (const Tensor& tensor : tensors) header.values += tensor.count();
  std::memcpy(header.key, key.data(), kStateKeyBytes);
  const Hash128 both[] = {hash_bytes(&header, offsetof(Header, checksums)),
                          hash_bytes(checksums.data(), checksums.size() * sizeof(Hash128))};
  header.checksums = hash_bytes(both, sizeof both);
  return header;
}

}  // namespace

void write_state(const std::string& path, const std::string& key, int64_t updates, const std::vector<Tensor>& tensors) {
  std::vector<Hash128> checksums;
  for (const Tensor& tensor : tensors) checksums.push_back(checksum_of(tensor.data, tensor.bytes()));
  const Header header = header_of(key, updates, tensors, checksums);
  OutputFile out(path);
  out.append(&header, sizeof header);
  out.append(checksums.data(), checksums.size() * sizeof(Hash128));
  for (const Tensor& tensor : tensors) out.append(tensor.data, tensor.bytes());
  out.commit();
}

int64_t read_state(const std::string& path, const std::string& key, const std::vector<Tensor>& tensors) {
  const auto damaged = [&] {
    return Error(Code::bad_data,
                 path + ": this saved state is damaged, or of another run. Remove its folder to begin from the start.");
  };
  int64_t bytes = sizeof(Header) + tensors.size() * sizeof(Hash128);
  for (const Tensor& tensor : tensors) bytes += tensor.bytes();
  std::unique_ptr<MappedFile> file;
  try {
    file = std::make_unique<MappedFile>(path, bytes);
  } catch (const Error& error) {
    if (error.code != Code::bad_weights) throw;
    throw damaged();  // of another size
  }
  Header header;
  std::memcpy(&header, file->data(), sizeof header);
  std::vector<Hash128> checksums(tensors.size());
  const char* at = file->data() + sizeof header;
  std::memcpy(checksums.data(), at, checksums.size() * sizeof(Hash128));
  const Header expected = header_of(key, header.updates, tensors, checksums);
  if (std::memcmp(&header, &expected, sizeof header) != 0 || header.updates > (uint64_t{1} << 53)) throw damaged();
  at += checksums.size() * sizeof(Hash128);
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::memcpy(tensors[i].data, at, tensors[i].bytes());
    if (checksum_of(tensors[i].data, tensors[i].bytes()) != checksums[i]) throw damaged();
    at += tensors[i].bytes();
  }
  return static_cast<int64_t>(header.updates);
}

}  // namespace drivlm
