// The fast attention of every target that this CPU has, against sums in double; the bound is that of cpu_kernels_test.cpp.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <sstream>
#include <vector>

#include "base/numeric.h"
#include "cpu_kernels_testing.h"
#include "kernels/cpu/packed_attention.h"
#include "packed/formats.h"

using namespace drivlm;
using namespace drivlm::cpu;

namespace {

// Weights of a query, as attention in bytes rounds them: in each block of 64 tokens in 255 steps of the largest weight times the largest value.
void round_weights(std::vector<float>& p, const std::function<const float*(int64_t)>& value, int64_t dim) {
  constexpr size_t kBlock = 64;
  for (size_t first = 0; first < p.size(); first += kBlock) {
    const size_t last = std::min(p.size(), first + kBlock);
    std::vector<float> sizes;
    float most = 0, top = 0;
    for (size_t t = first; t < last; ++t) {
      float size = 0;
      for (int64_t d = 0; d < dim; ++d) size = std::max(size, std::fabs(value(static_cast<int64_t>(t))[d]));
      sizes.push_back(size);
      most = std::max(most, size);
      top = std::max(top, p[t]);
    }
    for (size_t t = first; t < last && most > 0 && top > 0; ++t) {
      const float size = sizes[t - first];
      if (size > 0) p[t] = std::nearbyint(p[t] * size * (255 / (most * top))) * (most * top / 255) / size;
    }
  }
}

// softmax(q . k * scale) v over tokens [0, visible) in double; `plain` the same in f32, with weights as `form` has them.
void attend_exactly(IntegerForm form, const std::function<const float*(int64_t)>& key,
                    const std::function<const float*(int64_t)>& value, const float* q, int64_t visible, int64_t dim,
                    std::vector<double>& expected, std::vector<float>& plain) {
  std::vector<double> p(visible);
  std::vector<float> p32(visible);
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  double top = -1e300, total = 0;
  float total32 = 0;
  for (int64_t t = 0; t < visible; ++t) {
    const float* k = key(t);
    double s = 0;
    float s32 = 0;
    for (int64_t d = 0; d < dim; ++d) {
      s += static_cast<double>(q[d]) * k[d];
      s32 += q[d] * k[d];
    }
    p[t] = s * scale;
    p32[t] = s32 * static_cast<float>(scale);
    top = std::max(top, p[t]);
  }
  for (int64_t t = 0; t < visible; ++t) {
    total += p[t] = std::exp(p[t] - top);
    p32[t] = std::exp(p32[t] - static_cast<float>(top));
    // The reference keeps the weights in bf16, as vdpbf16ps needs them.
    if (form != IntegerForm::bytes) p32[t] = to_float(from_float<bf16>(p32[t]));
    total32 += p32[t];
  }
  if (form == IntegerForm::bytes) round_weights(p32, value, dim);
  std::vector<double> sums(dim);
  std::vector<float> sums32(dim);
  for (int64_t t = 0; t < visible; ++t) {
    const float* v = value(t);
    for (int64_t d = 0; d < dim; ++d) {
      sums[d] += p[t] * v[d];
      sums32[d] += p32[t] * v[d];
    }
  }
  for (int64_t d = 0; d < dim; ++d) {
    expected.push_back(sums[d] / total);
    plain.push_back(to_float(from_float<bf16>(sums32[d] / total32)));
  }
}

// `top` steps to the largest part of a row.
void round_to(float* row, int64_t dim, float top) {
  float largest = 0;
  for (int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(row[d]));
  for (int64_t d = 0; d < dim && largest > 0; ++d) row[d] = std::nearbyint(row[d] * (top / largest)) * (largest / top);
}

// The Hadamard transform of a row, in parts as long as the largest power of two in dim; twice is once more the row.
void transform(float* row, int64_t dim) {
  const int64_t length = dim & -dim;
  for (int64_t step = 1; step < length; step *= 2) {
    for (int64_t i = 0; i < dim; ++i) {
      if (i & step) continue;
      const float a = row[i], b = row[i + step];
      row[i] = (a + b) * 0.70710678f;
      row[i + step] = (a - b) * 0.70710678f;
    }
  }
}

// What attention in integers makes of a query or a key, and of a value.
void round_key(IntegerForm form, float* row, int64_t dim) {
  if (form == IntegerForm::shorts) round_to(row, dim, 4095);
  if (form != IntegerForm::bytes) return;
  transform(row, dim);
  round_to(row, dim, 127);
  transform(row, dim);
}
void round_value(IntegerForm form, float* row, int64_t dim) {
  if (form != IntegerForm::none) round_to(row, dim, form == IntegerForm::shorts ? 2047 : 127);
}

std::vector<float> widened(const uint16_t* halves, int64_t count) {
  std::vector<float> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(widen(halves[i]));
  return out;
}

void run_vision(const Target& target, int64_t groups, int64_t positions, int64_t heads, int64_t dim, float size,
                int threads, bool integers = false) {
  std::ostringstream name;
  name << target.name << (integers ? " integers" : "") << " vision " << groups << "x" << positions << "x" << heads
       << "x" << dim << " size " << size;
  Random random(static_cast<uint32_t>(positions * 7 + dim));
  const int64_t width = heads * dim;
  const auto qkv = exact(random.halves(groups * positions * 3 * width, size));
  auto wide = widened(qkv.get(), groups * positions * 3 * width);
  const IntegerForm form = integers ? target.kernels->integers : IntegerForm::none;
  for (int64_t i = 0; i < groups * positions * 3 * heads; ++i) {
    (i / heads % 3 == 2 ? round_value : round_key)(form, wide.data() + i * dim, dim);
  }
  auto out = std::make_unique<uint16_t[]>(groups * positions * width);
  TestWorkers workers(threads);
  attention(*target.kernels, out.get(), qkv.get(), groups, positions, heads, dim, integers, workers);
  std::vector<double> expected;
  std::vector<float> plain, found;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t first = g * positions * 3 * width + h * dim;
      const float* keys = wide.data() + first + width;
      for (int64_t i = 0; i < positions; i += positions > 100 ? 41 : 1) {
        attend_exactly(
            form, [&](int64_t t) { return keys + t * 3 * width; },
            [&](int64_t t) { return keys + width + t * 3 * width; }, wide.data() + first + i * 3 * width, positions,
            dim, expected, plain);
        for (int64_t d = 0; d < dim; ++d) found.push_back(widen(out[(g * positions + i) * width + h * dim + d]));
      }
    }
  }
  check_close(name.str(), found, expected, plain);
}

