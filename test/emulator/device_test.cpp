// CudaDevice: weights, copies, memory that does not suffice, devices that are not there.
#include <cstring>
#include <thread>

#include "core/numeric.h"
#include "core/ops.h"
#include "kernels/cuda/cuda_device.h"
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

std::string message_of(Code code, const std::function<void()>& body) {
  try {
    body();
  } catch (const drivlm::Error& error) {
    if (error.code != code) fail(std::string("wrong code: ") + drivlm::code_name(error.code) + ": " + error.what());
    return error.what();
  }
  fail("nothing was thrown");
  return "";
}
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
  device.ops().linear(Tensor(y.data, DType::f32, {1, w.rows}), Tensor(x.data, DType::bf16, {1, w.cols}), w, {}, drivlm::Act::none);
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
  const HostTensor whole{"w", DType::bf16, 40, 24, {{bits.data(), 3}, {bits.data() + 72, 36}, {bits.data() + 39 * 24, 1}}};
  const HostTensor wide{"w", DType::f32, 40, 24, {{floats.data(), 40}}};
  std::vector<uint16_t> halves(40 * 24, 0x3c00);  // f16 1.0
  halves[24] = 0xc500;                            // -5
  const HostTensor half{"w", DType::f16, 40, 24, {{halves.data(), 40}}};
  const auto a = device->load_matrix(whole), b = device->load_matrix(wide), c = device->load_matrix(half);
  EXPECT(device->matrix_bytes(40, 24, DType::bf16) >= 40 * 24 * 2 && !device->keeps_mapping(*a));
  for (int64_t k : {0, 7, 23}) {
    const std::vector<float> got_a = column(*device, *a, k), got_b = column(*device, *b, k), got_c = column(*device, *c, k);
    for (int64_t row = 0; row < 40; ++row) {
      EXPECT(got_a[row] == value_of(bits[row * 24 + k]));
      EXPECT(got_b[row] == got_a[row]);
      EXPECT(got_c[row] == (row == 1 && k == 0 ? -5.f : 1.f));
    }
  }
  // A tied head is the table once more: no second copy.
#if defined(DRIVLM_EMULATED)
  const size_t before = emu::device_bytes_in_use();
  const auto again = device->load_table(whole);
  EXPECT(emu::device_bytes_in_use() == before);
#endif
}

TEST(device_gated) {  // silu(gate x) * (up x), for few and for many rows
  auto device = make_device(0, DType::bf16);
  const std::vector<uint16_t> gate = random_bits(16 * 8), up = random_bits(16 * 8);
  const auto w = device->load_gated({"gate", DType::bf16, 16, 8, {{gate.data(), 16}}}, {"up", DType::bf16, 16, 8, {{up.data(), 16}}});
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
      EXPECT(std::fabs(out.values[i] - want) <= std::fabs(want) / 256 + 1e-5);
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

TEST(device_errors) {
  EXPECT(contains(message_of(Code::bad_argument, [] { make_device(0, DType::f32); }), "bf16"));
  EXPECT(contains(message_of(Code::device_unavailable, [] { make_device(99, DType::bf16); }), "{ device: 'cpu' }"));
  auto device = make_device(0, DType::bf16);
  const std::vector<uint16_t> odd = random_bits(3 * 6);
  const HostTensor tensor{"some.weight", DType::bf16, 3, 6, {{odd.data(), 3}}};
  EXPECT(contains(message_of(Code::bad_weights, [&] { device->load_matrix(tensor); }), "some.weight"));
#if defined(DRIVLM_EMULATED)
  const std::string full = message_of(Code::out_of_memory, [&] { device->allocate(size_t(1) << 40, "The KV cache"); });
  EXPECT(contains(full, "The KV cache: 1024.00 GiB") && contains(full, "are missing"));
  // A failure in use is DEVICE_LOST, and a new device works again once the GPU does.
  emu::fail_next("cudaStreamSynchronize", cudaErrorLaunchFailure);
  EXPECT(contains(message_of(Code::device_lost, [&] { device->synchronize(); }), "can no longer be used"));
  device->synchronize();
  emu::fail_next("cudaGetDeviceCount", cudaErrorNoDevice);
  EXPECT(contains(message_of(Code::device_unavailable, [] { make_device(0, DType::bf16); }), "no CUDA-capable device"));
  drivlm::SystemInfo info;
  describe_system(info);
  EXPECT(info.cuda_built && info.cuda_devices.size() == 1 && info.cuda_devices[0].usable && info.cuda_reason.empty());
  emu::options.devices = 0;
  info = {};
  describe_system(info);
  emu::options.devices = 1;
  EXPECT(info.cuda_devices.empty() && info.cuda_reason.back() == '.');
#endif
}
