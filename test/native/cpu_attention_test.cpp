// The fast attention of every tier that this CPU has, against sums in double; the bound is that of cpu_forms_test.cpp.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <sstream>
#include <vector>

#include "core/numeric.h"
#include "cpu_forms_testing.h"
#include "kernels/cpu/packed_attention.h"

using namespace drivlm;
using namespace drivlm::cpu;

namespace {

// softmax(q . k * scale) v over tokens [0, visible) in double; `plain` the same in f32.
void attend_exactly(const std::function<const uint16_t*(int64_t)>& key,
                    const std::function<const uint16_t*(int64_t)>& value, const uint16_t* q, int64_t visible,
                    int64_t dim, std::vector<double>& expected, std::vector<float>& plain) {
  std::vector<double> p(visible);
  std::vector<float> p32(visible);
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  double top = -1e300, total = 0;
  float total32 = 0;
  for (int64_t t = 0; t < visible; ++t) {
    double s = 0;
    float s32 = 0;
    for (int64_t d = 0; d < dim; ++d) {
      s += static_cast<double>(widen(q[d])) * widen(key(t)[d]);
      s32 += widen(q[d]) * widen(key(t)[d]);
    }
    p[t] = s * scale;
    p32[t] = s32 * static_cast<float>(scale);
    top = std::max(top, p[t]);
  }
  for (int64_t t = 0; t < visible; ++t) {
    total += p[t] = std::exp(p[t] - top);
    // The reference keeps the weights in bf16, as vdpbf16ps needs them.
    p32[t] = to_float(from_float<bf16>(std::exp(p32[t] - static_cast<float>(top))));
    total32 += p32[t];
  }
  for (int64_t d = 0; d < dim; ++d) {
    double sum = 0;
    float sum32 = 0;
    for (int64_t t = 0; t < visible; ++t) {
      sum += p[t] * widen(value(t)[d]);
      sum32 += p32[t] * widen(value(t)[d]);
    }
    expected.push_back(sum / total);
    plain.push_back(to_float(from_float<bf16>(sum32 / total32)));
  }
}

void run_vision(const Tier& tier, int64_t groups, int64_t positions, int64_t heads, int64_t dim, float size,
                int threads) {
  std::ostringstream name;
  name << tier.name << " vision " << groups << "x" << positions << "x" << heads << "x" << dim << " size " << size;
  Random random(static_cast<uint32_t>(positions * 7 + dim));
  const int64_t width = heads * dim;
  const auto qkv = exact(random.halves(groups * positions * 3 * width, size));
  auto out = std::make_unique<uint16_t[]>(groups * positions * width);
  TestWorkers workers(threads);
  attention(*tier.forms, out.get(), qkv.get(), groups, positions, heads, dim, workers);
  std::vector<double> expected;
  std::vector<float> plain, found;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t h = 0; h < heads; ++h) {
      const uint16_t* base = qkv.get() + g * positions * 3 * width + h * dim;
      for (int64_t i = 0; i<positions; i += positions> 100 ? 41 : 1) {
        attend_exactly([&](int64_t t) { return base + t * 3 * width + width; },
                       [&](int64_t t) { return base + t * 3 * width + 2 * width; }, base + i * 3 * width, positions,
                       dim, expected, plain);
        for (int64_t d = 0; d < dim; ++d) found.push_back(widen(out[(g * positions + i) * width + h * dim + d]));
      }
    }
  }
  check_close(name.str(), expected, plain, found);
}

struct Sequence {
  int64_t past, rows;
  std::vector<int32_t> pages;
};

