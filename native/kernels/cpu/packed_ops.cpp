// The ops of the packed backend: check shapes, describe the job, hand it to the kernels.

#include <cstring>

#include "kernels/cpu/packed_device.h"
#include "kernels/cpu/packed_kv.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/thread_pool.h"
#include "packed/formats.h"

namespace drivlm {

namespace {

constexpr int64_t kRows = 32;  // rows a task of the row kernels takes

void expect_bf16(const char* op, const Tensor& tensor) {
  if (tensor.dtype != DType::bf16)
    throw Error(Code::internal, text("%s: expected bf16, found %s", op, dtype_name(tensor.dtype)));
}

const float* vector_of(const char* op, const char* name, const Tensor& tensor, int64_t size) {
  if (!tensor) return nullptr;
  expect_shape(op, name, tensor, {size});
  return tensor.as<float>();
}

// The value at `offset` of a block of the cache, whose scale in 8 bits is the `scale`-th.
float read(const char* block, const cpu::KvLayout& layout, int64_t offset, int64_t scale) {
  if (layout.int8) {
    float step;
    std::memcpy(&step, block + layout.scales_offset() + scale * static_cast<int64_t>(sizeof step), sizeof step);
    return step * static_cast<float>(*reinterpret_cast<const int8_t*>(block + offset));
  }
  bf16 value;
  std::memcpy(&value, block + offset, sizeof value);
  return to_float(value);
}

}  // namespace

PackedCpuOps::PackedCpuOps(Device& device, int threads, const cpu::KernelTable& kernels, bool int8_activations)
    : ReferenceOps(device, threads), kernels_(kernels), int8_activations_(int8_activations), pool_(threads) {}

// The shapes, then job.out = job.after(x * w^T).
void PackedCpuOps::multiply(Tensor out, Tensor x, const Matrix& w, cpu::GemmJob job) {
  const bool gated = job.after == Epilogue::gated;
  const char* op = gated ? "linear_gated" : "linear";
  const auto* matrix = dynamic_cast<const PackedMatrix*>(&w);
  if (!matrix || matrix->gated != gated) throw Error(Code::internal, std::string(op) + ": not a matrix packed for it");
  const int64_t rows = x.shape[0], n = gated ? w.rows / 2 : w.rows;
  expect_shape(op, "x", x, {rows, w.cols});
  expect_shape(op, "out", out, {rows, n});
  expect_bf16(op, x);
  if (out.dtype != DType::f32) expect_bf16(op, out);
  job.x = x.data;
  job.x_stride = w.cols;
  job.x_int8 = int8_activations_;
  job.w = matrix->panels();
  job.kind = matrix->kind;
  if (matrix->kind == cpu::WeightKind::s8) {
    job.w_scale = matrix->scales();
    job.w_sum = matrix->sums();
  }
  job.m = rows;
  job.n = w.rows;
  job.k = w.cols;
  job.out = out.data;
  job.out_stride = n;
  job.out_f32 = out.dtype == DType::f32;
  cpu::gemm(kernels_, job, pool_);
}

void PackedCpuOps::linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Epilogue after) {
  cpu::GemmJob job;
  job.after = after;
  job.bias = vector_of("linear", "bias", bias, w.rows);
  multiply(out, x, w, job);
}

void PackedCpuOps::linear_add(Tensor x, Tensor in, const Matrix& w, Tensor bias, Tensor scale, Tensor) {
  cpu::GemmJob job;
  job.after = Epilogue::add;
  job.bias = vector_of("linear_add", "bias", bias, w.rows);
  job.scale = vector_of("linear_add", "scale", scale, w.rows);
  multiply(x, in, w, job);
}

void PackedCpuOps::linear_gated(Tensor out, Tensor x, const Matrix& gate_up) {
  cpu::GemmJob job;
  job.after = Epilogue::gated;
  multiply(out, x, gate_up, job);
}

void PackedCpuOps::scale_add(Tensor x, Tensor y, Tensor scale) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("scale_add", "y", y, {rows, dim});
  expect_bf16("scale_add", x);
  expect_bf16("scale_add", y);
  const float* scales = vector_of("scale_add", "scale", scale, dim);
  parallel(rows, kRows, [&](int64_t first, int64_t last) {
    kernels_.scale_add(x.as<uint16_t>() + first * dim, y.as<uint16_t>() + first * dim, last - first, dim, scales);
  });
}

void PackedCpuOps::norm(Tensor out, Tensor x, const Norm& norm) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("norm", "out", out, {rows, dim});
  expect_shape("norm", "weight", norm.weight, {dim});
  if (norm.layer) expect_shape("norm", "bias", norm.bias, {dim});
  expect_bf16("norm", out);
  expect_bf16("norm", x);
  const float* weight = norm.weight.as<float>();
  parallel(rows, kRows, [&](int64_t first, int64_t last) {
    uint16_t* to = out.as<uint16_t>() + first * dim;
    const uint16_t* from = x.as<uint16_t>() + first * dim;
    if (norm.layer) {
      kernels_.layer_norm(to, from, last - first, dim, weight, norm.bias.as<float>(), norm.eps);
    } else {
      kernels_.rms_norm(to, from, last - first, dim, dim, weight, norm.eps);
    }
  });
}

void PackedCpuOps::norm_columns(Tensor x, int64_t first_column, int64_t width, Tensor weight, float eps) {
  const int64_t rows = x.shape[0], stride = x.shape[1];
  expect_shape("norm_columns", "weight", weight, {width});
  expect_bf16("norm_columns", x);
  parallel(rows, kRows, [&](int64_t first, int64_t last) {
    uint16_t* part = x.as<uint16_t>() + first * stride + first_column;
    kernels_.rms_norm(part, part, last - first, stride, width, weight.as<float>(), eps);
  });
}

