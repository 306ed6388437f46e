// Whether the NVIDIA driver can be used, in a sentence.
#pragma once

#include <string>

namespace drivlm::cuda {

// Empty if the driver library loads and is new enough for the runtime we are built with; else why not.
std::string driver_problem();

// Whether device `index` can run our kernels; empty, or why not. Makes no context.
std::string device_problem(int index);

// Whether code built for `architectures` (CMAKE_CUDA_ARCHITECTURES: "87-real;90-virtual", commas too) runs on compute capability
// major.minor: machine code on later minors of its major, PTX on everything later. A list in words ("native") says nothing, and is true.
bool has_code(const std::string& architectures, int major, int minor);

}  // namespace drivlm::cuda
