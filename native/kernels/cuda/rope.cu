// After the qkv product of a decoder layer: q/k norm, rotary positions, and the new keys and values into their pages.
//
//   q, k   = bf16(q, k * rrms) * norm_weight                        per head, if the network has it
//   q, k   = x[i] cos - x[i + D/2] sin,  x[i + D/2] cos + x[i] sin  rotate-half, D = head_dim
//   q, k   = H q, H k                                               if the cache is in 8 bits: spread_head of packed/formats.h
//   cache[page, kv_head, place, :] = k, v                           in 8 bits: round(127 v / max |v|), and max |v| / 127
//
//   qkv            [rows, (heads + 2 * kv_heads) * D]  bf16   q is rotated in place
//   cos_sin        [angles, D]                         f32    D / 2 cosines, then sines; all scaling is in it
//   angles         [rows]                              i32    each row's row of cos_sin
//   slots          [rows]                              i32    page * 64 + place in the page
//   keys, values   [pages, kv_heads] blocks                   one layer (kv_block_bytes): [64, D] bf16, or int8 and 64 f32 scales
//
// Tiling    A warp takes one head of one row: lane l holds pairs (i, i + D/2) for i = 2l, 2l + 1. No shared memory.
// Traffic   qkv once, q and the pages once: for one decoded token of a 0.5B network 4.6 KB a layer; launch-bound.
// Numerics  f32 until the rounding to bf16 that ends each step of the reference: norm, weight, rotation. H, which leaves q . k as it is and spreads what stands
//           out in a few dimensions, is made in f32: of q before that rounding, of k after it. 8 bits are made of those by quantize_s8 of packed/formats.h,
//           bit for bit.
// Needs     D a multiple of 4, at most 128.
// Checked   test/emulator/rope_test.cpp, rope_append.

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

namespace {

constexpr int kWarps = 4;

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, flip));
  return value;
}

// Two values as bytes, the first the lower.
__device__ __forceinline__ uint16_t round_pair(float first, float second, float inverse) {
  const int low = int(rintf(fminf(fmaxf(first * inverse, -127.f), 127.f)));
  const int high = int(rintf(fminf(fmaxf(second * inverse, -127.f), 127.f)));
  return uint16_t((low & 0xff) | (high & 0xff) << 8);
}

// Values x[i], x[i + 1] and x[i + half], x[i + 1 + half] of a head by H, i = 2 * lane. All lanes call it.
__device__ __forceinline__ void spread(float& a0, float& a1, float& b0, float& b1, int half, int lane) {
  const auto meet = [](float& low, float& high) {
    const float sum = low + high;
    high = low - high;
    low = sum;
  };
  const int part = half & -half;
  meet(a0, b0), meet(a1, b1);
  meet(a0, a1), meet(b0, b1);
  for (int flip = 1; flip < part / 2; flip *= 2) {
    const float sign = lane & flip ? -1.f : 1.f;
    a0 = fmaf(sign, a0, __shfl_xor_sync(kAllLanes, a0, flip)),
    a1 = fmaf(sign, a1, __shfl_xor_sync(kAllLanes, a1, flip));
    b0 = fmaf(sign, b0, __shfl_xor_sync(kAllLanes, b0, flip)),
    b1 = fmaf(sign, b1, __shfl_xor_sync(kAllLanes, b1, flip));
  }
  const float root = 1.f / sqrtf(float(2 * part));
  a0 *= root, a1 *= root, b0 *= root, b1 *= root;
}