struct Sequence {
  int64_t past, rows;
  std::vector<int32_t> pages;
};

// Rows [first, first + rows) of a sequence.
struct Part {
  size_t sequence;
  int64_t first, rows;
};

struct Shape {
  int64_t heads, kv_heads, dim, page_tokens;
  bool int8 = false, integers = false;
};

// The caches of some sequences, filled a segment at a time through `append`, and a query for each of their rows.
class Paged {
 public:
  Paged(const Target& target, const std::vector<Sequence>& sequences, const Shape& shape)
      : kernels_(*target.kernels),
        sequences_(sequences),
        shape_(shape),
        form_(shape.integers ? target.kernels->integers : IntegerForm::none),
        layout_{2, shape.kv_heads, shape.dim, shape.page_tokens, shape.int8},
        kv_(static_cast<size_t>(layout_.page_bytes() * page_count(sequences))) {
    Random random(static_cast<uint32_t>(shape.heads * 1000 + shape.dim));
    // One key and value a (page, token): sequences that share a page share them.
    const int64_t tokens = page_count(sequences) * shape.page_tokens;
    keys_ = random.halves(tokens * shape.kv_heads * shape.dim, 2);
    values_ = random.halves(tokens * shape.kv_heads * shape.dim, 1);
    kept_keys_ = kept(keys_, true);
    kept_values_ = kept(values_, false);
    for (const Sequence& s : sequences) {
      for (int64_t head = 0; head < shape.kv_heads; ++head) fill(s, head);
      queries_.push_back(random.halves(s.rows * width(), 2));
    }
  }

