// Loss and gradients of the cases of a training dump (scripts/dump-training.mjs).
#pragma once

#include <functional>
#include <string>

#include "dump.h"

namespace drivlm::test {

using Report = std::function<void(const std::string& what, double error, double bound)>;

void run_training(const Dump& dump, const std::string& label, const Report& report);

}  // namespace drivlm::test
