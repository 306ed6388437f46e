// The only way to a device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "device/gradients.h"

namespace drivlm {

// Throws DEVICE_UNAVAILABLE with the reason, BAD_ARGUMENT for an unknown name or a format that the device has no kernels for.
std::unique_ptr<Device> make_device(const DeviceOptions& options);

// What native/train works on: a device whose memory is the host's and whose activations are f32, and the gradients of its ops. `precision` is
// that of matrix products: f32, or bf16 where that is faster (kernels/cpu/products.h).
struct TrainingDevice {
  std::unique_ptr<Device> device;
  std::unique_ptr<Gradients> gradients;
};

// Throws DEVICE_UNAVAILABLE for a device or a precision that nothing is trained on.
TrainingDevice make_training_device(const DeviceOptions& options);

struct CudaDeviceInfo {
  std::string name, compute_capability;
  int64_t memory_bytes = 0;
  bool usable = false;
};

// What this build and this machine can do; loads nothing.
struct SystemInfo {
  std::vector<std::string> cpu_features;  // those the CPU backend has code for, and the machine has
  std::string cpu_target;                 // the kernels it chose
  bool cuda_built = false;
  std::vector<CudaDeviceInfo> cuda_devices;
  std::string cuda_reason;  // why none is usable, a full sentence; empty when one is
};
SystemInfo system_info();

}  // namespace drivlm
