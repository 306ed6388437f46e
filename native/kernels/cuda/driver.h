// Whether the NVIDIA driver can be used, in a sentence.
#pragma once

#include <string>

namespace drivlm::cuda {

// Empty if the driver library loads and is new enough for the runtime we are built with; else why not.
std::string driver_problem();

// Whether device `index` can run our kernels; empty, or why not.
std::string device_problem(int index);

}  // namespace drivlm::cuda
