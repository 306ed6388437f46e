// Whole pages of the KV cache: copying one, and reading a sequence back.
//
//   cache[all layers, page to] = cache[all layers, page from]                     copy on write
//   keys, values [kv_heads, tokens, head_dim] f32 = those cached of one layer      for tests and probes
//
//   cache  [layers, 2, pages, kv_heads] blocks of [64, head_dim] bf16, or int8 with 64 f32 scales (kv_block_bytes)
//
// Tiling    the copy is one of the driver's, strided by layer; reading: a block a token and head.
// Checked   test/emulator/attention_test.cpp, attention_cached_.

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"
#include "packed/formats.h"

namespace drivlm::cuda {

namespace {

// blockIdx.z: 0 keys, 1 values.
__global__ void __launch_bounds__(128)
    read_cached_kernel(float* keys, float* values, const void* cached_keys, const void* cached_values,
                       const int32_t* pages, int tokens, int kv_heads, int head_dim, KvFormat format) {
  const int token = blockIdx.x, kv_head = blockIdx.y, place = token % kPageTokens;
  const int64_t page = pages[token / kPageTokens];
  const char* block = static_cast<const char*>(blockIdx.z ? cached_values : cached_keys) +
                      (page * kv_heads + kv_head) * kv_block_bytes(head_dim, format);
  float* to = (blockIdx.z ? values : keys) + (int64_t(kv_head) * tokens + token) * head_dim;
  for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
    if (format == KvFormat::int8) {
      const float scale = reinterpret_cast<const float*>(block + kPageTokens * head_dim)[place];
      to[d] = scale * reinterpret_cast<const int8_t*>(block)[place * head_dim + d];
    } else {
      to[d] = __bfloat162float(reinterpret_cast<const bf16*>(block)[place * head_dim + d]);
    }
  }
}

}  // namespace

void CudaOps::copy_page(Kv kv, int32_t from, int32_t to) {
  const size_t page = size_t(kv_page_bytes(kv.shape));
  const size_t pitch = size_t(kv.shape.pages) * page;
  char* base = static_cast<char*>(kv.data);
  check(cudaMemcpy2DAsync(base + to * page, pitch, base + from * page, pitch, page, size_t(2 * kv.shape.layers),
                          cudaMemcpyDeviceToDevice, stream()),
        "copying a page");
}

void CudaOps::read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) {
  expect_kv("read_kv", kv, layer);
  if (tokens == 0) return;
  const cudaStream_t on = stream();
  const int64_t kv_heads = kv.shape.kv_heads, head_dim = kv.shape.head_dim, count = kv_heads * tokens * head_dim;
  DeviceMemory both(2 * size_t(count) * sizeof(float), "Cached keys and values for a test");
  float* device_keys = static_cast<float*>(both.data);
  float* device_values = device_keys + count;
  id_lists_.clear();
  id_lists_.add(pages, size_t(ceil_div(tokens, kPageTokens)));
  send(id_lists_);
  launch(read_cached_kernel, dim3(unsigned(tokens), unsigned(kv_heads), 2), 128, 0, on, device_keys, device_values,
         layer_keys(kv, layer), layer_values_of(kv, layer), id_lists_.at<int32_t>(0), int(tokens), int(kv_heads),
         int(head_dim), kv.shape.format);
  device_.download(keys, Tensor(device_keys, DType::f32, {count}));
  device_.download(values, Tensor(device_values, DType::f32, {count}));
  if (kv.shape.format != KvFormat::int8) return;
  for (int64_t i = 0; i < count; i += head_dim) spread_head(keys + i, head_dim);  // back
}

}  // namespace drivlm::cuda
