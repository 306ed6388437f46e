// attention.cu and attention_cached.cu with its plan against f64.
#include <algorithm>
#include <cmath>
#include <map>

#include "device/ops.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/kernels.h"
#include "packed/formats.h"
#include "testing.h"
#if defined(DRIVLM_EMULATED)
#include "control.h"
#endif

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;
using drivlm::Batch;
using drivlm::DType;
using drivlm::Kv;
using drivlm::KvFormat;
using drivlm::Tensor;

namespace {

// One query against keys [0, count); plain rounds as the network does: f32 scores and softmax, bf16 weights.
template <class F>
void attend(const float* q, const std::vector<const float*>& keys, const std::vector<const float*>& values, int count,
            int dim, bool plain, F* out) {
  std::vector<F> score(count);
  F top = -INFINITY, sum = 0;
  for (int j = 0; j < count; ++j) {
    F dot = 0;
    for (int c = 0; c < dim; ++c) dot += F(q[c]) * F(keys[j][c]);
    score[j] = dot / std::sqrt(F(dim));
    top = std::max(top, score[j]);
  }
  for (F& s : score) sum += s = std::exp(s - top);
  for (int c = 0; c < dim; ++c) {
    F total = 0;
    for (int j = 0; j < count; ++j) total += (plain ? F(to_bf16(float(score[j]))) : score[j]) * F(values[j][c]);
    out[c] = plain ? F(to_bf16(float(total / sum))) : total / sum;
  }
}

void check_full(int groups, int positions, int heads, int dim) {
  const int width = heads * dim;
  Halves qkv(size_t(groups) * positions * 3 * width, 2), out(size_t(groups) * positions * width, 1);
  attention_full({qkv.data, out.data, groups, positions, heads, dim}, nullptr);
  out.download();
  const int step = positions > 300 ? 97 : 1;
  std::vector<float> got, plain;
  std::vector<double> exact;
  for (int b = 0; b < groups; ++b) {
    for (int h = 0; h < heads; ++h) {
      std::vector<const float*> keys, values;
      for (int j = 0; j < positions; ++j) {
        const float* row = &qkv.values[(size_t(b) * positions + j) * 3 * width + h * dim];
        keys.push_back(row + width), values.push_back(row + 2 * width);
      }
      for (int i = 0; i < positions; i += (i + step < positions || i == positions - 1 ? step : positions - 1 - i)) {
        const float* q = &qkv.values[(size_t(b) * positions + i) * 3 * width + h * dim];
        std::vector<double> e(dim);
        std::vector<float> p(dim);
        attend(q, keys, values, positions, dim, false, e.data());
        attend(q, keys, values, positions, dim, true, p.data());
        exact.insert(exact.end(), e.begin(), e.end());
        plain.insert(plain.end(), p.begin(), p.end());
        const float* o = &out.values[(size_t(b) * positions + i) * width + h * dim];
        got.insert(got.end(), o, o + dim);
      }
    }
  }
  check_close(drivlm::text("attention %d x %d, %d heads of %d", groups, positions, heads, dim), got, exact, plain);
}

}  // namespace

TEST(attention_full_edges) {
  for (int dim : {16, 32, 64, 96, 128}) {
    for (int positions : {1, 31, 63, 64, 65, 130}) check_full(1, positions, 2, dim);
  }
  check_full(3, 17, 3, 64);
}
TEST(attention_full_tower) { check_full(1, 1025, 1, 64); }
TEST(attention_full_conflicts) {
#if defined(DRIVLM_EMULATED)
  for (int dim : {16, 32, 64, 96, 128}) check_full(1, 70, 1, dim);
  cudaDeviceSynchronize();
  CHECK(emu::stats.matrix_products > 0 && emu::stats.ldmatrix_conflicts == 0);
#endif
}

namespace {

// Sequences over a paged cache on the device, mirrored on the host.
class CacheTest {
 public:
  CacheTest(int heads, int kv_heads, int dim, int pages, KvFormat format = KvFormat::activation)
      : heads(heads),
        kv_heads(kv_heads),
        dim(dim),
        device_(make_device(0, DType::bf16)),
        memory_(device_->allocate(device_->kv_bytes({2, kv_heads, dim, kPageTokens, pages, format}), "test")) {
    kv = {memory_->data, {2, kv_heads, dim, kPageTokens, pages, format}};
    cudaMemset(memory_->data, 0xff, memory_->bytes);  // what was never written is no number
  }

