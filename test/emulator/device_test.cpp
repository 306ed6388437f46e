// CudaDevice: weights, copies, memory that does not suffice, devices that are not there.
#include <cstring>
#include <thread>

#include "base/numeric.h"
#include "device/ops.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/driver.h"
#include "testing.h"
#if defined(DRIVLM_EMULATED)
#include "control.h"
#endif

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;
using drivlm::Code;
using drivlm::DType;
using drivlm::HostTensor;
using drivlm::Tensor;

namespace {

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

std::vector<uint16_t> random_bits(size_t count) {
  std::vector<uint16_t> bits(count);
  for (auto& b : bits) b = drivlm::from_float<drivlm::bf16>(uniform(-1, 1)).bits;
  return bits;
}
float value_of(uint16_t bits) { return drivlm::to_float(drivlm::bf16{bits}); }

// y = x W^T with one row of x a unit vector reads a column of W.
std::vector<float> column(drivlm::Device& device, const drivlm::Matrix& w, int64_t k) {
  Buffer<bf16> x(std::vector<bf16>(w.cols, __float2bfloat16(0)));
  x.host[k] = __float2bfloat16(1);
  x.upload();
  Buffer<float> y(w.rows);
  device.ops().linear(Tensor(y.data, DType::f32, {1, w.rows}), Tensor(x.data, DType::bf16, {1, w.cols}), w, {},
                      drivlm::Epilogue::store);
  device.synchronize();
  y.download();
  return y.host;
}

}  // namespace

TEST(device_matrices) {
  auto device = make_device(0, DType::bf16);
  const std::vector<uint16_t> bits = random_bits(40 * 24);
  std::vector<float> floats;
  for (uint16_t b : bits) floats.push_back(value_of(b));
  // bf16 in three runs, f32, and f16
  const HostTensor whole{
      "w", DType::bf16, 40, 24, {{bits.data(), 3}, {bits.data() + 72, 36}, {bits.data() + 39 * 24, 1}}};
  const HostTensor wide{"w", DType::f32, 40, 24, {{floats.data(), 40}}};
  std::vector<uint16_t> halves(40 * 24, 0x3c00);  // f16 1.0
  halves[24] = 0xc500;                            // -5
  const HostTensor half{"w", DType::f16, 40, 24, {{halves.data(), 40}}};
  const auto a = device->load_matrix(whole), b = device->load_matrix(wide), c = device->load_matrix(half);
  CHECK(device->matrix_bytes(40, 24, drivlm::Use::tower, DType::bf16) >= 40 * 24 * 2 && !device->keeps_mapping(*a));
  for (int64_t k : {0, 7, 23}) {
    const std::vector<float> got_a = column(*device, *a, k), got_b = column(*device, *b, k),
                             got_c = column(*device, *c, k);
    for (int64_t row = 0; row < 40; ++row) {
      CHECK(got_a[row] == value_of(bits[row * 24 + k]));
      CHECK(got_b[row] == got_a[row]);
      CHECK(got_c[row] == (row == 1 && k == 0 ? -5.f : 1.f));
    }
  }
  // The same first rows and other last ones are another matrix.
  const std::vector<uint16_t> others = random_bits(24);
  const HostTensor other{"other", DType::bf16, 40, 24, {{bits.data(), 3}, {bits.data() + 72, 36}, {others.data(), 1}}};
  const auto d = device->load_matrix(other);
  CHECK(column(*device, *d, 5)[39] == value_of(others[5]) && column(*device, *d, 5)[38] == value_of(bits[38 * 24 + 5]));
  // A tied head is the table once more: no second copy.
#if defined(DRIVLM_EMULATED)
  const size_t before = emu::device_bytes_in_use();
  const auto tied = device->load_tied(whole);
  const size_t taken = emu::device_bytes_in_use() - before;
  CHECK(taken > 0 && taken <= device->tied_bytes(40, 24, DType::bf16));
  CHECK(column(*device, *tied.head, 7) == column(*device, *a, 7));
#endif
}