  // What the cache stands for.
  const float* key(const Sequence& s, int64_t token, int64_t head) const { return at(kept_keys_, s, token, head); }
  const float* value(const Sequence& s, int64_t token, int64_t head) const { return at(kept_values_, s, token, head); }
  const uint16_t* query(size_t sequence, int64_t row, int64_t head) const {
    return queries_[sequence].data() + row * width() + head * shape_.dim;
  }
  IntegerForm form() const { return form_; }
  // What is multiplied of it, where a segment is long. Queries that meet a cache in 8 bits are taken for spread ones: bytes are made of them without a transform.
  std::vector<float> taken(size_t sequence, int64_t row, int64_t head) const {
    auto wide = widened(query(sequence, row, head), shape_.dim);
    if (shape_.int8 && form_ == IntegerForm::bytes) {
      round_to(wide.data(), shape_.dim, 127);
    } else {
      round_key(form_, wide.data(), shape_.dim);
    }
    return wide;
  }

  // What the rows of these parts get together, [rows, heads, dim].
  std::vector<uint16_t> attend(const std::vector<Part>& parts, int threads) {
    Batch batch;
    std::vector<uint16_t> qkv;
    for (const Part& part : parts) {
      const Sequence& s = sequences_[part.sequence];
      batch.segments.push_back({batch.rows, part.rows, s.past + part.first, static_cast<int64_t>(batch.pages.size())});
      batch.pages.insert(batch.pages.end(), s.pages.begin(), s.pages.end());
      batch.rows += part.rows;
      const uint16_t* first = query(part.sequence, part.first, 0);
      qkv.insert(qkv.end(), first, first + part.rows * width());
    }
    const auto qkv_exact = exact(qkv);
    auto out = std::make_unique<uint16_t[]>(batch.rows * shape_.heads * shape_.dim);
    TestWorkers workers(threads);
    plan_.make(batch, shape_.page_tokens, shape_.heads, shape_.kv_heads, shape_.dim, kernels_.tile_rows, threads);
    plan_.run(kernels_, out.get(), qkv_exact.get(), kv_.data, layout_, kLayer, shape_.heads, shape_.integers, workers);
    return {out.get(), out.get() + batch.rows * shape_.heads * shape_.dim};
  }

 private:
  static constexpr int64_t kLayer = 1;

  static int32_t page_count(const std::vector<Sequence>& sequences) {
    int32_t last = 0;
    for (const Sequence& s : sequences) last = std::max(last, *std::max_element(s.pages.begin(), s.pages.end()));
    return last + 1;
  }
  int64_t width() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.dim; }
  std::vector<float> kept(const std::vector<uint16_t>& halves, bool keys) const {
    auto wide = widened(halves.data(), static_cast<int64_t>(halves.size()));
    std::vector<int8_t> q(shape_.dim);
    for (size_t i = 0; i < wide.size(); i += q.size()) {
      if (shape_.int8) {  // multiplied as they are, keys spread
        if (keys) spread_head(wide.data() + i, shape_.dim);
        const float scale = quantize_s8(q.data(), wide.data() + i, shape_.dim);
        for (size_t d = 0; d < q.size(); ++d) wide[i + d] = scale * static_cast<float>(q[d]);
        continue;
      }
      (keys ? round_key : round_value)(form_, wide.data() + i, shape_.dim);
    }
    return wide;
  }
  template <class T>
  const T* at(const std::vector<T>& all, const Sequence& s, int64_t token, int64_t head) const {
    const int64_t place = s.pages[token / shape_.page_tokens] * shape_.page_tokens + token % shape_.page_tokens;
    return all.data() + (place * shape_.kv_heads + head) * shape_.dim;
  }
  void fill(const Sequence& s, int64_t head) {
    std::vector<uint16_t> k, v;
    for (int64_t t = 0; t < s.past + s.rows;) {  // in steps of 1, 3, 40, ...: every alignment of an append
      const int64_t steps[] = {1, 3, 40, 2, 64, 5};
      const int64_t n =
          std::min({steps[(t + head) % 6], s.past + s.rows - t, shape_.page_tokens - t % shape_.page_tokens});
      k.clear(), v.clear();
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t *one_key = at(keys_, s, t + i, head), *one_value = at(values_, s, t + i, head);
        k.insert(k.end(), one_key, one_key + shape_.dim);
        v.insert(v.end(), one_value, one_value + shape_.dim);
      }
      const auto k_exact = exact(k), v_exact = exact(v);
      kernels_.append(
          static_cast<char*>(kv_.data) + layout_.block_offset(s.pages[t / shape_.page_tokens], kLayer, head), layout_,
          k_exact.get(), v_exact.get(), shape_.dim, t % shape_.page_tokens, n);
      t += n;
    }
  }

  const KernelTable& kernels_;
  AttentionPlan plan_;  // kept, as by the ops: what is left in it must not matter
  std::vector<Sequence> sequences_;
  Shape shape_;
  IntegerForm form_;
  KvLayout layout_;
  Aligned kv_;  // every byte 0xff: a NaN wherever nothing was written
  std::vector<uint16_t> keys_, values_;
  std::vector<float> kept_keys_, kept_values_;
  std::vector<std::vector<uint16_t>> queries_;
};

