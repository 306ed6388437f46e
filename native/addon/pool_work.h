// Short work on libuv's thread pool that needs no engine: pictures.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "addon/napi_setup.h"
#include "addon/settler.h"

namespace drivlm {

// Bytes of a JavaScript buffer that the pool reads in place. The reference keeps the typed array, not its memory: JavaScript may transfer
// or shrink the buffer at any time, so they are read through image/borrowed_rows.h, and what was read counts only if check() finds the
// same memory afterwards. All on the JS thread.
class BorrowedBytes {
 public:
  // `array` is a Uint8Array; `name` is what messages call the picture.
  BorrowedBytes(Napi::Env env, napi_value array, std::string name);
  ~BorrowedBytes();  // JS thread
  BorrowedBytes(const BorrowedBytes&) = delete;
  BorrowedBytes& operator=(const BorrowedBytes&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  // From now on check() also compares a sample of the bytes: a buffer that is filled with the next frame too early is noticed.
  void watch_changes() { sample_ = sample(); }

  // Throws BAD_VIEW if the memory was taken away, or its bytes changed, since.
  void check() const;

 private:
  uint64_t sample() const;

  napi_env env_;
  std::string name_;
  napi_ref array_ = nullptr;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  uint64_t sample_ = 0;
};

struct PoolWork {
  std::vector<std::function<void()>> parts;              // run once each on the pool, side by side, begun in order
  std::function<MakeValue()> finish;                     // JS thread, after all parts: how to make the value
  std::vector<std::shared_ptr<BorrowedBytes>> borrowed;  // held until then, and checked before `finish`
};

// What a part throws rejects the promise, once all parts have ended.
Napi::Promise run_in_pool(Napi::Env env, const char* name, PoolWork work);

}  // namespace drivlm