// The caches are filled a segment at a time through `append`, then the batch is attended and compared.
void run_paged(const Tier& tier, const std::string& what, const std::vector<Sequence>& sequences, int64_t heads,
               int64_t kv_heads, int64_t dim, int64_t page_tokens, int threads) {
  const std::string name = std::string(tier.name) + " paged " + what;
  const int64_t layers = 2, layer = 1;
  int32_t pages = 0;
  for (const Sequence& s : sequences) pages = std::max(pages, *std::max_element(s.pages.begin(), s.pages.end()) + 1);
  const KvLayout layout{layers, kv_heads, dim, page_tokens};
  Aligned kv(static_cast<size_t>(layout.page_bytes() * pages));  // every byte 0xff: a NaN wherever nothing was written
  Random random(static_cast<uint32_t>(heads * 1000 + dim));
  // One key and value a (page, token): sequences that share a page share them.
  const auto keys = random.halves(pages * page_tokens * kv_heads * dim, 2),
             values = random.halves(pages * page_tokens * kv_heads * dim, 1);
  const auto at = [&](const std::vector<uint16_t>& all, const Sequence& s, int64_t token, int64_t head) {
    return all.data() + ((s.pages[token / page_tokens] * page_tokens + token % page_tokens) * kv_heads + head) * dim;
  };

  Batch batch;
  const int64_t width = (heads + 2 * kv_heads) * dim;
  for (const Sequence& s : sequences) {
    batch.segments.push_back({batch.rows, s.rows, s.past, static_cast<int64_t>(batch.pages.size())});
    batch.pages.insert(batch.pages.end(), s.pages.begin(), s.pages.end());
    batch.rows += s.rows;
    for (int64_t head = 0; head < kv_heads; ++head) {
      std::vector<uint16_t> k, v;
      for (int64_t t = 0; t < s.past + s.rows;) {  // in steps of 1, 3, 40, ...: every alignment of an append
        const int64_t steps[] = {1, 3, 40, 2, 64, 5};
        const int64_t n = std::min({steps[(t + head) % 6], s.past + s.rows - t, page_tokens - t % page_tokens});
        k.clear(), v.clear();
        for (int64_t i = 0; i < n; ++i) {
          k.insert(k.end(), at(keys, s, t + i, head), at(keys, s, t + i, head) + dim);
          v.insert(v.end(), at(values, s, t + i, head), at(values, s, t + i, head) + dim);
        }
        const auto k_exact = exact(k), v_exact = exact(v);
        tier.forms->append(static_cast<char*>(kv.data) + layout.block_offset(s.pages[t / page_tokens], layer, head),
                           layout, k_exact.get(), v_exact.get(), dim, t % page_tokens, n);
        t += n;
      }
    }
  }
  const auto qkv = exact(random.halves(batch.rows * width, 2));
  auto out = std::make_unique<uint16_t[]>(batch.rows * heads * dim);
  TestWorkers workers(threads);
  AttentionPlan plan;
  plan.make(batch, page_tokens, heads, kv_heads, dim, tier.forms->tile_rows, threads);
  plan.run(*tier.forms, out.get(), qkv.get(), kv.data, layout, layer, heads, workers);
  std::vector<double> expected;
  std::vector<float> plain, found;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& s = sequences[i];
    for (int64_t r = 0; r<s.rows; r += s.rows> 60 ? 17 : 1) {
      const int64_t row = batch.segments[i].row + r;
      for (int64_t h = 0; h < heads; ++h) {
        attend_exactly([&](int64_t t) { return at(keys, s, t, h / (heads / kv_heads)); },
                       [&](int64_t t) { return at(values, s, t, h / (heads / kv_heads)); },
                       qkv.get() + row * width + h * dim, s.past + r + 1, dim, expected, plain);
        for (int64_t d = 0; d < dim; ++d) found.push_back(widen(out[(row * heads + h) * dim + d]));
      }
    }
  }
  check_close(name, expected, plain, found);
}

std::vector<int32_t> numbers(int32_t first, int32_t count) {
  std::vector<int32_t> all(count);
  std::iota(all.begin(), all.end(), first);
  return all;
}

}  // namespace

TEST(cpu_attention_vision) {
  for_each_tier([](const Tier& tier) {
    run_vision(tier, 2, 1, 1, 16, 1, 1);
    run_vision(tier, 2, 17, 2, 16, 1, 2);
    run_vision(tier, 1, 33, 1, 96, 2, 3);
    run_vision(tier, 1, 257, 3, 48, 4, 2);
    run_vision(tier, 1, 1025, 1, 64, 2, 5);
    run_vision(tier, 1, 300, 1, 128, 8, 1);  // one key takes nearly all the weight
  });
}

TEST(cpu_attention_paged) {
  for_each_tier([](const Tier& tier) {
    run_paged(tier, "prefill", {{0, 150, {2, 0, 1}}}, 14, 2, 64, 64, 2);
    run_paged(tier, "prefill on a past", {{77, 90, numbers(0, 3)}}, 4, 4, 96, 64, 1);
    run_paged(tier, "small pages", {{0, 71, numbers(0, 3)}}, 6, 2, 32, 32, 3);
    run_paged(tier, "first token", {{0, 1, {0}}}, 14, 2, 64, 64, 2);
    run_paged(tier, "decode", {{1300, 1, numbers(0, 21)}}, 14, 2, 64, 64, 2);
    run_paged(tier, "decode, wide head", {{600, 1, numbers(0, 10)}}, 16, 8, 128, 64, 2);
    run_paged(tier, "decode, odd head", {{129, 1, numbers(0, 3)}}, 3, 1, 80, 64, 2);
    // a prefix of 20 pages shared by three, one of them with more, one on its own, one in prefill
    auto one = numbers(0, 20), two = one, three = one;
    one.push_back(20);
    two.push_back(21), two.push_back(22);
    three.push_back(23);
    run_paged(tier, "shared prefix",
              {{20 * 64 + 5, 1, one}, {20 * 64 + 100, 1, two}, {40, 1, {24}}, {20 * 64 + 1, 3, three}, {10, 12, {25}}},
              14, 2, 64, 64, 2);
    // a page table that starts as another's, but whose shared page is not full in the other
    run_paged(tier, "short sibling", {{200, 1, numbers(0, 4)}, {63, 1, {0}}}, 2, 1, 16, 64, 2);
  });
}