  struct Sequence {
    std::vector<int32_t> pages;
    std::vector<std::vector<float>> keys, values;  // [position][kv_heads * dim]
  };
  struct Part {
    Sequence* sequence;
    int rows;
  };

  // Appends rows to sequences in one pass, attends, and checks the outcome.
  void pass(const std::vector<Part>& parts, const char* what) {
    const int width = (heads + 2 * kv_heads) * dim;
    Batch batch;
    for (const Part& part : parts) {
      const int64_t past = int64_t(part.sequence->keys.size()), total = past + part.rows;
      while (int64_t(part.sequence->pages.size()) < ceil_div(total, kPageTokens))
        part.sequence->pages.push_back(next_page());
      batch.segments.push_back({batch.rows, part.rows, past, int64_t(batch.pages.size())});
      batch.pages.insert(batch.pages.end(), part.sequence->pages.begin(), part.sequence->pages.end());
      batch.rows += part.rows;
    }
    Halves qkv(size_t(batch.rows) * width, 2), out(size_t(batch.rows) * heads * dim, 1);
    if (outliers) stand_out(qkv);
    Buffer<float> cos_sin(size_t(batch.rows) * dim);  // no rotation: rope has its own test
    for (int64_t row = 0; row < batch.rows; ++row) std::fill_n(cos_sin.host.begin() + row * dim, dim / 2, 1.f);
    cos_sin.upload();
    drivlm::Ops& ops = device_->ops();
    const Tensor t_qkv(qkv.data, DType::bf16, {batch.rows, width}),
        t_out(out.data, DType::bf16, {batch.rows, heads * dim});
    ops.begin_batch(batch);
    ops.rope_append(t_qkv, {}, {}, 0, Tensor(cos_sin.data, DType::f32, {batch.rows, dim}), kv, 1, heads, batch);
    ops.attention_cached(t_out, t_qkv, kv, 1, heads, batch);
    device_->synchronize();
    out.download();

    std::vector<double> exact;
    std::vector<float> plain;
    int64_t row = 0;
    for (const Part& part : parts) {
      for (int i = 0; i < part.rows; ++i, ++row) {
        const float* x = &qkv.values[row * width];
        part.sequence->keys.push_back(as_kept(x + heads * dim, true));
        part.sequence->values.push_back(as_kept(x + (heads + kv_heads) * dim, false));
        for (int h = 0; h < heads; ++h) {
          std::vector<const float*> keys, values;
          const int kv_head = h / (heads / kv_heads);
          for (const auto& k : part.sequence->keys) keys.push_back(k.data() + kv_head * dim);
          for (const auto& v : part.sequence->values) values.push_back(v.data() + kv_head * dim);
          std::vector<double> e(dim);
          std::vector<float> p(dim);
          const auto query = as_met(x + h * dim);
          attend(query.data(), keys, values, int(keys.size()), dim, false, e.data());
          attend(query.data(), keys, values, int(keys.size()), dim, true, p.data());
          exact.insert(exact.end(), e.begin(), e.end());
          plain.insert(plain.end(), p.begin(), p.end());
        }
      }
    }
    check_close(what, out.values, exact, plain);
    if (outliers) check_unrounded(qkv.values, batch.rows, out.values, what);
    check_cache(*parts.back().sequence);
  }

  // A query in the form in which it meets keys.
  std::vector<float> as_met(const float* x) const {
    std::vector<float> met(x, x + dim);
    if (kv.shape.format == KvFormat::activation) return met;
    drivlm::spread_head(met.data(), dim);
    for (float& v : met) v = to_bf16(v);
    return met;
  }