TEST(device_gated) {  // silu(gate x) * (up x), for few and for many rows
  auto device = make_device(0, DType::bf16);
  const std::vector<uint16_t> gate = random_bits(16 * 8), up = random_bits(16 * 8);
  const auto w = device->load_gated({"gate", DType::bf16, 16, 8, {{gate.data(), 16}}},
                                    {"up", DType::bf16, 16, 8, {{up.data(), 16}}});
  for (int64_t rows : {1, 20}) {
    Halves x(rows * 8, 1), out(rows * 16, 1);
    device->ops().linear_gated(Tensor(out.data, DType::bf16, {rows, 16}), Tensor(x.data, DType::bf16, {rows, 8}), *w);
    device->synchronize();
    out.download();
    for (int64_t i = 0; i < rows * 16; ++i) {
      double g = 0, u = 0;
      for (int64_t k = 0; k < 8; ++k) {
        g += double(x.values[i / 16 * 8 + k]) * value_of(gate[i % 16 * 8 + k]);
        u += double(x.values[i / 16 * 8 + k]) * value_of(up[i % 16 * 8 + k]);
      }
      const double want = g / (1 + std::exp(-g)) * u;
      CHECK(std::fabs(out.values[i] - want) <= std::fabs(want) / 256 + 1e-5);
    }
  }
}

TEST(device_copies) {  // larger than the staging buffers, from another thread
  auto device = make_device(0, DType::bf16);
  const int64_t count = 5 << 20;
  auto memory = device->allocate(count * 4, "test");
  const Tensor on_device(memory->data, DType::f32, {count});
  std::vector<float> values(count), back(count);
  for (int64_t i = 0; i < count; ++i) values[i] = float(i);
  std::thread([&] {
    device->upload(on_device, values.data());
    std::fill(values.begin(), values.end(), -1.f);  // ours again at once
    device->download(back.data(), on_device);
  }).join();
  for (int64_t i = 0; i < count; ++i) {
    if (back[i] != float(i)) return fail(drivlm::text("value %lld is %g", (long long)i, double(back[i])));
  }
}

TEST(device_weight_block) {  // every weight in the one block that was reserved, and none past its end
#if defined(DRIVLM_EMULATED)
  auto device = make_device(0, DType::bf16);
  const std::vector<uint16_t> bits = random_bits(40 * 24);
  const std::vector<float> bias(20, 1.f);
  const size_t planned = device->matrix_bytes(40, 24, drivlm::Use::tower, DType::bf16) + device->vector_bytes(20);
  CHECK(device->own_bytes() > 0);
  const size_t free = device->free_bytes();
  const unsigned long long before = emu::stats.allocations;
  device->reserve_weights(planned);
  CHECK(device->free_bytes() == free - planned);
  const auto w = device->load_matrix({"w", DType::bf16, 40, 24, {{bits.data(), 40}}});
  const Tensor b = device->load_vector({"b", DType::f32, 1, 20, {{bias.data(), 1}}});
  CHECK(emu::stats.allocations == before + 1);
  CHECK(column(*device, *w, 19)[39] == value_of(bits[39 * 24 + 19]));
  float back[20];
  device->download(back, b);
  CHECK(back[19] == 1.f);
  CHECK(contains(CHECK_ERROR(Code::internal, device->load_vector({"c", DType::f32, 1, 20, {{bias.data(), 1}}})),
                 "c: the plan"));
  CHECK(contains(CHECK_ERROR(Code::out_of_memory, make_device(0, DType::bf16)->reserve_weights(size_t(1) << 40)),
                 "The weights"));
#endif
}

