// Plain attention: one query at a time, exact softmax in f32.
//
//   out[q, :] = sum_k softmax_k(q . k / sqrt(head_dim)) * v[k, :]
//
// The cache's plain layout is [layer][page][key | value][kv_head][page_tokens][head_dim] of the activation type; of a cache in 8 bits
// it has the rounded values, as an oracle: it saves nothing. Keys are spread to be rounded, and then spread back: queries stay as they are here.

#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/training_ops.h"
#include "packed/formats.h"

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

// One head's key or value to the cache; of 8 bits what they stand for.
template <class T>
void keep(T* to, const T* from, const KvShape& s, bool is_key) {
  const int64_t d = s.head_dim;
  if (s.format == KvFormat::activation) {
    std::memcpy(to, from, d * sizeof(T));
    return;
  }
  float* wide = thread_buffer(1, d);
  widen_row(wide, from, d);
  std::vector<int8_t> q(d);
  if (is_key) spread_head(wide, d);
  const float scale = quantize_s8(q.data(), wide, d);
  for (int64_t i = 0; i < d; ++i) wide[i] = scale * static_cast<float>(q[i]);
  if (is_key) spread_head(wide, d);
  for (int64_t i = 0; i < d; ++i) to[i] = from_float<T>(wide[i]);
}

}  // namespace

void ReferenceOps::attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) {
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
          attend(out.as<T>() + (start + p) * dim + head * head_dim, base + p * 3 * dim, keys, values, positions,
                 head_dim);
        }
      }
    });
  });
}

void ReferenceOps::begin_batch(const Batch&) {}

void ReferenceOps::rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv,
                               int64_t layer, int64_t heads, const Batch& batch) {
  const KvShape& s = kv.shape;
  const int64_t d = s.head_dim, half = d / 2, width = (heads + 2 * s.kv_heads) * d;
  expect_shape("rope_append", "qkv", qkv, {batch.rows, width});
  expect_angles("rope_append", cos_sin, d, batch);
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
          const float* angle = cos_sin.as<float>() + (segment.first_angle + i) * d;
          const int64_t position = segment.past + i;
          const int64_t page = batch.pages[segment.first_page + position / s.page_tokens],
                        place = position % s.page_tokens;
          for (int64_t head = 0; head < heads; ++head) turn(row + head * d, angle, q_norm);
          for (int64_t head = 0; head < s.kv_heads; ++head) {
            T* key = row + (heads + head) * d;
            turn(key, angle, k_norm);
            T* cache = static_cast<T*>(kv.data);
            keep(cache + cache_offset(s, layer, page, 0, head) + place * d, key, s, true);
            keep(cache + cache_offset(s, layer, page, 1, head) + place * d, key + s.kv_heads * d, s, false);
          }
        }
      });
    }
  });
}

void ReferenceOps::attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) {
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
            attend(out.as<T>() + (row * heads + head) * d, qkv.as<T>() + row * width + head * d, keys, values,
                   segment.past + i + 1, d);
          }
        }
      }
    });
  });
}

void ReferenceOps::copy_page(Kv kv, int32_t from, int32_t to) {
  const KvShape& s = kv.shape;
  const int64_t page_bytes = 2 * s.kv_heads * s.page_tokens * s.head_dim * dtype_bytes(device_.activation());
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    char* base = static_cast<char*>(kv.data) + layer * s.pages * page_bytes;
    std::memcpy(base + to * page_bytes, base + from * page_bytes, page_bytes);
  }
}

void ReferenceOps::read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) {
  const KvShape& s = kv.shape;
  with_activation("read_kv", device_.activation(), [&](auto type) {
    using T = decltype(type);
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t place = t % s.page_tokens * s.head_dim, page = pages[t / s.page_tokens];
        const T* cache = static_cast<const T*>(kv.data);
        widen_row(keys + (head * tokens + t) * s.head_dim, cache + cache_offset(s, layer, page, 0, head) + place,
                  s.head_dim);
        widen_row(values + (head * tokens + t) * s.head_dim, cache + cache_offset(s, layer, page, 1, head) + place,
                  s.head_dim);
      }
    }
  });
}

// ---- training's forward pass ----
//
// A task is one head of one group of rows that attend together. Queries go in blocks of kQueries, so that their scores stay in cache.

namespace {

constexpr int64_t kQueries = 128;

// Keys and values that stand at equal distances.
struct KeyRun {
  const float *keys, *values;
  int64_t stride, rows;
};

// What is packed of a run, once for all blocks of queries: keys by rows for scores, and what of the two is met by columns. No panels: not packed.
struct PackedRun {
  cpu::PackedFactor keys, values, columns;
};

// Memory of packed runs, line after line.
class PackedMemory {
 public:
  PackedMemory(const cpu::KernelTable& kernels, cpu::WeightKind kind, float* memory)
      : kernels_(kernels), kind_(kind), next_(memory) {}

