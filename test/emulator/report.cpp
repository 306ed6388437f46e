// What was found, with file and line.
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "state.h"

namespace emu {

namespace {

std::vector<Report> found;
std::set<std::string> seen;  // kind and place
struct sigaction previous_segv, previous_bus;

const char* base_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

// file:line of the innermost inlined frame outside system headers
std::string resolve(void* pc) {
  Dl_info info;
  if (!dladdr(pc, &info) || !info.dli_fname) return "?";
  char command[1024], line[512];
  const uintptr_t base = uintptr_t(info.dli_fbase);
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
                uintptr_t(pc) - 1 - base);
  std::string first, best;
  if (FILE* pipe = popen(command, "r")) {
    while (std::fgets(line, sizeof line, pipe)) {
      char* colon = std::strrchr(line, ':');
      if (!colon) continue;
      const int number = std::atoi(colon + 1);
      *colon = 0;
      const std::string at = std::string(base_name(line)) + ":" + std::to_string(number);
      if (first.empty()) first = at;
      if (best.empty() && std::strncmp(line, "/usr/", 5) != 0) best = at;
    }
    pclose(pipe);
  }
  return best.empty() ? first : best;
}

void on_fault(int signal, siginfo_t* info, void*) {
  const Lane* lane = current;
  current = nullptr;
  if (!lane) {  // not ours
    sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
    return;
  }
  const uint3& index = lane->block->index;
  std::fprintf(stderr, "emulator: fault: %s, address %p, block (%u,%u,%u) thread %u\n",
               describe_fault(uintptr_t(info->si_addr), *lane), info->si_addr, index.x, index.y, index.z, lane->id);
  _exit(139);
}

}  // namespace

const std::vector<Report>& reports() { return found; }
void clear_reports() {
  found.clear();
  seen.clear();
}

std::string place(const Site& site) {
  if (site.file) return std::string(base_name(site.file)) + ":" + std::to_string(site.line);
  return site.pc ? resolve(site.pc) : "?";
}

void report(const char* kind, const Lane* lane, Site site, const char* format, ...) {
  if (int(found.size()) >= options.max_reports) return;
  const std::string raw = std::string(kind) + (site.file ? place(site) : std::to_string(uintptr_t(site.pc)));
  if (!seen.insert(raw).second) return;
  const std::string at = place(site);
  if (!site.file && !seen.insert(kind + at).second) return;
  char message[320], text[640];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (lane) {
    const uint3& index = lane->block->index;
    std::snprintf(text, sizeof text, "%s at %s block (%u,%u,%u) thread %u (warp %u lane %u): %s", kind, at.c_str(),
                  index.x, index.y, index.z, lane->id, lane->warp, lane->lane, message);
  } else {
    std::snprintf(text, sizeof text, "%s at %s: %s", kind, at.c_str(), message);
  }
  found.push_back({kind, text});
  if (!options.quiet) std::fprintf(stderr, "emulator: %s\n", text);
}

// Faults of kernels end the process with a sentence; others go to whoever handled them before.
void install_fault_handler() {
  static char stack[65536];
  stack_t alternate{};
  alternate.ss_sp = stack, alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}

}  // namespace emu
