// Rows of memory that somebody else owns and may change, free or unmap while it is read: a JavaScript program's buffer, which it can
// transfer away at any time.
//
// The kernel does the reading: writing to a memory file from an address that is not there fails with EFAULT where a load would end the
// process. What was read from memory that had another use by then is garbage; whoever lent the memory has to be asked afterwards
// whether it still was the picture's (addon/pictures.cpp does).
#pragma once

#include <memory>

#include "image/pixels.h"

namespace drivlm {

class BorrowedRows final : public Rows {
 public:
  // Null where the system has no memory files or gives none: copy the picture then, while its memory is sure to be there.
  static std::unique_ptr<BorrowedRows> open(const uint8_t* rgb, int64_t width, int64_t height);
  ~BorrowedRows() override;
  BorrowedRows(const BorrowedRows&) = delete;
  BorrowedRows& operator=(const BorrowedRows&) = delete;

  // Throws BAD_VIEW when the memory is gone.
  const uint8_t* read(int64_t first, int count) override;

 private:
  BorrowedRows(const uint8_t* rgb, int64_t width, int64_t height) : Rows(width, height), rgb_(rgb) {}

  const uint8_t* rgb_;
  int file_ = -1;  // holds one block
  void* block_ = nullptr;
  size_t block_bytes_ = 0;
};

}  // namespace drivlm