  cpu::PackedFactor pack(cpu::Factor<float> b, int64_t n, int64_t k) {
    float* at = next_;
    next_ += cpu::packed_floats(kind_, n, k);
    return cpu::pack_factor(kernels_, kind_, at, b, n, k);
  }

 private:
  const cpu::KernelTable& kernels_;
  const cpu::WeightKind kind_;
  float* next_;
};

// b packed if it is, in the depth k; else as it stands.
template <class T>
void multiply(const cpu::KernelTable& kernels, cpu::Workers& alone, cpu::ProductSpace& space, T* c, int64_t stride,
              cpu::Factor<T> a, const cpu::PackedFactor& packed, cpu::Factor<T> b, int64_t m, int64_t n, int64_t k,
              bool add) {
  if constexpr (std::is_same_v<T, float>) {
    if (packed.panels != nullptr && packed.k == k)
      return cpu::product(kernels, space.kind, c, stride, a, packed, m, n, add);
  }
  cpu::product<T>(kernels, alone, space, c, stride, a, b, m, n, k, add);
}

// Queries that see `first` keys, and each one `more` than the one before it.
struct Queries {
  const float* data;
  int64_t stride, rows;
  int64_t first, more;
};

// out [rows, head_dim], `stride` apart. The runs have as many keys as the last query sees, or more.
void attend_tiled(const cpu::KernelTable& kernels, cpu::Workers& alone, cpu::AttentionSpace& space, float* out,
                  int64_t stride, const Queries& queries, const std::vector<KeyRun>& runs, int64_t head_dim) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  std::vector<PackedRun> packed(runs.size());
  if (queries.rows > kQueries) {
    const cpu::WeightKind kind = space.product.kind;
    int64_t floats = 16;
    for (const KeyRun& run : runs)
      floats += cpu::packed_floats(kind, run.rows, head_dim) + cpu::packed_floats(kind, head_dim, run.rows);
    if (static_cast<int64_t>(space.packed.size()) < floats) space.packed.resize(floats);
    PackedMemory memory(kernels, kind, cpu::aligned(space.packed));
    for (size_t i = 0; i < runs.size(); ++i) {
      packed[i].keys = memory.pack({runs[i].keys, runs[i].stride}, runs[i].rows, head_dim);
      packed[i].columns = memory.pack({runs[i].values, runs[i].stride, false}, head_dim, runs[i].rows);
    }
  }
  for (int64_t at = 0; at < queries.rows; at += kQueries) {
    const int64_t count = std::min(kQueries, queries.rows - at);
    const int64_t seen = queries.first + (at + count - 1) * queries.more;
    if (static_cast<int64_t>(space.scores.size()) < count * seen) space.scores.resize(count * seen);
    float* scores = space.scores.data();
    int64_t from = 0;
    for (size_t i = 0; i < runs.size(); ++i) {
      const KeyRun& run = runs[i];
      const int64_t keys = std::min(run.rows, seen - from);
      if (keys <= 0) break;
      multiply<float>(kernels, alone, space.product, scores + from, seen,
                      {queries.data + at * queries.stride, queries.stride}, packed[i].keys, {run.keys, run.stride},
                      count, keys, head_dim, false);
      from += keys;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t visible = queries.first + (at + i) * queries.more;
      kernels.softmax(scores + i * seen, visible, scale);
      std::fill(scores + i * seen + visible, scores + (i + 1) * seen, 0.0f);
    }
    from = 0;
    for (size_t i = 0; i < runs.size(); ++i) {
      const KeyRun& run = runs[i];
      const int64_t keys = std::min(run.rows, seen - from);
      if (keys <= 0) break;
      multiply<float>(kernels, alone, space.product, out + at * stride, stride, {scores + from, seen},
                      packed[i].columns, {run.values, run.stride, false}, count, head_dim, keys, from > 0);
      from += keys;
    }
  }
}

}  // namespace

void TrainingOps::attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) {
  const int64_t rows = qkv.shape[0], dim = heads * head_dim;
  expect_shape("attention", "qkv", qkv, {rows, 3 * dim});
  expect_shape("attention", "out", out, {rows, dim});
  deal(rows / positions * heads, [&](cpu::AttentionSpace& space, int64_t task) {
    const int64_t start = task / heads * positions, head = task % heads;
    const float* base = qkv.as<float>() + start * 3 * dim + head * head_dim;
    cpu::PoolWorkers alone(1);
    attend_tiled(kernels_, alone, space, out.as<float>() + start * dim + head * head_dim, dim,
                 {base, 3 * dim, positions, positions, 0}, {{base + dim, base + 2 * dim, 3 * dim, positions}},
                 head_dim);
  });
}

