// Errors that reach a person: a code from the closed list of lib/errors.ts and a sentence.
#pragma once

#include <stdexcept>
#include <string>

namespace drivlm {

enum class Code {
  bad_argument,
  bad_checkpoint,
  bad_weights,
  bad_view,
  bad_data,
  context_overflow,
  out_of_memory,
  device_unavailable,
  device_lost,
  busy,
  aborted,
  disposed,
  internal,
};

// The spelling of lib/errors.ts, e.g. "BAD_ARGUMENT".
const char* code_name(Code code);

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code(code) {}
  const Code code;
};

// printf into a std::string; for messages.
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
std::string text(const char* format, ...);

}  // namespace drivlm