  // The heads of a token as the cache has them: of 8 bits keys are spread.
  std::vector<float> as_kept(const float* x, bool is_key) const {
    std::vector<float> kept(x, x + kv_heads * dim);
    if (kv.shape.format == KvFormat::activation) return kept;
    std::vector<int8_t> q(dim);
    for (int h = 0; h < kv_heads; ++h) {
      if (is_key) drivlm::spread_head(&kept[h * dim], dim);
      const float scale = drivlm::quantize_s8(q.data(), &kept[h * dim], dim);
      for (int d = 0; d < dim; ++d) kept[h * dim + d] = scale * float(q[d]);
    }
    return kept;
  }

  // A second sequence of the same tokens; its last page is copied when it is not full.
  Sequence fork(const Sequence& s) {
    Sequence copy = s;
    if (s.keys.size() % kPageTokens != 0) {
      copy.pages.back() = next_page();
      device_->ops().copy_page(kv, s.pages.back(), copy.pages.back());
    }
    return copy;
  }

  void check_cache(const Sequence& s) {
    const size_t tokens = s.keys.size();
    std::vector<float> keys(kv_heads * tokens * dim), values(keys.size());
    device_->ops().read_kv(keys.data(), values.data(), kv, 1, s.pages.data(), int64_t(tokens));
    for (int h = 0; h < kv_heads; ++h) {
      for (size_t t = 0; t < tokens; ++t) {
        std::vector<float> key(&s.keys[t][h * dim], &s.keys[t][h * dim] + dim);
        if (kv.shape.format == KvFormat::int8) drivlm::spread_head(key.data(), dim);  // back
        for (int d = 0; d < dim; ++d) {
          const size_t at = (h * tokens + t) * dim + d;
          if (keys[at] != key[d] || values[at] != s.values[t][h * dim + d]) {
            return fail(drivlm::text("cache: head %d, token %zu, value %d differs", h, t, d));
          }
        }
      }
    }
  }

  const int heads, kv_heads, dim;
  Kv kv;
  bool outliers =
      false;  // two dimensions of every key stand out, as by a bias; of a pass that is a sequence of its own

 private:
  void stand_out(Halves& qkv) {
    const int all = heads + 2 * kv_heads;
    for (size_t i = 0; i < qkv.host.size(); ++i) {
      const int head = int(i / dim) % all, d = int(i) % dim;
      if (head >= heads + kv_heads || (d != 5 && d != dim / 2 + 8)) continue;
      const float v = head < heads ? 0.1f * qkv.values[i] : qkv.values[i] + (d == 5 ? 100.f : -60.f);
      qkv.values[i] = to_bf16(v);
      qkv.host[i] = __float2bfloat16(v);
    }
    qkv.upload();
  }
  // What the cache's rounding costs: the result beside that of the keys and values as they came.
  void check_unrounded(const std::vector<float>& x, int64_t rows, const std::vector<float>& found, const char* what) {
    const int width = (heads + 2 * kv_heads) * dim;
    double missed = 0, all = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int h = 0; h < heads; ++h) {
        std::vector<const float*> keys, values;
        for (int64_t t = 0; t <= row; ++t) {
          keys.push_back(&x[t * width + (heads + h / (heads / kv_heads)) * dim]);
          values.push_back(keys.back() + kv_heads * dim);
        }
        std::vector<double> exact(dim);
        attend(&x[row * width + h * dim], keys, values, int(keys.size()), dim, false, exact.data());
        for (int d = 0; d < dim; ++d) {
          const double difference = found[(row * heads + h) * dim + d] - exact[d];
          missed += difference * difference;
          all += exact[d] * exact[d];
        }
      }
    }
    const double share = std::sqrt(missed / all);
    if (!(share < 0.09)) fail(drivlm::text("%s: off by %.1f %% of the values' rms", what, 100 * share));
  }

  // Pages out of order, so that a mixed-up table shows.
  int32_t next_page() { return int32_t(kv.shape.pages - 1 - used_++); }
  std::unique_ptr<drivlm::Device> device_;
  std::unique_ptr<drivlm::Memory> memory_;
  int64_t used_ = 0;
};

}  // namespace