void TrainingOps::attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) {
  const KvShape& s = kv.shape;
  const int64_t d = s.head_dim, group = heads / s.kv_heads, width = (heads + 2 * s.kv_heads) * d;
  expect_shape("attention_cached", "qkv", qkv, {batch.rows, width});
  expect_shape("attention_cached", "out", out, {batch.rows, heads * d});
  const int64_t segments = static_cast<int64_t>(batch.segments.size());
  deal(segments * heads, [&](cpu::AttentionSpace& space, int64_t task) {
    const Segment& segment = batch.segments[task / heads];
    const int64_t head = task % heads, length = segment.past + segment.rows;
    // Pages of one token that follow one another are one run, as are the tokens of a page.
    std::vector<KeyRun> runs;
    for (int64_t t = 0; t < length; t += s.page_tokens) {
      const int64_t page = batch.pages[segment.first_page + t / s.page_tokens];
      const float* cache = static_cast<const float*>(kv.data);
      const float *keys = cache + cache_offset(s, layer, page, 0, head / group),
                  *values = cache + cache_offset(s, layer, page, 1, head / group);
      const int64_t stride = s.page_tokens == 1 ? 2 * s.kv_heads * d : d;
      if (s.page_tokens == 1 && !runs.empty() && keys == runs.back().keys + runs.back().rows * stride) {
        ++runs.back().rows;
      } else {
        runs.push_back({keys, values, stride, std::min(s.page_tokens, length - t)});
      }
    }
    cpu::PoolWorkers alone(1);
    attend_tiled(kernels_, alone, space, out.as<float>() + segment.row * heads * d + head * d, heads * d,
                 {qkv.as<float>() + segment.row * width + head * d, width, segment.rows, segment.past + 1, 1}, runs, d);
  });
}

// ---- gradients ----
//
//   S = scale q k^T    P = softmax(S)    out = P v
//   dv += P^T d_out    dP = d_out v^T    dS = P (dP - rowsum(P dP))    dq = scale dS k    dk += scale dS^T q
//
// A task is one query head of one family of spans. Queries go in blocks of kQueries, so that S and dP are small; keys and values of a span are
// its prefix's and its own. Where several query heads share a key head each has its own dk and dv, which are added up at the end, in order. What several blocks of
// queries or several spans meet is packed once.

namespace {
// The families: spans [first, last) of which the first is the prefix of the others.
std::vector<std::pair<size_t, size_t>> families(const std::vector<AttentionSpan>& spans, int64_t rows) {
  std::vector<std::pair<size_t, size_t>> out;
  int64_t end = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    const AttentionSpan& s = spans[i];
    if (s.row < end || s.rows < 1 || s.row + s.rows > rows)
      throw Error(Code::internal, "attention gradient: spans out of order or range");
    end = s.row + s.rows;
    if (s.prefix_rows == 0) {
      out.push_back({i, i + 1});
      continue;
    }
    const AttentionSpan* head = out.empty() ? nullptr : &spans[out.back().first];
    if (!head || head->row != s.prefix_row || head->rows != s.prefix_rows)
      throw Error(Code::internal, "attention gradient: no span is this prefix");
    out.back().second = i + 1;
  }
  return out;
}
}  // namespace

