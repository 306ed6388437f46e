#include "base/error.h"

#include <cstdarg>
#include <cstdio>

namespace drivlm {

const char* code_name(Code code) {
  switch (code) {
    case Code::bad_argument: return "BAD_ARGUMENT";
    case Code::bad_checkpoint: return "BAD_CHECKPOINT";
    case Code::bad_weights: return "BAD_WEIGHTS";
    case Code::bad_view: return "BAD_VIEW";
    case Code::bad_data: return "BAD_DATA";
    case Code::context_overflow: return "CONTEXT_OVERFLOW";
    case Code::out_of_memory: return "OUT_OF_MEMORY";
    case Code::device_unavailable: return "DEVICE_UNAVAILABLE";
    case Code::device_lost: return "DEVICE_LOST";
    case Code::busy: return "BUSY";
    case Code::aborted: return "ABORTED";
    case Code::disposed: return "DISPOSED";
    case Code::internal: return "INTERNAL";
  }
  return "INTERNAL";
}

std::string text(const char* format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  const int size = std::vsnprintf(nullptr, 0, format, args);
  va_end(args);
  std::string out(size > 0 ? size : 0, '\0');
  if (size > 0) std::vsnprintf(out.data(), out.size() + 1, format, again);
  va_end(again);
  return out;
}

}  // namespace drivlm