TEST(attention_cached_prefill) {  // every head_dim, lengths around pages and row tiles, then a step
  for (int dim : {16, 32, 64, 96, 128}) {
    CacheTest t(4, 2, dim, 16);
    for (int rows : {1, 2, 31, 65}) {
      CacheTest::Sequence s;
      t.pass({{&s, rows}}, drivlm::text("prefill %d, head_dim %d", rows, dim).c_str());
      t.pass({{&s, 1}}, drivlm::text("step after %d, head_dim %d", rows, dim).c_str());
    }
  }
}
TEST(attention_cached_pages) {  // contexts just below, at and past a page
  CacheTest t(2, 1, 64, 40);
  for (int rows : {62, 63, 64, 127, 128, 129}) {
    CacheTest::Sequence s;
    t.pass({{&s, rows}}, drivlm::text("prefill %d", rows).c_str());
    for (int step = 0; step < 3; ++step) t.pass({{&s, 1}}, drivlm::text("step %d after %d", step, rows).c_str());
  }
}
TEST(attention_cached_chunks) {  // prefill in pieces, several sequences at once
  CacheTest t(6, 2, 64, 40);
  CacheTest::Sequence a, b, c;
  t.pass({{&a, 50}, {&b, 7}}, "chunks 1");
  t.pass({{&a, 100}, {&c, 1}, {&b, 80}}, "chunks 2");
  t.pass({{&a, 1}, {&b, 5}, {&c, 130}}, "chunks 3");
}
TEST(attention_cached_groups) {  // 7 and 14 query heads a key head, more than a narrow item's rows
  for (int heads : {7, 14, 20, 64}) {
    CacheTest t(heads, 1, 64, 8);
    CacheTest::Sequence s;
    t.pass({{&s, 20}}, drivlm::text("%d heads, prefill", heads).c_str());
    t.pass({{&s, 1}}, drivlm::text("%d heads, step", heads).c_str());
  }
}
TEST(attention_cached_splits) {  // long contexts are split; lengths around the splits
  for (int rows : {511, 512, 513, 1025}) {
    CacheTest t(2, 1, 32, 40);
    CacheTest::Sequence s;
    t.pass({{&s, rows}}, drivlm::text("prefill %d", rows).c_str());
    t.pass({{&s, 1}}, drivlm::text("step after %d", rows).c_str());
    t.pass({{&s, 9}}, drivlm::text("9 more after %d", rows).c_str());
  }
}
TEST(attention_cached_shared_prefix) {  // questions after one scene
  for (int length : {63, 64, 200, 640}) {
    CacheTest t(7, 1, 64, 80);
    CacheTest::Sequence scene;
    t.pass({{&scene, length}}, "scene");
    for (int questions : {2, 7, 8}) {
      std::vector<CacheTest::Sequence> forks;
      for (int i = 0; i < questions; ++i) forks.push_back(t.fork(scene));
      std::vector<CacheTest::Part> parts;
      for (auto& fork : forks) parts.push_back({&fork, 1});
      t.pass(parts, drivlm::text("%d questions after %d", questions, length).c_str());
      t.pass(parts, drivlm::text("%d questions after %d, second step", questions, length).c_str());
    }
  }
}
TEST(attention_cached_int8) {  // every head_dim, odd lengths, several sequences, splits, copies of pages
  for (int dim : {16, 32, 64, 96, 128}) {
    CacheTest t(6, 2, dim, 12, KvFormat::int8);
    CacheTest::Sequence a, b;
    t.pass({{&a, 31}, {&b, 67}}, drivlm::text("int8 cache, prefill, head_dim %d", dim).c_str());
    t.pass({{&a, 1}, {&b, 1}}, drivlm::text("int8 cache, step, head_dim %d", dim).c_str());
  }
  CacheTest t(7, 1, 64, 40, KvFormat::int8);
  CacheTest::Sequence scene;
  t.pass({{&scene, 515}}, "int8 cache, scene");
  std::vector<CacheTest::Sequence> forks;
  std::vector<CacheTest::Part> parts;
  for (int i = 0; i < 3; ++i) forks.push_back(t.fork(scene));
  for (auto& fork : forks) parts.push_back({&fork, 1});
  t.pass(parts, "int8 cache, questions after a scene");
  t.pass({{&forks[0], 9}, {&forks[2], 1}}, "int8 cache, a question that goes on");
}
TEST(attention_cached_int8_outliers) {  // they must not take all bits from what stands beside them
  for (int dim : {64, 96, 128}) {
    CacheTest t(2, 1, dim, 4, KvFormat::int8);
    t.outliers = true;
    CacheTest::Sequence s;
    t.pass({{&s, 100}}, drivlm::text("int8 cache, outliers, head_dim %d", dim).c_str());
  }
}
TEST(attention_cached_conflicts) {
#if defined(DRIVLM_EMULATED)
  for (KvFormat format : {KvFormat::activation, KvFormat::int8}) {
    for (int dim : {16, 32, 64, 96, 128}) {
      CacheTest t(2, 1, dim, 8, format);
      CacheTest::Sequence s;
      t.pass({{&s, 70}}, "prefill");
      t.pass({{&s, 1}}, "step");
    }
  }
  cudaDeviceSynchronize();
  CHECK(emu::stats.matrix_products > 0 && emu::stats.ldmatrix_conflicts == 0);
#endif
}