template <class T>
void CpuGradients::attention_of(Tensor d_qkv, Tensor d_out, Tensor qkv, int64_t heads, int64_t kv_heads,
                                int64_t head_dim, const std::vector<AttentionSpan>& spans, bool causal) {
  const int64_t rows = qkv.shape[0], width = (heads + 2 * kv_heads) * head_dim, group = heads / kv_heads,
                out_width = heads * head_dim;
  const auto groups = families(spans, rows);
  const int64_t count = static_cast<int64_t>(groups.size());
  int64_t most_keys = 0, most_queries = 0, most_rows = 0;
  for (const AttentionSpan& s : spans) {
    most_rows = std::max(most_rows, s.rows);
    most_keys = std::max(most_keys, s.prefix_rows + s.rows);
    most_queries = std::max(most_queries, std::min(s.rows, kQueries));
  }
  const T scale = T(1) / std::sqrt(static_cast<T>(head_dim));
  const T* in = qkv.as<T>();
  const bool shares = group > 1;
  T* dk_of = memory<T>(0, shares ? heads * rows * head_dim : 0);
  T* dv_of = memory<T>(1, shares ? heads * rows * head_dim : 0);
  T* scores = memory<T>(2, threads_ * 2 * most_queries * most_keys);
  float* packed_runs = nullptr;
  int64_t run_floats = 0;
  if constexpr (std::is_same_v<T, float>) {
    run_floats =
        2 * cpu::packed_floats(space_.kind, most_rows, head_dim) + cpu::packed_floats(space_.kind, head_dim, most_rows);
    packed_runs = memory<float>(3, threads_ * 2 * run_floats);
    for (cpu::ProductSpace& space : slots_) {
      cpu::reserve(space, std::max(most_keys, head_dim), head_dim);
      cpu::reserve(space, head_dim, std::max(most_keys, most_queries));
    }
  }
  std::memset(d_qkv.data, 0, d_qkv.bytes());
  deal(count * heads, [&](int64_t slot, int64_t task) {
    const int64_t head = task % heads, kv_head = head / group;
    const auto [first_span, last_span] = groups[task / heads];
    T* p = scores + slot * 2 * most_queries * most_keys;
    T* dp = p + most_queries * most_keys;
    T* out = d_qkv.as<T>();
    T* dk = shares ? dk_of + head * rows * head_dim : out + (heads + head) * head_dim;
    T* dv = shares ? dv_of + head * rows * head_dim : out + (2 * heads + head) * head_dim;
    const int64_t d_stride = shares ? head_dim : width;
    auto times = [&](T* c, int64_t stride, cpu::Factor<T> a, const cpu::PackedFactor& packed, cpu::Factor<T> b,
                     int64_t m, int64_t n, int64_t k,
                     bool add) { multiply<T>(kernels_, alone_, slots_[slot], c, stride, a, packed, b, m, n, k, add); };
    PackedRun packed[2];  // of the prefix, of the span's own
    for (size_t index = first_span; index < last_span; ++index) {
      const AttentionSpan& span = spans[index];
      const bool leads = index == first_span && last_span - first_span > 1;
      if (index == first_span + 1) packed[0] = packed[1];
      packed[1] = {};
      if constexpr (std::is_same_v<T, float>) {
        if (leads || span.rows > kQueries) {
          PackedMemory memory(kernels_, space_.kind, packed_runs + (slot * 2 + (leads ? 0 : 1)) * run_floats);
          const T* k = in + span.row * width + (heads + kv_head) * head_dim;
          packed[1].keys = memory.pack({k, width}, span.rows, head_dim);
          packed[1].values = memory.pack({k + kv_heads * head_dim, width}, span.rows, head_dim);
          packed[1].columns = memory.pack({k, width, false}, head_dim, span.rows);
        }
      }
      if (shares) {
        std::fill(dk + span.row * head_dim, dk + (span.row + span.rows) * head_dim, T{0});
        std::fill(dv + span.row * head_dim, dv + (span.row + span.rows) * head_dim, T{0});
      }
      for (int64_t at = 0; at < span.rows; at += kQueries) {
        const int64_t queries = std::min(kQueries, span.rows - at), own = causal ? at + queries : span.rows;
        const int64_t keys = span.prefix_rows + own;
        const T* q = in + (span.row + at) * width + head * head_dim;
        const T* d = d_out.as<T>() + (span.row + at) * out_width + head * head_dim;
        // The two runs of keys: the prefix's and the span's own.
        const int64_t run_row[2] = {span.prefix_row, span.row}, run_rows[2] = {span.prefix_rows, own},
                      run_at[2] = {0, span.prefix_rows};
        for (int run = 0; run < 2; ++run) {
          const T* k = in + run_row[run] * width + (heads + kv_head) * head_dim;
          const T* v = k + kv_heads * head_dim;
          times(p + run_at[run], keys, {q, width}, packed[run].keys, {k, width}, queries, run_rows[run], head_dim,
                false);
          times(dp + run_at[run], keys, {d, out_width}, packed[run].values, {v, width}, queries, run_rows[run],
                head_dim, false);
        }
        for (int64_t i = 0; i < queries; ++i) {
          const int64_t seen = causal ? span.prefix_rows + at + i + 1 : keys;
          T *weights = p + i * keys, *slopes = dp + i * keys;
          std::fill(weights + seen, weights + keys, T{0});
          std::fill(slopes + seen, slopes + keys, T{0});
          if constexpr (std::is_same_v<T, float>) {
            kernels_.softmax_gradient(weights, slopes, seen, scale);
            continue;
          }
          T top = weights[0];
          for (int64_t j = 1; j < seen; ++j) top = std::max(top, weights[j]);
          T total = 0, mean = 0;
          for (int64_t j = 0; j < seen; ++j) total += weights[j] = std::exp((weights[j] - top) * scale);
          for (int64_t j = 0; j < seen; ++j) mean += (weights[j] /= total) * slopes[j];
          for (int64_t j = 0; j < seen; ++j) slopes[j] = weights[j] * (slopes[j] - mean) * scale;
        }
        T* dq = out + (span.row + at) * width + head * head_dim;
        for (int run = 0; run < 2; ++run) {
          const T* k = in + run_row[run] * width + (heads + kv_head) * head_dim;
          times(dv + run_row[run] * d_stride, d_stride, {p + run_at[run], keys, false}, {}, {d, out_width, false},
                run_rows[run], head_dim, queries, true);
          times(dk + run_row[run] * d_stride, d_stride, {dp + run_at[run], keys, false}, {}, {q, width, false},
                run_rows[run], head_dim, queries, true);
          times(dq, width, {dp + run_at[run], keys}, packed[run].columns, {k, width, false}, queries, head_dim,
                run_rows[run], true);
        }
      }
    }
  });
  if (!shares) return;
  for (const AttentionSpan& span : spans) {
    parallel(span.rows, 16, [&](int64_t first, int64_t last) {
      for (int64_t row = span.row + first; row < span.row + last; ++row) {
        for (int64_t head = 0; head < heads; ++head) {
          T* to = d_qkv.as<T>() + row * width + (heads + head / group) * head_dim;
          const T *dk = dk_of + (head * rows + row) * head_dim, *dv = dv_of + (head * rows + row) * head_dim;
          for (int64_t i = 0; i < head_dim; ++i) to[i] += dk[i];
          for (int64_t i = 0; i < head_dim; ++i) to[kv_heads * head_dim + i] += dv[i];
        }
      }
    });
  }
}

