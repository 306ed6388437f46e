#include "image/borrowed_rows.h"

#include <algorithm>

#include "base/error.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#endif

namespace drivlm {

#if defined(__linux__)

std::unique_ptr<BorrowedRows> BorrowedRows::open(const uint8_t* rgb, int64_t width, int64_t height) {
  std::unique_ptr<BorrowedRows> rows(new BorrowedRows(rgb, width, height));
  rows->block_bytes_ = static_cast<size_t>(std::min<int64_t>(kBlockRows, height) * width * 3);
  rows->file_ = memfd_create("drivlm-rows", MFD_CLOEXEC);
  if (rows->file_ < 0 || ftruncate(rows->file_, static_cast<off_t>(rows->block_bytes_)) != 0) return nullptr;
  void* block = mmap(nullptr, rows->block_bytes_, PROT_READ, MAP_SHARED, rows->file_, 0);
  if (block == MAP_FAILED) return nullptr;
  rows->block_ = block;
  return rows;
}

BorrowedRows::~BorrowedRows() {
  if (block_ != nullptr) munmap(block_, block_bytes_);
  if (file_ >= 0) ::close(file_);
}

const uint8_t* BorrowedRows::read(int64_t first, int count) {
  const uint8_t* from = rgb_ + first * width * 3;
  const auto bytes = static_cast<size_t>(count * width * 3);
  for (size_t done = 0; done < bytes;) {
    // Not pwrite(): AddressSanitizer wraps that, and would end the process where the kernel only refuses.
    const long written = syscall(SYS_pwrite64, file_, from + done, bytes - done, static_cast<off_t>(done));
    if (written > 0) {
      done += static_cast<size_t>(written);
    } else if (written < 0 && errno == EFAULT) {
      throw Error(Code::bad_view, "the pixels were taken away while they were read");
    } else if (written == 0 || errno != EINTR) {
      throw Error(Code::out_of_memory, text("The pixels could not be read: %s.", std::strerror(errno)));
    }
  }
  return static_cast<const uint8_t*>(block_);
}

#else

std::unique_ptr<BorrowedRows> BorrowedRows::open(const uint8_t*, int64_t, int64_t) { return nullptr; }
BorrowedRows::~BorrowedRows() = default;
const uint8_t* BorrowedRows::read(int64_t, int) { throw Error(Code::internal, "There are no memory files here."); }

#endif

}  // namespace drivlm
