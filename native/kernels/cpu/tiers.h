// The tiers of CPUs that there are fast forms for, and the one to use here.
#pragma once

#include <span>

#include "kernels/cpu/forms.h"

namespace drivlm::cpu {

struct Tier {
  const char* name;
  const Forms* forms;
  bool supported;  // by this CPU
};

// All tiers of this build, the widest first.
std::span<const Tier> tiers();

// The fastest tier of this CPU, or the one that the environment variable DRIVLM_CPU names. Throws BAD_ARGUMENT for a
// name that is unknown or whose instructions this CPU lacks.
const Tier& chosen_tier();

// `name` as of DRIVLM_CPU; null or empty: the fastest.
const Tier& tier_named(const char* name);

}  // namespace drivlm::cpu
