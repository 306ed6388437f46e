// Runs the C++ tests: all of them, or those whose names contain an argument.
#include "check.h"

int main(int argc, char** argv) {
  using namespace drivlm::test;
  return run_cases(
      argc, argv, "native", [](const Case& test) { return run_case(test, [] {}); }, [] { return std::string(); });
}
