// Runs the C++ tests: all of them, or those whose names contain the first argument.
#include <cstring>
#include <exception>

#include "check.h"

int main(int argc, char** argv) {
  using namespace drivlm::test;
  const char* wanted = argc > 1 ? argv[1] : "";
  int passed = 0, failed = 0;
  for (const Case& test : cases()) {
    if (!std::strstr(test.name, wanted)) continue;
    const int before = failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("unexpected exception: ") + error.what());
    }
    if (failures() == before) {
      ++passed;
    } else {
      ++failed;
      std::cerr << "FAILED " << test.name << "\n";
    }
  }
  std::cout << "native: " << passed << " passed, " << failed << " failed\n";
  return failed > 0 || passed == 0;
}