TEST(device_shared_weights) {  // an integrated GPU reads weights where they are stored, if that is as fast as a copy
#if defined(DRIVLM_EMULATED)
  constexpr int64_t kRows = 512, kCols = 1024;
  const std::vector<uint16_t> bits = random_bits(size_t(kRows * kCols) + 8);
  const uint16_t* stored = bits.data() + (16 - reinterpret_cast<uintptr_t>(bits.data()) % 16) % 16 / 2;
  const size_t bytes = size_t(kRows * kCols) * 2;
  const HostTensor whole{"w", DType::bf16, kRows, kCols, {{stored, kRows}}},
      odd{"odd", DType::bf16, 2, 20, {{stored, 2}}}, crooked{"crooked", DType::bf16, 2, 24, {{stored + 1, 2}}};
  CHECK(!make_device(0, DType::bf16)->share(stored, bytes));  // a GPU with memory of its own
  emu::options.integrated = true;
  {
    auto device = make_device(0, DType::bf16);
    const auto shared = device->share(stored, bytes);
    CHECK(shared != nullptr);
    const size_t before = emu::device_bytes_in_use();
    const auto w = device->load_matrix(whole);
    CHECK(device->keeps_mapping(*w) && emu::device_bytes_in_use() == before);
    CHECK(column(*device, *w, 5)[300] == value_of(stored[300 * kCols + 5]));
    CHECK(!device->keeps_mapping(*device->load_matrix(odd)) && !device->keeps_mapping(*device->load_matrix(crooked)));
    const auto gated = device->load_gated(whole, whole);
    CHECK(!device->keeps_mapping(*gated));
  }
  emu::options.mapped_cost = 1;
  CHECK(!make_device(0, DType::bf16)->share(stored, bytes));
  emu::options.mapped_cost = 0;
  emu::fail_next("cudaHostRegister", cudaErrorNotSupported);
  CHECK(!make_device(0, DType::bf16)->share(stored, bytes));
  emu::options.integrated = false;
#endif
}

TEST(device_stages) {  // timed by events on the stream, around what was enqueued
  auto device = make_device(0, DType::bf16);
  auto memory = device->allocate(64, "test");
  const float values[16] = {};
#if defined(DRIVLM_EMULATED)
  const unsigned long long before = emu::stats.events;
#endif
  device->begin_stage();
  device->begin_stage();  // the one before was cut short
  const double empty = device->end_stage();
  CHECK(empty >= 0);
#if defined(DRIVLM_EMULATED)
  CHECK(emu::stats.events == before + 3);
  device->begin_stage();
  emu::fail_next("cudaEventRecord", cudaErrorLaunchFailure);
  CHECK_ERROR(Code::device_lost, device->end_stage());
#endif
  device->begin_stage();
  device->upload(Tensor(memory->data, DType::f32, {16}), values);
  CHECK(device->end_stage() >= 0);
}

#if defined(DRIVLM_EMULATED)
TEST(
    device_passes) {  // rows of a prompt at a time: by multiprocessors; of 4-bit weights that become bytes more, where there is memory
  const emu::Options before = emu::options;
  const auto rows = [](drivlm::WeightFormat weights, bool int8_activations) {
    return make_device(0, DType::bf16, weights, int8_activations)->prefill_rows();
  };
  using drivlm::WeightFormat;
  CHECK(rows(WeightFormat::bf16, false) == 1024 && rows(WeightFormat::int8, true) == 1024);
  CHECK(rows(WeightFormat::int4, false) == 1024 && rows(WeightFormat::int4, true) == 2048);
  emu::options.device_bytes = size_t(8) << 30;
  CHECK(rows(WeightFormat::int4, true) == 1024);
  emu::options.multiprocessors = 48;
  CHECK(rows(WeightFormat::int4, true) == 2048 && rows(WeightFormat::bf16, false) == 2048);
  emu::options = before;
}
#endif
TEST(device_code) {  // which GPUs the code of a build runs on
  CHECK(has_code("80-real;86-real;90-virtual", 8, 6) && has_code("80-real", 8, 7) && !has_code("87-real", 8, 6));
  CHECK(!has_code("80-real,87-real", 9, 0) && has_code("80-real,87-virtual", 9, 0) && !has_code("90-virtual", 8, 9));
  CHECK(has_code("87", 8, 7) && has_code("87", 12, 0) && !has_code("90a", 10, 0) && has_code("90a-real", 9, 0));
  CHECK(has_code("native", 7, 0) && has_code("100-real;110-real", 11, 0) && !has_code("", 8, 0));
}

