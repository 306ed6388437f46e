#include "device/registry.h"

#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/training_ops.h"
#if defined(DRIVLM_HAVE_CUDA)
#include "kernels/cuda/cuda_device.h"
#endif

namespace drivlm {

namespace {

constexpr const char* kNoCuda =
    "This build of the addon has no CUDA kernels; the CUDA toolkit (nvcc) was not there when it was built.";

// N of "cuda" (0) and "cuda:N"; -1 for any other name.
int cuda_index(const std::string& device) {
  if (device == "cuda") return 0;
  if (device.rfind("cuda:", 0) != 0 || device.size() < 6 || device.size() > 8) return -1;
  int index = 0;
  for (size_t i = 5; i < device.size(); ++i) {
    if (device[i] < '0' || device[i] > '9') return -1;
    index = index * 10 + (device[i] - '0');
  }
  return index;
}

}  // namespace

std::unique_ptr<Device> make_device(const DeviceOptions& options) {
  const bool quantised = options.weights != WeightFormat::bf16 || options.int8_activations;
  if (quantised && options.precision != DType::bf16) {
    throw Error(Code::bad_argument, "Weights or activations in int8 or int4 go with precision 'bf16'.");
  }
  if (options.kv == KvFormat::int8 && options.precision != DType::bf16)
    throw Error(Code::bad_argument, "A KV cache in int8 goes with precision 'bf16'.");
  if (options.device == "cpu") {
    if (options.precision != DType::bf16) return std::make_unique<CpuDevice>(options.precision, options.threads);
    return std::make_unique<PackedCpuDevice>(options.threads, *cpu::chosen_target().kernels,
                                             CpuFormat{options.weights, options.int8_activations});
  }
  if (const int index = cuda_index(options.device); index >= 0) {
#if defined(DRIVLM_HAVE_CUDA)
    return cuda::make_device(index, options.precision, options.weights, options.int8_activations);
#else
    throw Error(Code::device_unavailable, std::string(kNoCuda) + " To run on the CPU pass { device: 'cpu' }.");
#endif
  }
  throw Error(Code::bad_argument,
              "Expected 'cpu', 'cuda' or 'cuda:N' for options.device, received '" + options.device + "'.");
}

TrainingDevice make_training_device(const DeviceOptions& options) {
  if (options.device != "cpu") {
    throw Error(Code::device_unavailable,
                "Training runs on the CPU; found '" + options.device + "' for options.device.");
  }
  if (options.precision != DType::f32 && options.precision != DType::bf16)
    throw Error(Code::bad_argument, "Training computes in f32 or bf16.");
  const cpu::KernelTable& kernels = *cpu::chosen_target().kernels;
  return {std::make_unique<TrainingCpuDevice>(options.threads, kernels, options.precision),
          std::make_unique<CpuGradients>(options.threads, kernels, options.precision)};
}

SystemInfo system_info() {
  SystemInfo info;
  info.cpu_target = cpu::chosen_target().name;
  for (const cpu::Target& target : cpu::targets()) {
    if (target.supported && &target != &cpu::targets().back())
      info.cpu_features.push_back(target.name);  // the last is portable
  }
#if defined(DRIVLM_HAVE_CUDA)
  cuda::describe_system(info);
#else
  info.cuda_reason = kNoCuda;
#endif
  return info;
}

}  // namespace drivlm
