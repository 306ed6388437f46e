#include "kernels/cpu/training_ops.h"

namespace drivlm {

namespace {

// Where the rows of a tensor stand, which must be f32 and in one piece.
const float* rows_of(const HostTensor& source) {
  if (source.dtype != DType::f32 || source.runs.size() != 1)
    throw Error(Code::internal, source.name + ": training wants f32 in one piece");
  return static_cast<const float*>(source.runs[0].data);
}

}  // namespace

TrainingOps::TrainingOps(Device& device, int threads, const cpu::KernelTable& kernels, DType products)
    : ReferenceOps(device, threads), kernels_(kernels), pool_(threads), attention_(threads) {
  space_.kind = cpu::product_kind(kernels, products);
  for (cpu::AttentionSpace& space : attention_) space.product.kind = space_.kind;
}

TrainingCpuDevice::TrainingCpuDevice(int threads, const cpu::KernelTable& kernels, DType products)
    : CpuDevice(DType::f32, threads, [threads, &kernels, products](Device& device) {
        return std::make_unique<TrainingOps>(device, threads, kernels, products);
      }) {}

std::unique_ptr<Matrix> TrainingCpuDevice::load_matrix(const HostTensor& source) {
  return std::make_unique<TrainedMatrix>(rows_of(source), source.rows, source.cols);
}

std::unique_ptr<Matrix> TrainingCpuDevice::load_gated(const HostTensor& gate, const HostTensor& up) {
  if (rows_of(up) != rows_of(gate) + gate.rows * gate.cols)
    throw Error(Code::internal, gate.name + ": not joined with " + up.name);
  return std::make_unique<TrainedMatrix>(rows_of(gate), gate.rows + up.rows, gate.cols);
}

}  // namespace drivlm
