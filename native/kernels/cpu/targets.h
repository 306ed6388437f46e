// The instruction sets that there are fast kernels for, and the one to use here.
#pragma once

#include <span>

#include "kernels/cpu/kernel_table.h"

namespace drivlm::cpu {

struct Target {
  const char* name;
  const KernelTable* kernels;
  bool supported;  // by this CPU
};

// All targets of this build, the widest first.
std::span<const Target> targets();

// The fastest target of this CPU, or the one that the environment variable DRIVLM_CPU names. Throws BAD_ARGUMENT for a
// name that is unknown or whose instructions this CPU lacks.
const Target& chosen_target();

// `name` as of DRIVLM_CPU; null or empty: the fastest.
const Target& target_named(const char* name);

}  // namespace drivlm::cpu