void run_paged(const Target& target, const std::string& what, const std::vector<Sequence>& sequences,
               const Shape& shape, int threads) {
  Paged paged(target, sequences, shape);
  std::vector<Part> whole;
  for (size_t i = 0; i < sequences.size(); ++i) whole.push_back({i, 0, sequences[i].rows});
  const auto out = paged.attend(whole, threads);
  std::vector<double> expected;
  std::vector<float> plain, found;
  const uint16_t* of_sequence = out.data();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& s = sequences[i];
    for (int64_t r = 0; r < s.rows; r += s.rows > 60 ? 17 : 1) {
      for (int64_t h = 0; h < shape.heads; ++h) {
        const int64_t head = h / (shape.heads / shape.kv_heads);
        attend_exactly(
            paged.form(), [&](int64_t t) { return paged.key(s, t, head); },
            [&](int64_t t) { return paged.value(s, t, head); }, paged.taken(i, r, h).data(), s.past + r + 1, shape.dim,
            expected, plain);
        const uint16_t* row = of_sequence + (r * shape.heads + h) * shape.dim;
        for (int64_t d = 0; d < shape.dim; ++d) found.push_back(widen(row[d]));
      }
    }
    of_sequence += s.rows * shape.heads * shape.dim;
  }
  check_close(std::string(target.name) + (shape.integers ? " integers" : "") + " paged " + what, found, expected,
              plain);
}

// Rows of a sequence in pieces of `rows`, the last one longer where fewer than `fewest` would be left.
std::vector<Part> cut_into(size_t sequence, int64_t all, int64_t rows, int64_t fewest) {
  std::vector<Part> parts;
  for (int64_t first = 0; first < all;) {
    const int64_t left = all - first, n = left - rows < fewest ? left : rows;
    parts.push_back({sequence, first, n});
    first += n;
  }
  return parts;
}

