#include "isolated.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace drivlm::gpu {

namespace {

// An outcome as text: seconds, lost, failures, each ended by a zero byte, the whole by two.
std::string packed(const test::CaseOutcome& outcome) {
  std::string out = text("%.6f", outcome.seconds) + '\0' + (outcome.lost ? "1" : "0") + '\0';
  for (const std::string& failure : outcome.failures) out += (failure.empty() ? "?" : failure) + '\0';
  return out + '\0';
}

test::CaseOutcome unpacked(const std::string& name, const std::string& message) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < message.size();) {
    parts.emplace_back(message.c_str() + at);
    at += parts.back().size() + 1;
  }
  return {name, std::stod(parts.at(0)), {parts.begin() + 2, parts.end()}, parts.at(1) == "1"};
}

[[noreturn]] void child(const std::vector<test::Case>& cases, size_t from, int to) {
  for (size_t i = from; i < cases.size(); ++i) {
    const test::CaseOutcome outcome = cuda::testing::run_case(cases[i]);
    const std::string message = packed(outcome);
    for (size_t at = 0; at < message.size();) {
      const ssize_t count = write(to, message.data() + at, message.size() - at);
      if (count <= 0) _exit(1);
      at += static_cast<size_t>(count);
    }
    if (outcome.lost) break;
  }
  _exit(0);
}

std::string ending(int status) {
  if (WIFSIGNALED(status))
    return text("the process was ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return text("the process ended with status %d", WEXITSTATUS(status));
}

}  // namespace

void run_isolated(const std::vector<test::Case>& cases, double most_seconds,
                  const std::function<void(test::CaseOutcome)>& told) {
  for (size_t next = 0; next < cases.size();) {
    int ends[2];
    if (pipe(ends) != 0) throw Error(Code::internal, "No pipe for the cases.");
    const pid_t pid = fork();
    if (pid < 0) throw Error(Code::internal, "No process for the cases.");
    if (pid == 0) {
      close(ends[0]);
      child(cases, next, ends[1]);
    }
    close(ends[1]);
    std::string got;
    bool late = false;
    while (next < cases.size()) {
      pollfd wait{ends[0], POLLIN, 0};
      const int ready = poll(&wait, 1, static_cast<int>(most_seconds * 1e3));
      if (ready < 0 && errno == EINTR) continue;
      char bytes[4096];
      const ssize_t count = ready > 0 ? read(ends[0], bytes, sizeof bytes) : 0;
      if (count <= 0) {
        late = ready == 0;
        break;
      }
      got.append(bytes, static_cast<size_t>(count));
      for (size_t end; (end = got.find(std::string(2, '\0'))) != std::string::npos; got.erase(0, end + 2)) {
        told(unpacked(cases[next++].name, got.substr(0, end + 1)));
      }
    }
    if (late) kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    close(ends[0]);
    const bool well = !late && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (next < cases.size() && !well) {
      const std::string why = late ? text("no answer within %.0f s", most_seconds) : ending(status);
      told({cases[next++].name, late ? most_seconds : 0, {why}, true});
    }
  }
}

}  // namespace drivlm::gpu
