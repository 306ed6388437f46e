// Plain attention: one query at a time, exact softmax in f32.
//
//   out[q, :] = sum_k softmax_k(q . k / sqrt(head_dim)) * v[k, :]
//
// The cache's plain layout is [layer][page][key | value][kv_head][page_tokens][head_dim] of the activation type.

#include <cmath>
#include <cstring>

#include "kernels/cpu/plain.h"

namespace drivlm {

namespace {

// keys, values f32 [count, head_dim]; query, out [head_dim].
template <class T>
void attend(T* out, const T* query, const float* keys, const float* values, int64_t count, int64_t head_dim) {
  float* q = thread_buffer(2, head_dim * 2 + count);
  float* sum = q + head_dim;
  float* scores = sum + head_dim;
  widen_row(q, query, head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  float top = -INFINITY;
  for (int64_t k = 0; k < count; ++k) {
    scores[k] = dot(q, keys + k * head_dim, head_dim) * scale;
    top = std::max(top, scores[k]);
  }
  float total = 0;
  for (int64_t k = 0; k < count; ++k) total += scores[k] = std::exp(scores[k] - top);
  std::fill(sum, sum + head_dim, 0.0f);
  for (int64_t k = 0; k < count; ++k) add_scaled(sum, scores[k], values + k * head_dim, head_dim);
  for (int64_t d = 0; d < head_dim; ++d) out[d] = from_float<T>(sum[d] / total);
}

// Elements from the start of the cache to [layer][page][which][head][0][0].
int64_t cache_offset(const KvShape& s, int64_t layer, int64_t page, int which, int64_t head) {
  return (((layer * s.pages + page) * 2 + which) * s.kv_heads + head) * s.page_tokens * s.head_dim;
}

}  // namespace

void CpuOps::attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) {
  const int64_t rows = qkv.shape[0], dim = heads * head_dim;
  expect_shape("attention", "qkv", qkv, {rows, 3 * dim});
  expect_shape("attention", "out", out, {rows, dim});
  with_activation("attention", qkv.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(rows / positions * heads, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const int64_t start = task / heads * positions, head = task % heads;
        const T* base = qkv.as<T>() + start * 3 * dim + head * head_dim;
        float* keys = thread_buffer(0, positions * head_dim);
        float* values = thread_buffer(1, positions * head_dim);
        for (int64_t p = 0; p < positions; ++p) {
          widen_row(keys + p * head_dim, base + p * 3 * dim + dim, head_dim);
          widen_row(values + p * head_dim, base + p * 3 * dim + 2 * dim, head_dim);
        }
        for (int64_t p = 0; p < positions; ++p) {
          attend(out.as<T>() + (start + p) * dim + head * head_dim, base + p * 3 * dim, keys, values, positions, head_dim);
        }
      }
    });
  });
}

void CpuOps::begin_batch(const Batch&) {}

void CpuOps::rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv, int64_t layer, int64_t heads,
                         const Batch& batch) {
  const KvShape& s = kv.shape;
  const int64_t d = s.head_dim, half = d / 2, width = (heads + 2 * s.kv_heads) * d;
  expect_shape("rope_append", "qkv", qkv, {batch.rows, width});
  expect_shape("rope_append", "cos_sin", cos_sin, {batch.rows, d});
  with_activation("rope_append", qkv.dtype, [&](auto type) {
    using T = decltype(type);
    auto turn = [&](T* x, const float* angle, Tensor weight) {
      float* row = thread_buffer(0, d);
      widen_row(row, x, d);
      if (weight) {
        const float rstd = 1.0f / std::sqrt(dot(row, row, d) / static_cast<float>(d) + eps);
        for (int64_t i = 0; i < d; ++i) row[i] = to_float(from_float<T>(row[i] * rstd)) * weight.as<float>()[i];
      }
      for (int64_t i = 0; i < half; ++i) {
        const float a = row[i], b = row[i + half];
        x[i] = from_float<T>(a * angle[i] - b * angle[half + i]);
        x[i + half] = from_float<T>(b * angle[i] + a * angle[half + i]);
      }
    };
    for (const Segment& segment : batch.segments) {
      parallel(segment.rows, 8, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          T* row = qkv.as<T>() + (segment.row + i) * width;
          const float* angle = cos_sin.as<float>() + (segment.row + i) * d;
          const int64_t position = segment.past + i;
          const int64_t page = batch.pages[segment.first_page + position / s.page_tokens], place = position % s.page_tokens;
          for (int64_t head = 0; head < heads; ++head) turn(row + head * d, angle, q_norm);
          for (int64_t head = 0; head < s.kv_heads; ++head) {
            T* key = row + (heads + head) * d;
            turn(key, angle, k_norm);
            T* cache = static_cast<T*>(kv.data);
            std::memcpy(cache + cache_offset(s, layer, page, 0, head) + place * d, key, d * sizeof(T));
            std::memcpy(cache + cache_offset(s, layer, page, 1, head) + place * d, key + s.kv_heads * d, d * sizeof(T));
          }
        }
      });
    }
  });
}

void CpuOps::attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) {
  const KvShape& s = kv.shape;
  const int64_t d = s.head_dim, group = heads / s.kv_heads, width = (heads + 2 * s.kv_heads) * d;
  expect_shape("attention_cached", "qkv", qkv, {batch.rows, width});
  expect_shape("attention_cached", "out", out, {batch.rows, heads * d});
  with_activation("attention_cached", qkv.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t segments = static_cast<int64_t>(batch.segments.size());
    parallel(segments * s.kv_heads, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const Segment& segment = batch.segments[task / s.kv_heads];
        const int64_t kv_head = task % s.kv_heads, length = segment.past + segment.rows;
        float* keys = thread_buffer(0, length * d);
        float* values = thread_buffer(1, length * d);
        for (int64_t t = 0; t < length; t += s.page_tokens) {
          const int64_t page = batch.pages[segment.first_page + t / s.page_tokens];
          const int64_t count = std::min(s.page_tokens, length - t) * d;
          const T* cache = static_cast<const T*>(kv.data);
          widen_row(keys + t * d, cache + cache_offset(s, layer, page, 0, kv_head), count);
          widen_row(values + t * d, cache + cache_offset(s, layer, page, 1, kv_head), count);
        }
        for (int64_t i = 0; i < segment.rows; ++i) {
          const int64_t row = segment.row + i;
          for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            attend(out.as<T>() + (row * heads + head) * d, qkv.as<T>() + row * width + head * d, keys, values, segment.past + i + 1, d);
          }
        }
      }
    });
  });
}

void CpuOps::copy_page(Kv kv, int32_t from, int32_t to) {
  const KvShape& s = kv.shape;
  const int64_t page_bytes = 2 * s.kv_heads * s.page_tokens * s.head_dim * dtype_bytes(device_.activation());
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    char* base = static_cast<char*>(kv.data) + layer * s.pages * page_bytes;
    std::memcpy(base + to * page_bytes, base + from * page_bytes, page_bytes);
  }
}

void CpuOps::read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) {
  const KvShape& s = kv.shape;
  with_activation("read_kv", device_.activation(), [&](auto type) {
    using T = decltype(type);
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t place = t % s.page_tokens * s.head_dim, page = pages[t / s.page_tokens];
        const T* cache = static_cast<const T*>(kv.data);
        widen_row(keys + (head * tokens + t) * s.head_dim, cache + cache_offset(s, layer, page, 0, head) + place, s.head_dim);
        widen_row(values + (head * tokens + t) * s.head_dim, cache + cache_offset(s, layer, page, 1, head) + place, s.head_dim);
      }
    }
  });
}

}  // namespace drivlm