// Every row of a sequence gets the same, bit for bit, alone, with some of its own, with all, and beside others. In integers `alone` is nine rows
// at a time: fewer keep attention as it is without.
void run_beside(const Target& target, const std::vector<Sequence>& sequences, const Shape& shape) {
  Paged paged(target, sequences, shape);
  const int64_t row_size = shape.heads * shape.dim, fewest = shape.integers ? kStreamRows + 1 : 1;
  std::vector<std::vector<uint16_t>> alone;
  for (size_t i = 0; i < sequences.size(); ++i) {
    std::vector<uint16_t> all;
    for (const Part& part : cut_into(i, sequences[i].rows, fewest, fewest)) {
      const auto some = paged.attend({part}, 1);
      all.insert(all.end(), some.begin(), some.end());
    }
    alone.push_back(all);
  }
  const auto check = [&](const char* how, const std::vector<Part>& parts, int threads) {
    const auto out = paged.attend(parts, threads);
    const uint16_t* found = out.data();
    for (const Part& part : parts) {
      if (std::memcmp(found, alone[part.sequence].data() + part.first * row_size,
                      static_cast<size_t>(part.rows * row_size) * 2) != 0) {
        std::ostringstream message;
        message << target.name << " " << how << ": sequence " << part.sequence << ", rows " << part.first << " to "
                << part.first + part.rows << " differ from those rows alone";
        test::fail(__FILE__, __LINE__, message.str());
      }
      found += part.rows * row_size;
    }
  };
  for (const int64_t rows : {2, 3, 4, 5, 9, 40}) {
    if (rows < fewest) continue;
    for (size_t i = 0; i < sequences.size(); ++i) check("cut", cut_into(i, sequences[i].rows, rows, fewest), 2);
  }
  std::vector<Part> whole, lasts, mixed;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int64_t rows = sequences[i].rows;
    whole.push_back({i, 0, rows});
    lasts.push_back({i, rows - fewest, fewest});
    mixed.push_back({i, i % 2 == 0 ? rows - fewest : 0, i % 2 == 0 ? fewest : rows});
  }
  check("whole", whole, 3);
  check("last rows", lasts, 1);
  check("mixed", mixed, 2);
}

std::vector<int32_t> numbers(int32_t first, int32_t count) {
  std::vector<int32_t> all(count);
  std::iota(all.begin(), all.end(), first);
  return all;
}

}  // namespace

TEST(cpu_attention_vision) {
  for_each_target([](const Target& target) {
    run_vision(target, 2, 1, 1, 16, 1, 1);
    run_vision(target, 2, 17, 2, 16, 1, 2);
    run_vision(target, 1, 33, 1, 96, 2, 3);
    run_vision(target, 1, 257, 3, 48, 4, 2);
    run_vision(target, 1, 1025, 1, 64, 2, 5);
    run_vision(target, 1, 300, 1, 128, 8, 1);  // one key takes nearly all the weight
  });
}

TEST(cpu_attention_paged) {
  for_each_target([](const Target& target) {
    run_paged(target, "prefill", {{0, 150, {2, 0, 1}}}, {14, 2, 64, 64}, 2);
    run_paged(target, "prefill on a past", {{77, 90, numbers(0, 3)}}, {4, 4, 96, 64}, 1);
    run_paged(target, "small pages", {{0, 71, numbers(0, 3)}}, {6, 2, 32, 32}, 3);
    run_paged(target, "first token", {{0, 1, {0}}}, {14, 2, 64, 64}, 2);
    run_paged(target, "decode", {{1300, 1, numbers(0, 21)}}, {14, 2, 64, 64}, 2);
    run_paged(target, "decode, wide head", {{600, 1, numbers(0, 10)}}, {16, 8, 128, 64}, 2);
    run_paged(target, "decode, odd head", {{129, 1, numbers(0, 3)}}, {3, 1, 80, 64}, 2);
    // a prefix of 20 pages shared by three, one of them with more, one on its own, one in prefill
    auto one = numbers(0, 20), two = one, three = one;
    one.push_back(20);
    two.push_back(21), two.push_back(22);
    three.push_back(23);
    run_paged(target, "shared prefix",
              {{20 * 64 + 5, 1, one}, {20 * 64 + 100, 1, two}, {40, 1, {24}}, {20 * 64 + 1, 3, three}, {10, 12, {25}}},
              {14, 2, 64, 64}, 2);
    // a page table that starts as another's, but whose shared page is not full in the other
    run_paged(target, "short sibling", {{200, 1, numbers(0, 4)}, {63, 1, {0}}}, {2, 1, 16, 64}, 2);
  });
}