void PackedCpuOps::attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) {
  if (!cpu::packs_head(head_dim)) return ReferenceOps::attention(out, qkv, heads, head_dim, positions);
  const int64_t rows = qkv.shape[0], dim = heads * head_dim;
  expect_shape("attention", "qkv", qkv, {rows, 3 * dim});
  expect_shape("attention", "out", out, {rows, dim});
  expect_bf16("attention", qkv);
  expect_bf16("attention", out);
  cpu::attention(kernels_, out.as<uint16_t>(), qkv.as<uint16_t>(), rows / positions, positions, heads, head_dim,
                 int8_activations_, pool_);
}

void PackedCpuOps::begin_batch(const Batch&) { planned_ = false; }

void PackedCpuOps::rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv,
                               int64_t layer, int64_t heads, const Batch& batch) {
  if (!cpu::packs(kv.shape))
    return ReferenceOps::rope_append(qkv, q_norm, k_norm, eps, cos_sin, kv, layer, heads, batch);
  const KvShape& s = kv.shape;
  const int64_t dim = s.head_dim, width = (heads + 2 * s.kv_heads) * dim;
  expect_shape("rope_append", "qkv", qkv, {batch.rows, width});
  expect_angles("rope_append", cos_sin, dim, batch);
  expect_bf16("rope_append", qkv);
  const float* q_weight = vector_of("rope_append", "q_norm", q_norm, dim);
  const float* k_weight = vector_of("rope_append", "k_norm", k_norm, dim);
  const cpu::KvLayout layout = cpu::layout_of(s);
  for (const Segment& segment : batch.segments) {
    // One task a page that the segment touches: two tokens of a unit are never written by two threads.
    const int64_t first_page = segment.past / s.page_tokens, last = segment.past + segment.rows;
    const int64_t pages = segment.rows == 0 ? 0 : (last - 1) / s.page_tokens + 1 - first_page;
    parallel(pages, 1, [&](int64_t first_task, int64_t last_task) {
      for (int64_t page = first_page + first_task; page < first_page + last_task; ++page) {
        const int64_t token0 = std::max(segment.past, page * s.page_tokens),
                      token1 = std::min(last, (page + 1) * s.page_tokens);
        for (int64_t token = token0; token < token1; ++token) {
          const int64_t i = token - segment.past;
          uint16_t* q = qkv.as<uint16_t>() + (segment.row + i) * width;
          const float* angles = cos_sin.as<float>() + (segment.first_angle + i) * dim;
          kernels_.rope(q, heads, dim, q_weight, eps, angles, layout.int8);
          kernels_.rope(q + heads * dim, s.kv_heads, dim, k_weight, eps, angles, false);  // append spreads them
        }
        const uint16_t* keys = qkv.as<uint16_t>() + (segment.row + token0 - segment.past) * width + heads * dim;
        for (int64_t head = 0; head < s.kv_heads; ++head) {
          char* block =
              static_cast<char*>(kv.data) + layout.block_offset(batch.pages[segment.first_page + page], layer, head);
          kernels_.append(block, layout, keys + head * dim, keys + (s.kv_heads + head) * dim, width,
                          token0 - page * s.page_tokens, token1 - token0);
        }
      }
    });
  }
}

void PackedCpuOps::attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) {
  if (!cpu::packs(kv.shape)) return ReferenceOps::attention_cached(out, qkv, kv, layer, heads, batch);
  const KvShape& s = kv.shape;
  expect_shape("attention_cached", "qkv", qkv, {batch.rows, (heads + 2 * s.kv_heads) * s.head_dim});
  expect_shape("attention_cached", "out", out, {batch.rows, heads * s.head_dim});
  expect_bf16("attention_cached", qkv);
  expect_bf16("attention_cached", out);
  if (!planned_) {
    plan_.make(batch, s.page_tokens, heads, s.kv_heads, s.head_dim, kernels_.tile_rows, threads_);
    planned_ = true;
  }
  plan_.run(kernels_, out.as<uint16_t>(), qkv.as<uint16_t>(), kv.data, cpu::layout_of(s), layer, heads,
            int8_activations_, pool_);
}

void PackedCpuOps::copy_page(Kv kv, int32_t from, int32_t to) {
  if (!cpu::packs(kv.shape)) return ReferenceOps::copy_page(kv, from, to);
  const int64_t bytes = cpu::layout_of(kv.shape).page_bytes();
  std::memcpy(static_cast<char*>(kv.data) + to * bytes, static_cast<char*>(kv.data) + from * bytes, bytes);
}

void PackedCpuOps::read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) {
  if (!cpu::packs(kv.shape)) return ReferenceOps::read_kv(keys, values, kv, layer, pages, tokens);
  const KvShape& s = kv.shape;
  const cpu::KvLayout layout = cpu::layout_of(s);
  for (int64_t head = 0; head < s.kv_heads; ++head) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t token = t % s.page_tokens;
      const char* block =
          static_cast<const char*>(kv.data) + layout.block_offset(pages[t / s.page_tokens], layer, head);
      float* key = keys + (head * tokens + t) * s.head_dim;
      for (int64_t d = 0; d < s.head_dim; ++d) {
        key[d] = read(block, layout, layout.key_offset(token, d), token);
        values[(head * tokens + t) * s.head_dim + d] =
            read(block, layout, layout.value_offset(token, d), s.page_tokens + token);
      }
      if (layout.int8) spread_head(key, s.head_dim);  // back
    }
  }
}

}  // namespace drivlm