void CpuGradients::attention(Tensor d_qkv, Tensor d_out, Tensor qkv, int64_t heads, int64_t kv_heads, int64_t head_dim,
                             const std::vector<AttentionSpan>& spans, bool causal) {
  const int64_t rows = qkv.shape[0], width = (heads + 2 * kv_heads) * head_dim;
  expect_shape("attention gradient", "qkv", qkv, {rows, width});
  expect_shape("attention gradient", "d_qkv", d_qkv, {rows, width});
  expect_shape("attention gradient", "d_out", d_out, {rows, heads * head_dim});
  with_real("attention gradient", qkv.dtype, [&](auto type) {
    attention_of<decltype(type)>(d_qkv, d_out, qkv, heads, kv_heads, head_dim, spans, causal);
  });
}

// The rotation by minus the angle (an attention scale in cos and sin multiplies the gradient too), then the per-head norms.
void CpuGradients::rope(Tensor d_qkv, Tensor d_q_norm, Tensor d_k_norm, Tensor qkv, Tensor q_norm, Tensor k_norm,
                        double eps, Tensor cos_sin, const Batch& batch, int64_t heads, int64_t kv_heads) {
  const int64_t rows = d_qkv.shape[0], width = d_qkv.shape[1], d = cos_sin.shape[1], half = d / 2;
  expect_shape("rope gradient", "d_qkv", d_qkv, {rows, (heads + 2 * kv_heads) * d});
  expect_angles("rope gradient", cos_sin, d, batch);
  if (batch.rows != rows) throw Error(Code::internal, "rope gradient: another batch");
  with_real("rope gradient", d_qkv.dtype, [&](auto type) {
    using T = decltype(type);
    for (const Segment& segment : batch.segments) {
      parallel(segment.rows, 16, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const T* angle = cos_sin.as<T>() + (segment.first_angle + i) * d;
          for (int64_t head = 0; head < heads + kv_heads; ++head) {
            T* x = d_qkv.as<T>() + (segment.row + i) * width + head * d;
            for (int64_t k = 0; k < half; ++k) {
              const T a = x[k], b = x[k + half];
              x[k] = a * angle[k] + b * angle[half + k];
              x[k + half] = b * angle[k] - a * angle[half + k];
            }
          }
        }
      });
    }
  });
  for (int64_t head = 0; head < heads + kv_heads; ++head) {
    const bool query = head < heads;
    if (query ? q_norm : k_norm)
      norm_columns(d_qkv, query ? d_q_norm : d_k_norm, qkv, head * d, d, query ? q_norm : k_norm, eps);
  }
}

}  // namespace drivlm
