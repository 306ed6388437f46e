// The inline-PTX wrappers one by one, so that a test can see fragments; the same file tests them on a GPU.
#include "wrappers_test.h"

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda::testing {

namespace {

__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, const float* c, float* d, bool tile) {
  const int lane = threadIdx.x;
  const uint32_t r_a[1][4] = {{a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]}};
  const uint32_t r_b[1][2] = {{b[lane * 2], b[lane * 2 + 1]}};
  float r_d[1][1][4] = {{{c[lane * 4], c[lane * 4 + 1], c[lane * 4 + 2], c[lane * 4 + 3]}}};
  if (tile) {
    mma_bf16_tile(r_d, r_a, r_b);
  } else {
    mma_bf16(r_d[0][0], r_a[0], r_b[0][0], r_b[0][1]);
  }
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = r_d[0][0][i];
}

__global__ void mma_u8s8_kernel(const uint32_t* a, const uint32_t* b, const int32_t* c, int32_t* d) {
  const int lane = threadIdx.x;
  const uint32_t r_a[1][4] = {{a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]}};
  const uint32_t r_b[1][2] = {{b[lane * 2], b[lane * 2 + 1]}};
  int32_t r_d[1][1][4] = {{{c[lane * 4], c[lane * 4 + 1], c[lane * 4 + 2], c[lane * 4 + 3]}}};
  mma_u8s8_tile(r_d, r_a, r_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = r_d[0][0][i];
}

__global__ void ldmatrix_kernel(const uint4* rows, uint32_t* registers, bool trans) {
  SHARED_ARRAY(uint4, s_rows, [32]);
  const int lane = threadIdx.x;
  s_rows[lane] = rows[lane];
  __syncwarp();
  uint32_t r[4];
  if (trans) {
    ldmatrix_x4_trans(r, shared_address(&s_rows[lane]));
  } else {
    ldmatrix_x4(r, shared_address(&s_rows[lane]));
  }
  for (int i = 0; i < 4; ++i) registers[lane * 4 + i] = r[i];
}

__global__ void copy_kernel(const uint4* in, uint4* out, int valid, int bytes) {
  uint4* s_chunk = dynamic_shared<uint4>();
  const int i = threadIdx.x;
  const char* from = reinterpret_cast<const char*>(in + i);
  if (bytes == 4) {
    for (int at = 0; at < 16; at += 4) cp_async4(shared_address(s_chunk + i) + at, from + at, i < valid);
  } else if (bytes == 8) {
    cp_async8(shared_address(s_chunk + i), from, i < valid);
    cp_async8(shared_address(s_chunk + i) + 8, from + 8, i < valid);
  } else {
    cp_async16(shared_address(s_chunk + i), in + i, i < valid);
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[i] = s_chunk[blockDim.x - 1 - i];
}

__global__ void fma_kernel(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out) {
  const int i = threadIdx.x;
  out[i] = fma_bf16x2(a[i], b[i], c[i]);
}

__global__ void widen_kernel(const uint32_t* in, uint32_t* out) {
  const int i = threadIdx.x;
  out[i] = widen_bytes(in[i]);
  out[256 + i] = and_xor<0x000f000fu, 0x43004300u>(in[i]);
  out[512 + i] = fma_bf16x2(in[i] & 0x00f000f0u, 0x7f007f00u, 0xc000c000u);
}

__global__ void streaming_kernel(const uint4* in, uint4* out) { out[threadIdx.x] = load_streaming16(in + threadIdx.x); }

__global__ void increment_kernel(int* data, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) ++data[i];
}

__global__ void shuffle_kernel(const int* in, int* out) {
  SHARED_ARRAY(int, s_values, [32]);
  const int lane = threadIdx.x, value = in[lane];
  s_values[lane] = value;
  __syncwarp();  // orders the exchange
  out[160 + lane] = s_values[31 - lane];
  out[lane] = __shfl_sync(kAllLanes, value, 5);
  out[32 + lane] = __shfl_xor_sync(kAllLanes, value, 3);
  out[64 + lane] = __shfl_down_sync(kAllLanes, value, 2);
  out[96 + lane] = __shfl_up_sync(kAllLanes, value, 1);
  out[128 + lane] = int(__ballot_sync(kAllLanes, value & 1));
}

__global__ void activation_kernel(const float* in, float* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = gelu(in[i]);
  out[n + i] = silu(in[i]);
  out[2 * n + i] = exp2_approx(in[i]);
}

__global__ void shared_kernel(int* out, int bytes) {
  SHARED_ARRAY(int, s_declared, [1024]);
  int* s_asked = dynamic_shared<int>();
  const int last = bytes / 4 - 1;
  s_declared[1023] = 1, s_asked[last] = 2;
  *out = s_declared[1023] + s_asked[last];
}

}  // namespace

void run_mma(const uint32_t* a, const uint32_t* b, const float* c, float* d, bool tile) {
  launch(mma_kernel, dim3(1), 32, 0, nullptr, a, b, c, d, tile);
}
void run_mma_u8s8(const uint32_t* a, const uint32_t* b, const int32_t* c, int32_t* d) {
  launch(mma_u8s8_kernel, dim3(1), 32, 0, nullptr, a, b, c, d);
}
void run_fma(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out) {
  launch(fma_kernel, dim3(1), 32, 0, nullptr, a, b, c, out);
}
void run_widen(const uint32_t* in, uint32_t* out) { launch(widen_kernel, dim3(1), 256, 0, nullptr, in, out); }
void run_streaming(const uint4* in, uint4* out) { launch(streaming_kernel, dim3(1), 64, 0, nullptr, in, out); }
void run_ldmatrix(const uint4* rows, uint32_t* registers, bool trans) {
  launch(ldmatrix_kernel, dim3(1), 32, 0, nullptr, rows, registers, trans);
}
void run_copy(const uint4* in, uint4* out, int valid, int bytes) {
  launch(copy_kernel, dim3(1), 64, 64 * sizeof(uint4), nullptr, in, out, valid, bytes);
}
void run_increment(int* data, int n, cudaStream_t stream) {
  launch(increment_kernel, dim3(unsigned(ceil_div(n, 64))), 64, 0, stream, data, n);
}
void run_shuffles(const int* in, int* out) { launch(shuffle_kernel, dim3(1), 32, 0, nullptr, in, out); }
void run_activations(const float* in, float* out, int n) {
  launch(activation_kernel, dim3(unsigned(ceil_div(n, 64))), 64, 0, nullptr, in, out, n);
}
void run_shared(int* out, int bytes) { launch(shared_kernel, dim3(1), 1, size_t(bytes), nullptr, out, bytes); }
void run_overrun(int* data, int n) { launch(increment_kernel, dim3(2), 1024, 0, nullptr, data, n + 1); }

}  // namespace drivlm::cuda::testing
