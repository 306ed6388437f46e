// Runs the cases in a process of their own, so that one which kills the process, loses the device or never ends costs itself only.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "../../test/emulator/testing.h"

namespace drivlm::gpu {

// `told` hears of each outcome as it comes. A case that takes longer than `most_seconds` is ended.
// The caller has not touched CUDA: a driver does not survive a fork.
void run_isolated(const std::vector<test::Case>& cases, double most_seconds,
                  const std::function<void(test::CaseOutcome)>& told);

}  // namespace drivlm::gpu
