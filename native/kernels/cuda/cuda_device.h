// The CUDA backend: weights in bf16, 8 or 4 bits and activations in bf16 or 8 bits on one GPU, one stream.
#pragma once

#include <memory>
#include <string>

#include "device/device.h"
#include "device/registry.h"

namespace drivlm::cuda {

// Throws DEVICE_UNAVAILABLE with the reason: no driver, one that is too old, no such device, one without code.
std::unique_ptr<Device> make_device(int index, DType precision, WeightFormat weights = WeightFormat::bf16,
                                    bool int8_activations = false);

// Fills in the CUDA part. Never throws.
void describe_system(SystemInfo& info);

}  // namespace drivlm::cuda