TEST(cpu_attention_int8) {
  for_each_target([](const Target& target) {
    run_paged(target, "int8 prefill", {{0, 150, {2, 0, 1}}}, {14, 2, 64, 64, true}, 2);
    run_paged(target, "int8 prefill on a past", {{77, 90, numbers(0, 3)}}, {4, 4, 96, 64, true}, 1);
    run_paged(target, "int8 small pages", {{0, 71, numbers(0, 3)}}, {6, 2, 32, 32, true}, 3);
    run_paged(target, "int8 first token", {{0, 1, {0}}}, {14, 2, 16, 64, true}, 2);
    run_paged(target, "int8 decode, wide head", {{600, 1, numbers(0, 10)}}, {16, 8, 128, 64, true}, 2);
    run_paged(target, "int8 decode, odd head", {{129, 1, numbers(0, 3)}}, {3, 1, 80, 64, true}, 2);
    run_beside(target, {{500, 21, numbers(0, 17)}, {350, 1, numbers(0, 11)}, {254, 4, numbers(0, 9)}},
               {7, 1, 80, 32, true});
  });
}

// The bytes and scales of every head size, spread as packed/formats does it, bit for bit.
TEST(cpu_attention_int8_append) {
  for_each_target([](const Target& target) {
    for (int64_t dim = 16; dim <= 128; dim += 16) {
      const KvLayout layout{1, 1, dim, 32, true};
      const Aligned block(static_cast<size_t>(layout.page_bytes()));
      const int8_t* bytes = static_cast<const int8_t*>(block.data);
      constexpr int64_t kTokens = 5;
      const auto keys = exact(Random(static_cast<uint32_t>(dim)).halves(kTokens * dim, 3)),
                 values = exact(Random(static_cast<uint32_t>(dim + 1)).halves(kTokens * dim, 1));
      target.kernels->append(static_cast<char*>(block.data), layout, keys.get(), values.get(), dim, 0, kTokens);
      for (int64_t t = 0; t < kTokens; ++t) {
        for (const bool is_key : {true, false}) {
          auto wide = widened((is_key ? keys : values).get() + t * dim, dim);
          if (is_key) spread_head(wide.data(), dim);
          std::vector<int8_t> q(dim);
          const float scale = quantize_s8(q.data(), wide.data(), dim);
          bool same = true;
          for (int64_t d = 0; d < dim; ++d)
            same &= bytes[is_key ? layout.key_offset(t, d) : layout.value_offset(t, d)] == q[d];
          CHECK(same);
          CHECK(std::memcmp(bytes + layout.scales_offset() + (is_key ? t : 32 + t) * 4, &scale, 4) == 0);
        }
      }
    }
  });
}

// Where a target has no products of integers the same as without.
TEST(cpu_attention_integers) {
  for_each_target([](const Target& target) {
    run_vision(target, 2, 1, 1, 16, 1, 1, true);
    run_vision(target, 2, 17, 2, 16, 1, 2, true);
    run_vision(target, 1, 33, 1, 96, 2, 3, true);
    run_vision(target, 1, 257, 3, 48, 4, 2, true);
    run_vision(target, 1, 1025, 1, 64, 2, 5, true);
    run_vision(target, 1, 1025, 1, 32, 0.1f, 1, true);  // more queries than meet a chunk at a time
    run_vision(target, 1, 300, 1, 128, 8, 1, true);     // one key takes nearly all the weight
    run_paged(target, "prefill", {{0, 150, {2, 0, 1}}}, {14, 2, 64, 64, false, true}, 2);
    run_paged(target, "prefill on a past", {{300, 90, numbers(0, 7)}}, {4, 4, 96, 64, false, true}, 1);
    run_paged(target, "small pages", {{0, 71, numbers(0, 3)}}, {6, 2, 32, 32, false, true}, 3);
    run_paged(target, "prefill beside another", {{300, 90, numbers(0, 7)}, {64, 11, {7, 8}}},
              {7, 1, 80, 64, false, true}, 2);
    run_paged(target, "prefill, cache in 8 bits", {{0, 150, {2, 0, 1}}}, {14, 2, 64, 64, true, true}, 2);
    run_paged(target, "prefill on a past, cache in 8 bits", {{301, 90, numbers(0, 7)}}, {4, 4, 48, 64, true, true}, 1);
    const std::vector<Sequence> sequences = {
        {500, 121, numbers(0, 20)}, {350, 9, numbers(0, 12)}, {247, 12, numbers(0, 9)}};
    run_beside(target, sequences, {7, 1, 80, 32, false, true});
    run_beside(target, sequences, {14, 2, 64, 32, true, true});
  });
}