template <KvFormat kFormat>
__global__ void __launch_bounds__(32 * kWarps) rope_append_kernel(RopeAppend p) {
  const int lane = threadIdx.x % 32, all_heads = p.heads + 2 * p.kv_heads, half = p.head_dim / 2;
  const int64_t unit = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (unit >= p.rows * all_heads) return;  // the whole warp leaves together
  const int64_t row = unit / all_heads;
  const int head = int(unit % all_heads), i = 2 * lane;
  const bool active = i < half, is_q = head < p.heads, is_k = !is_q && head < p.heads + p.kv_heads;

  bf16* x = p.qkv + (row * all_heads + head) * p.head_dim;
  uint32_t low = 0, high = 0;  // x[i], x[i + 1] and x[i + D/2], x[i + 1 + D/2]
  if (active) {
    low = *reinterpret_cast<const uint32_t*>(x + i);
    high = *reinterpret_cast<const uint32_t*>(x + half + i);
  }
  float a0 = bf16_low(low), a1 = bf16_high(low), b0 = bf16_low(high), b1 = bf16_high(high);
  if (is_q || is_k) {
    if (const float* weight = is_q ? p.q_norm : p.k_norm) {
      const float mean_square = warp_sum(a0 * a0 + a1 * a1 + b0 * b0 + b1 * b1) / p.head_dim;
      const float inverse = rsqrtf(mean_square + p.eps);
      if (active) {
        a0 = round_bf16(round_bf16(a0 * inverse) * weight[i]),
        a1 = round_bf16(round_bf16(a1 * inverse) * weight[i + 1]);
        b0 = round_bf16(round_bf16(b0 * inverse) * weight[half + i]);
        b1 = round_bf16(round_bf16(b1 * inverse) * weight[half + i + 1]);
      }
    }
    if (active) {
      const float* cos_sin = p.cos_sin + int64_t(p.angles[row]) * p.head_dim;
      const float2 cosine = *reinterpret_cast<const float2*>(cos_sin + i);
      const float2 sine = *reinterpret_cast<const float2*>(cos_sin + half + i);
      const float c0 = a0 * cosine.x - b0 * sine.x, c1 = a1 * cosine.y - b1 * sine.y;
      b0 = b0 * cosine.x + a0 * sine.x, b1 = b1 * cosine.y + a1 * sine.y;
      a0 = c0, a1 = c1;
    }
    if constexpr (kFormat == KvFormat::int8) {
      if (is_k) a0 = round_bf16(a0), a1 = round_bf16(a1), b0 = round_bf16(b0), b1 = round_bf16(b1);
      spread(a0, a1, b0, b1, half, lane);
    }
    low = pack_bf16(a0, a1), high = pack_bf16(b0, b1);
  }
  bf16* to = x;
  if (!is_q) {
    const int kv_head = head - p.heads - (is_k ? 0 : p.kv_heads), slot = p.slots[row], place = slot % kPageTokens;
    const int64_t page = slot / kPageTokens;
    char* block = static_cast<char*>(is_k ? p.keys : p.values) +
                  (page * p.kv_heads + kv_head) * kv_block_bytes(p.head_dim, kFormat);
    if constexpr (kFormat == KvFormat::int8) {
      const float top = warp_max(fmaxf(fmaxf(fabsf(a0), fabsf(a1)), fmaxf(fabsf(b0), fabsf(b1))));
      const float inverse = top > 0 ? 127.f / top : 0.f;
      if (lane == 0) reinterpret_cast<float*>(block + kPageTokens * p.head_dim)[place] = top / 127.f;
      if (!active) return;
      char* bytes = block + place * p.head_dim;
      *reinterpret_cast<uint16_t*>(bytes + i) = round_pair(a0, a1, inverse);
      *reinterpret_cast<uint16_t*>(bytes + half + i) = round_pair(b0, b1, inverse);
      return;
    }
    to = reinterpret_cast<bf16*>(block) + place * p.head_dim;
  }
  if (!active) return;
  *reinterpret_cast<uint32_t*>(to + i) = low;
  *reinterpret_cast<uint32_t*>(to + half + i) = high;
}

}  // namespace

void rope_append(const RopeAppend& job, cudaStream_t stream) {
  if (job.head_dim % 4 != 0 || job.head_dim > 128) {
    throw Error(Code::internal, text("rope_append: no kernel for head_dim %d; multiples of 4 up to 128", job.head_dim));
  }
  const int64_t units = job.rows * (job.heads + 2 * job.kv_heads);
  const bool bytes = job.format == KvFormat::int8;
  const auto kernel = bytes ? rope_append_kernel<KvFormat::int8> : rope_append_kernel<KvFormat::activation>;
  launch(kernel, dim3(unsigned(ceil_div(units, kWarps))), 32 * kWarps, 0, stream, job);
}

void CudaOps::rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv, int64_t layer,
                          int64_t heads, const Batch& batch) {
  const int64_t kv_heads = kv.shape.kv_heads, head_dim = kv.shape.head_dim;
  expect_shape("rope_append", "qkv", qkv, {batch.rows, (heads + 2 * kv_heads) * head_dim});
  expect_angles("rope_append", cos_sin, head_dim, batch);
  expect_bf16("rope_append", "qkv", qkv);
  expect_kv("rope_append", kv, layer);
  RopeAppend job{};
  job.qkv = qkv.as<bf16>();
  job.cos_sin = cos_sin.as<float>();
  job.q_norm = parameters("rope_append", "q_norm", q_norm, head_dim);
  job.k_norm = parameters("rope_append", "k_norm", k_norm, head_dim);
  job.eps = eps;
  job.slots = batch_lists_.at<int32_t>(0), job.angles = batch_lists_.at<int32_t>(1);
  job.keys = layer_keys(kv, layer), job.values = layer_values_of(kv, layer);
  job.rows = batch.rows;
  job.heads = int(heads), job.kv_heads = int(kv_heads), job.head_dim = int(head_dim);
  job.format = kv.shape.format;
  cuda::rope_append(job, stream());
}

}  // namespace drivlm::cuda
