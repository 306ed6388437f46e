#include "network.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/numeric.h"
#include "network/parameters.h"

namespace drivlm::gpu {

namespace {

constexpr int64_t kShift = 256;  // bytes between the starts of tensors

}  // namespace

NetworkDescription network(bool small) {
  NetworkDescription n{};
  n.vision = {1024,
              24,
              16,
              64,
              4096,
              14,
              448,
              32,
              true,
              1e-6f,
              true,
              false,
              24,
              {0.485f, 0.456f, 0.406f},
              {0.229f, 0.224f, 0.225f}};
  n.projector = {1e-5f, 2};
  n.language.dim = 896, n.language.layers = 24, n.language.heads = 14, n.language.kv_heads = 2,
  n.language.head_dim = 64;
  n.language.ffn_dim = 4864, n.language.vocab = 151655, n.language.norm_eps = 1e-6f, n.language.qkv_bias = true;
  n.language.rope.theta = 1e6;
  if (small) {
    n.vision.dim = 64, n.vision.layers = n.vision.output_layer = 2, n.vision.heads = 4, n.vision.head_dim = 16;
    n.vision.ffn_dim = 128, n.vision.tile_size = 56, n.vision.position_grid = 4;
    n.language.dim = 64, n.language.layers = 2, n.language.heads = 4, n.language.head_dim = 16;
    n.language.ffn_dim = 96, n.language.vocab = 500;
  }
  return n;
}

RandomWeights::RandomWeights(const NetworkDescription& network) {
  const std::vector<Parameter> wanted = parameters(network);
  int64_t most = 0;
  for (const Parameter& one : wanted) most = std::max(most, one.count());
  const int64_t shifts = kShift * static_cast<int64_t>(wanted.size());
  // Two parts: matrices and biases around 0, then scales around 1.
  const int64_t noise = most + shifts / 2, widest = 4 * network.vision.dim + network.language.dim,
                scales = widest + shifts / 2;
  const int64_t file_bytes = 2 * (noise + scales);
  file_ = memfd_create("drivlm-random-weights", MFD_CLOEXEC);
  if (file_ < 0 || ftruncate(file_, file_bytes) != 0) {
    throw Error(Code::out_of_memory,
                text("No memory for %lld bytes of random weights.", static_cast<long long>(file_bytes)));
  }
  void* mapped = mmap(nullptr, static_cast<size_t>(file_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (mapped == MAP_FAILED) throw Error(Code::out_of_memory, "The random weights cannot be mapped.");
  uint16_t* values = static_cast<uint16_t*>(mapped);
  const float size = std::sqrt(3.f / static_cast<float>(network.language.dim));  // sums over dim values keep their size
  uint64_t state = 1;
  for (int64_t i = 0; i < noise + scales; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const float unit = static_cast<float>(static_cast<int32_t>(state >> 32)) / 2147483648.f;  // [-1, 1)
    values[i] = from_float<bf16>(i < noise ? unit * size : 1 + 0.25f * unit).bits;
  }
  munmap(mapped, static_cast<size_t>(file_bytes));

  source_.network = network;
  source_.files = {"/proc/self/fd/" + std::to_string(file_)};
  source_.file_bytes = {file_bytes};
  int64_t shift = 0;
  for (const Parameter& one : wanted) {
    const bool around_one = one.part == Parameter::Part::norm || one.part == Parameter::Part::scale;
    const int64_t offset = (around_one ? 2 * noise : 0) + shift;
    source_.tensors.push_back({one.role, DType::bf16, one.shape, {{0, offset, one.shape[0], DType::bf16}}});
    bytes_ += 2 * one.count();
    shift += kShift;
  }
}

RandomWeights::~RandomWeights() {
  if (file_ >= 0) ::close(file_);
}

}  // namespace drivlm::gpu