// Keys as Qwen2's biases make them: the same few dimensions are many times larger than the others in every token. With a scale a token they must not take all
// bits from the others, which decide where a query looks.
TEST(cpu_attention_integers_keep_what_stands_beside_an_outlier) {
  for_each_target([](const Target& target) {
    constexpr int64_t kPositions = 300, kDim = 64;
    Random random(7);
    auto qkv = random.floats(kPositions * 3 * kDim, 2);
    for (int64_t t = 0; t < kPositions; ++t) {
      float* row = qkv.data() + t * 3 * kDim;
      for (const int64_t d : {5, 40}) row[d] *= 0.02f, row[kDim + d] = 100 + row[kDim + d];
    }
    std::vector<uint16_t> halves;
    for (const float v : qkv) halves.push_back(from_float<bf16>(v).bits);
    const auto in = exact(halves);
    const auto wide = widened(in.get(), kPositions * 3 * kDim);
    auto out = std::make_unique<uint16_t[]>(kPositions * kDim);
    TestWorkers workers(2);
    attention(*target.kernels, out.get(), in.get(), 1, kPositions, 1, kDim, true, workers);
    std::vector<double> expected;
    std::vector<float> plain;
    for (int64_t i = 0; i < kPositions; ++i) {
      const float* keys = wide.data() + kDim;
      attend_exactly(
          IntegerForm::none, [&](int64_t t) { return keys + t * 3 * kDim; },
          [&](int64_t t) { return keys + kDim + t * 3 * kDim; }, wide.data() + i * 3 * kDim, kPositions, kDim, expected,
          plain);
    }
    double missed = 0, all = 0;
    for (int64_t i = 0; i < kPositions * kDim; ++i) {
      const double difference = widen(out[i]) - expected[i];
      missed += difference * difference;
      all += expected[i] * expected[i];
    }
    const double share = std::sqrt(missed / all);
    std::ostringstream message;
    message << target.name << ": off by " << 100 * share << " % of the values' rms";
    if (!(share < 0.1)) test::fail(__FILE__, __LINE__, message.str());
  });
}

TEST(cpu_attention_beside_others) {
  for_each_target([](const Target& target) {
    // Three share seven pages, which is less than two chunks; one has nothing in common; one is shorter than a chunk.
    auto one = numbers(0, 7), two = one, three = one;
    one.insert(one.end(), {7, 8});
    two.insert(two.end(), {9, 10, 11, 12});
    three.push_back(13);
    run_beside(
        target,
        {{7 * 64, 50, one}, {7 * 64 + 3, 200, two}, {7 * 64 + 1, 6, three}, {600, 4, numbers(14, 10)}, {0, 11, {24}}},
        {14, 2, 64, 64});
    // Of the last one's rows two end with a chunk, the others see a token or two of the next.
    run_beside(target, {{500, 21, numbers(0, 17)}, {350, 1, numbers(0, 11)}, {254, 4, numbers(0, 9)}}, {7, 1, 80, 32});
    // Forty questions about one scene: more queries than pass over a chunk together.
    std::vector<Sequence> questions;
    for (int32_t i = 0; i < 40; ++i) {
      questions.push_back({9 * 64 + i, 1 + i % 4, numbers(0, 9)});
      questions.back().pages.push_back(9 + i);
    }
    run_beside(target, questions, {14, 2, 64, 64});
  });
}