TEST(device_refusals) {  // what there is no kernel for, by name and before a weight is read, with what would work
  CHECK(contains(CHECK_ERROR(Code::bad_argument, make_device(0, DType::f32)), "with device 'cpu' it is computed"));
  auto device = make_device(0, DType::bf16, drivlm::WeightFormat::int8);
  const drivlm::PassLimits plain{1024, 4, 512, 1000};
  const auto refuses = [&](const drivlm::PassLimits& limits, const char* part) {
    const std::string message = CHECK_ERROR(Code::bad_argument, device->ops().reserve(limits));
    CHECK(contains(message, part) && contains(message, "Load it with device 'cpu'."));
  };
  drivlm::PassLimits limits = plain;
  limits.row_widths = {64, 256, 64, 172};
  refuses(limits, "a multiple of 8 values; this model has 172");
  limits = plain;
  limits.norm_width = 12800;
  refuses(limits, "rows of up to 8192 values; this model has 12800");
  limits = plain;
  limits.tower_head_dim = 80;
  refuses(limits, "in the vision tower; this model has 80");
  limits.tower_head_dim = 64;
  device->ops().reserve(limits);
  const drivlm::KvShape heads{1, 1, 80, kPageTokens, 1, drivlm::KvFormat::int8};
  CHECK(contains(CHECK_ERROR(Code::bad_argument, device->kv_bytes(heads)),
                 "this model's have 80. Load it with device 'cpu'"));
  const std::vector<uint16_t> bits = random_bits(2 * 12);
  CHECK(contains(CHECK_ERROR(Code::bad_weights, device->load_matrix({"w", DType::bf16, 2, 12, {{bits.data(), 2}}})),
                 "a multiple of 8 values on CUDA in 8 or 4 bits, found 12. Load it with device 'cpu'."));
}
TEST(device_errors) {
  CHECK(contains(CHECK_ERROR(Code::device_unavailable, make_device(99, DType::bf16)), "{ device: 'cpu' }"));
  auto device = make_device(0, DType::bf16);
  const std::vector<uint16_t> odd = random_bits(3 * 6);
  const HostTensor tensor{"some.weight", DType::bf16, 3, 6, {{odd.data(), 3}}};
  CHECK(contains(CHECK_ERROR(Code::bad_weights, device->load_matrix(tensor)), "some.weight"));
#if defined(DRIVLM_EMULATED)
  const std::string full = CHECK_ERROR(Code::out_of_memory, device->allocate(size_t(1) << 40, "The KV cache"));
  CHECK(contains(full, "The KV cache: 1024.00 GiB") && contains(full, "are missing") &&
        contains(full, "Lower kvMemory, maxContext"));
  // A failure in use is DEVICE_LOST, and a new device works again once the GPU does.
  emu::fail_next("cudaStreamSynchronize", cudaErrorLaunchFailure);
  CHECK(contains(CHECK_ERROR(Code::device_lost, device->synchronize()), "can no longer be used"));
  device->synchronize();
  emu::fail_next("cudaGetDeviceCount", cudaErrorNoDevice);
  CHECK(contains(CHECK_ERROR(Code::device_unavailable, make_device(0, DType::bf16)), "no CUDA-capable device"));
  drivlm::SystemInfo info;
  describe_system(info);
  CHECK(info.cuda_built && info.cuda_devices.size() == 1 && info.cuda_devices[0].usable && info.cuda_reason.empty());
  emu::options.devices = 0;
  info = {};
  describe_system(info);
  emu::options.devices = 1;
  CHECK(info.cuda_devices.empty() && info.cuda_reason.back() == '.');
  // A GPU too old for the kernels, and a driver too old for the runtime.
  emu::options.capability = 75;
  CHECK(contains(CHECK_ERROR(Code::device_unavailable, make_device(0, DType::bf16)),
                 "compute capability 7.5; 8.0 or newer"));
  emu::options.capability = 87;
  emu::options.driver = 11080;
  CHECK(contains(CHECK_ERROR(Code::device_unavailable, make_device(0, DType::bf16)), "too old: it supports CUDA 11.8"));
  emu::options.driver = 0;
  CHECK(contains(CHECK_ERROR(Code::device_unavailable, make_device(0, DType::bf16)), "not running"));
  emu::options.driver = CUDART_VERSION;
#endif
}
