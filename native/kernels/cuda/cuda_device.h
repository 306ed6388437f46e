// The CUDA backend: bf16 weights and activations on one GPU, one stream.
#pragma once

#include <memory>
#include <string>

#include "device/device.h"
#include "device/registry.h"

namespace drivlm::cuda {

// Throws DEVICE_UNAVAILABLE with the reason: no driver, one that is too old, no such device, one without code.
std::unique_ptr<Device> make_device(int index, DType precision);

// Fills in the CUDA part. Never throws.
void describe_system(SystemInfo& info);

}  // namespace drivlm::cuda