TEST(attention_plan) {  // every token meets every key it may see exactly once, whatever the cut
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t kv_heads = 1 + generator()() % 4, group = 1 + generator()() % 16;
    Batch batch;
    std::vector<int32_t> prefix;
    const int shared = int(generator()() % 12);
    for (int i = 0; i < shared; ++i) prefix.push_back(i);
    int32_t page = 100;
    for (int i = 0, n = 1 + int(generator()() % 9); i < n; ++i) {
      const bool decoding = generator()() % 3 != 0;
      const int64_t rows = decoding ? 1 : generator()() % 150;
      const int64_t past = shared * kPageTokens + int64_t(generator()() % 300);
      const int64_t pages = ceil_div(past + rows, kPageTokens);
      batch.segments.push_back({batch.rows, rows, past, int64_t(batch.pages.size())});
      for (int64_t p = 0; p < pages; ++p) batch.pages.push_back(p < shared ? prefix[p] : page++);
      batch.rows += rows;
    }
    const int64_t max_slots = generator()() % 2 ? 100000 : generator()() % 20;
    const AttentionPlan plan =
        plan_attention(batch, kv_heads * group, kv_heads, 1 + int(generator()() % 100), max_slots);
    CHECK(plan.slots <= max_slots);
    std::map<int, std::map<int64_t, int>> seen;  // row -> key -> times
    std::map<int, std::vector<int>> splits;
    const auto walk = [&](const std::vector<AttentionItem>& items, int most) {
      for (const AttentionItem& item : items) {
        CHECK(item.tokens > 0 && item.tokens * group <= most && item.key_begin % kPageTokens == 0);
        for (int i = 0; i < item.tokens; ++i) {
          const AttentionToken& token = plan.tokens[item.token + i];
          splits[token.row].push_back(item.split);
          const drivlm::Segment* owner = nullptr;
          for (const auto& s : batch.segments) {
            if (token.row >= s.row && token.row < s.row + s.rows) owner = &s;
          }
          CHECK(owner && owner->past + token.row - owner->row == token.position);
          for (int key = item.key_begin; key < item.key_end && key <= token.position; ++key) {
            const int64_t at = batch.pages[item.page + (key - item.key_begin) / kPageTokens];
            CHECK(at == batch.pages[owner->first_page + key / kPageTokens]);
            ++seen[token.row][key];
          }
        }
      }
    };
    walk(plan.wide, kAttentionRows);
    walk(plan.narrow, kAttentionNarrow);
    std::vector<int> slot_users(plan.slots);
    size_t tokens = 0;
    for (const AttentionToken& token : plan.tokens) {
      ++tokens;
      auto& own = splits[token.row];
      std::sort(own.begin(), own.end());
      CHECK(int(own.size()) == token.splits);
      for (int i = 0; i < int(own.size()); ++i) CHECK(own[i] == i);
      if (token.splits > 1) {
        for (int i = 0; i < token.splits; ++i) ++slot_users[token.slot + i];
      }
      CHECK(int64_t(seen[token.row].size()) == token.position + 1);
      for (const auto& [key, times] : seen[token.row]) CHECK(times == 1);
    }
    CHECK(int64_t(tokens) == batch.rows);
    for (int users : slot_users) CHECK(users == 1);
  }
}
