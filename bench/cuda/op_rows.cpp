// The kernels one by one at the shapes of InternVL2-1B on the DriveLM canvas: 13 tiles, 3328 image tokens, a context of 3500.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/numeric.h"
#include "bench.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/kernels.h"
#include "network.h"

namespace drivlm::gpu {

using cuda::bf16;
using cuda::check;

namespace {

// Noise in [-1, 1) that repeats after a prime number of values, so that a check knows every value without keeping it.
constexpr int64_t kPeriod = 1000003;
const std::vector<uint16_t>& pattern() {
  static const std::vector<uint16_t> values = [] {
    std::vector<uint16_t> out(kPeriod);
    uint32_t state = 1;
    for (uint16_t& v : out) {
      state = state * 1664525u + 1013904223u;
      v = from_float<drivlm::bf16>(static_cast<float>(static_cast<int32_t>(state)) / 2147483648.f).bits;
    }
    return out;
  }();
  return values;
}
double pattern_at(int64_t i) { return to_float(drivlm::bf16{pattern()[i % kPeriod]}); }

struct Area {
  explicit Area(int64_t bytes) : memory(static_cast<size_t>(std::max<int64_t>(bytes, 16)), "benching") {}
  template <class T>
  T* as() {
    return static_cast<T*>(memory.data);
  }
  cuda::DeviceMemory memory;
};
using AreaPtr = std::shared_ptr<Area>;

AreaPtr zeros(int64_t bytes) {
  auto area = std::make_shared<Area>(bytes);
  check(cudaMemset(area->memory.data, 0, area->memory.bytes), "benching");
  return area;
}

// bf16 values of the pattern.
AreaPtr halves(int64_t count) {
  auto area = std::make_shared<Area>(2 * count);
  char* data = area->as<char>();
  int64_t filled = std::min(count, kPeriod);
  check(cudaMemcpy(data, pattern().data(), static_cast<size_t>(2 * filled), cudaMemcpyHostToDevice), "benching");
  while (filled < count) {  // whole periods double
    const int64_t more = std::min(filled, count - filled);
    check(cudaMemcpy(data + 2 * filled, data, static_cast<size_t>(2 * more), cudaMemcpyDeviceToDevice), "benching");
    filled += more;
  }
  check(cudaDeviceSynchronize(), "benching");
  return area;
}

template <class T>
AreaPtr values(const std::vector<T>& from) {
  auto area = std::make_shared<Area>(static_cast<int64_t>(from.size() * sizeof(T)));
  if (!from.empty())
    check(cudaMemcpy(area->memory.data, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "benching");
  check(cudaDeviceSynchronize(), "benching");
  return area;
}
AreaPtr floats(int64_t count, float value) { return values(std::vector<float>(static_cast<size_t>(count), value)); }

enum class After { store, gelu, add, scale_add, gated, f32 };

// What a weight and x are kept as.
struct Formats {
  Encoding weights = Encoding::bf16;
  bool x_int8 = false;
};

// Weights in 8 or 4 bits are the pattern's bits, all with the same scale: rms 1 / sqrt(3), as the pattern's own values have it.
constexpr float kByteScale = 1 / 128.f, kNibbleScale = 1 / 8.f;
double quantised_at(Encoding encoding, int64_t row, int64_t j, int64_t stride) {
  const auto byte = [](int64_t i) { return static_cast<int>(pattern()[i / 2 % kPeriod] >> (i % 2 * 8) & 0xff); };
  if (encoding == Encoding::s8) {
    constexpr int kPlace[] = {0, 2, 1, 3};
    return kByteScale * static_cast<int8_t>(byte(row * stride + j / 4 * 4 + kPlace[j % 4]));
  }
  const int64_t i = j % 8, word = j / 128 * 64 + j % 32 / 8 * 16 + j % 128 / 32 * 4;
  const int64_t bit = i % 2 * 16 + i / 2 * 4;
  return kNibbleScale * ((byte(row * stride / 2 + word + bit / 8) >> (bit % 8) & 15) - 8);
}

// Their scales; with x in 8 bits the sums of the rows too.
AreaPtr scales_of(Formats formats, int64_t n, int64_t k, int64_t stride) {
  if (formats.weights == Encoding::s4) {
    return values(
        std::vector<drivlm::bf16>(static_cast<size_t>(n * stride / kS4Group), from_float<drivlm::bf16>(kNibbleScale)));
  }
  std::vector<cuda::RowScale> rows(static_cast<size_t>(n), {kByteScale, 0});
  for (int64_t row = 0; formats.x_int8 && row < n; ++row) {
    double sum = 0;
    for (int64_t j = 0; j < k; ++j) sum += quantised_at(Encoding::s8, row, j, stride);
    rows[static_cast<size_t>(row)].sum = static_cast<int32_t>(std::lround(sum / kByteScale));
  }
  return values(rows);
}

// x [rows, k] * w [n, k]^T on `bench`'s device: checked as plain product, then timed with what follows it. k of weights in 8 bits is a multiple of
// 16. x in 8 bits is rounded outside of the timing; rounding has rows of its own.
void linear_row(Bench& bench, const std::string& name, int64_t rows, int64_t n, int64_t k, After after,
                Formats formats = {}) {
  const int64_t out_n = after == After::gated ? n / 2 : n, out_size = after == After::f32 ? 4 : 2;
  const double weight_bytes = formats.weights == Encoding::bf16 ? 2 : formats.weights == Encoding::s8 ? 1 : 0.5625;
  const double bytes =
      (formats.x_int8 ? 1.0 : 2.0) * rows * k + weight_bytes * n * k +
      static_cast<double>(out_size * rows * out_n) * (after == After::add || after == After::scale_add ? 2 : 1);
  const double operations = 2.0 * rows * n * k;
  const auto prepare = [&]() -> std::function<void()> {
    const bool quantised = formats.weights != Encoding::bf16;
    const int64_t stride = cuda::round_up(k, formats.weights == Encoding::s4 ? 128 : quantised ? 16 : 8);
    const AreaPtr x = halves(rows * k), out = zeros(rows * n * 4), bias = floats(n, 0), scale = floats(n, 0.5f),
                  w = halves(formats.weights == Encoding::bf16 ? n * stride
                             : formats.weights == Encoding::s8 ? n * stride / 2
                                                               : n * stride / 4),
                  w_scales = quantised ? scales_of(formats, n, k, stride) : nullptr,
                  rounded = formats.x_int8 ? zeros(rows * stride) : nullptr,
                  x_scales = formats.x_int8 ? zeros(rows * int64_t{sizeof(cuda::InputScale)}) : nullptr;
    if (!quantised && stride != k) {  // zero past k, as the device keeps its matrices
      const size_t width = static_cast<size_t>(2 * (stride - k));
      const AreaPtr nothing = zeros(static_cast<int64_t>(width) * n);
      check(cudaMemcpy2DAsync(w->as<bf16>() + k, static_cast<size_t>(2 * stride), nothing->as<void>(), width, width,
                              static_cast<size_t>(n), cudaMemcpyDeviceToDevice, bench.stream()),
            "benching");
      check(cudaStreamSynchronize(bench.stream()), "benching");
    }
    const AreaPtr partial = zeros(cuda::kPartialBytes);
    const auto run = [=, limits = bench.limits(), stream = bench.stream()](const cuda::Linear& job) {
      cuda::linear_suited(job, limits, partial->as<float>(), stream);
    };
    cuda::Linear job{x->as<bf16>(), {w->as<bf16>(), stride, formats.weights}, rows, n, k};
    if (quantised) job.w.scales = w_scales->as<void>();
    if (formats.x_int8) {
      job.x = rounded->as<void>(), job.x_scales = x_scales->as<cuda::InputScale>();
      cuda::round_rows(rounded->as<uint8_t>(), x_scales->as<cuda::InputScale>(), x->as<bf16>(), rows, k, stride,
                       bench.stream());
    }
    job.out = out->as<void>(), job.out_f32 = after == After::f32;
    run(job);
    check(cudaStreamSynchronize(bench.stream()), "benching");
    const double size = std::sqrt(static_cast<double>(k)) / 3;  // a typical result
    for (int64_t i = 0; i < 64; ++i) {
      const int64_t row = i * 7919 % rows, column = i * 104729 % n;
      double want = 0;
      for (int64_t j = 0; j < k; ++j) {
        want += pattern_at(row * k + j) *
                (quantised ? quantised_at(formats.weights, column, j, stride) : pattern_at(column * stride + j));
      }
      char found[4];
      check(cudaMemcpy(found, out->as<char>() + (row * n + column) * out_size, static_cast<size_t>(out_size),
                       cudaMemcpyDeviceToHost),
            "benching");
      float got;
      uint16_t bits;
      std::memcpy(&got, found, 4), std::memcpy(&bits, found, 2);
      if (out_size == 2) got = to_float(drivlm::bf16{bits});
      // Rounding x to 8 bits moves a result by 0.4 % of its rms on average.
      if (!(std::fabs(got - want) <= (formats.x_int8 ? 0.03 : 0.005) * (size + std::fabs(want)))) {
        throw Error(Code::internal, text("wrong: row %lld, column %lld is %g, expected %g", static_cast<long long>(row),
                                         static_cast<long long>(column), static_cast<double>(got), want));
      }
    }
    if (after != After::f32) job.bias = after == After::gated ? nullptr : bias->as<float>();
    job.scale = after == After::scale_add ? scale->as<float>() : nullptr;
    if (after == After::gelu) job.after = Epilogue::gelu;
    if (after == After::add || after == After::scale_add) job.after = Epilogue::add;
    if (after == After::gated) job.after = Epilogue::gated;
    return [=, keep = std::vector<AreaPtr>{x, w, out, bias, scale, w_scales, rounded, x_scales}] { run(job); };
  };
  bench.row(name, formats.x_int8 ? 0 : operations, bytes, prepare, formats.x_int8 ? operations : 0);
}

void round_row(Bench& bench, const std::string& name, int64_t rows, int64_t k) {
  bench.row(name, 0, 3.0 * rows * k, [&]() -> std::function<void()> {
    const AreaPtr x = halves(rows * k), out = zeros(rows * k), scales = zeros(rows * int64_t{sizeof(cuda::InputScale)});
    return [=, stream = bench.stream()] {
      cuda::round_rows(out->as<uint8_t>(), scales->as<cuda::InputScale>(), x->as<bf16>(), rows, k, k, stream);
    };
  });
}

void bytes_row(Bench& bench, const std::string& name, int64_t n, int64_t k) {
  const int64_t stride = cuda::round_up(k, 128);
  bench.row(name, 0, 1.5625 * n * stride, [&]() -> std::function<void()> {
    const Formats formats{Encoding::s4, false};
    const AreaPtr w = halves(n * stride / 4), w_scales = scales_of(formats, n, k, stride), out = zeros(n * stride),
                  scales = zeros(n * int64_t{sizeof(cuda::RowScale)});
    const cuda::Weights weights{w->as<void>(), stride, Encoding::s4, w_scales->as<void>()};
    return [=, stream = bench.stream(), keep = std::vector<AreaPtr>{w, w_scales}] {
      cuda::bytes_of_s4(out->as<uint8_t>(), scales->as<cuda::RowScale>(), weights, n, stream);
    };
  });
}

// `rounds`: what comes out is in 8 bits, as products with x in 8 bits read it.
void norm_row(Bench& bench, const std::string& name, int64_t rows, int64_t dim, bool layer, int64_t grid = 0,
              bool rounds = false) {
  bench.row(name, 0, (rounds ? 3.0 : 4.0) * rows * dim, [&]() -> std::function<void()> {
    const int64_t tiles = grid ? rows / (grid * grid / 4) : 0;
    const AreaPtr x = halves(grid ? tiles * (1 + grid * grid) * dim / 4 : rows * dim), out = zeros(2 * rows * dim);
    const AreaPtr weight = floats(dim, 1), bias = floats(dim, 0),
                  scales = rounds ? zeros(rows * int64_t{sizeof(cuda::InputScale)}) : nullptr;
    cuda::NormJob job{};
    job.x = x->as<bf16>(), job.out = out->as<bf16>(), job.weight = weight->as<float>();
    if (layer) job.bias = bias->as<float>();
    job.rows = rows, job.dim = dim, job.x_stride = job.out_stride = dim, job.eps = 1e-6f, job.layer = layer,
    job.grid = grid;
    if (rounds)
      job.rounded = out->as<uint8_t>(), job.scales = scales->as<cuda::InputScale>(),
      job.rounded_stride = cuda::round_up(dim, 16);
    return [=, stream = bench.stream(), keep = std::vector<AreaPtr>{x, out, weight, bias, scales}] {
      cuda::norm(job, stream);
    };
  });
}

// Attention over the paged cache: `questions` sequences append `rows` tokens each after `past`, of which `shared` are the same pages.
void cached_rows(Bench& bench, const std::string& name, const LanguageConfig& l, int64_t questions, int64_t rows,
                 int64_t past, int64_t shared, KvFormat format = KvFormat::activation) {
  const int64_t block = cuda::kv_block_bytes(l.head_dim, format);
  const double pairs = static_cast<double>(rows) * past + 0.5 * rows * (rows + 1);
  const double flops = 4.0 * questions * l.q_dim() * pairs;
  // Shared pages are read once; queries and results once.
  const double keys = static_cast<double>(shared) + questions * static_cast<double>(past - shared + rows);
  const double bytes = 2.0 * l.kv_heads * block / cuda::kPageTokens * keys + 4.0 * questions * rows * l.q_dim();
  bench.row(name, flops, bytes, [&]() -> std::function<void()> {
    const int64_t total = past + rows, table = cuda::ceil_div(total, cuda::kPageTokens),
                  common = shared / cuda::kPageTokens;
    const int64_t pages = common + questions * (table - common),
                  page_values = pages * l.kv_heads * block / 2;  // in 16 bits; any bits are a cache
    Batch batch;
    int32_t next = static_cast<int32_t>(common);
    for (int64_t q = 0; q < questions; ++q) {
      batch.segments.push_back({q * rows, rows, past, static_cast<int64_t>(batch.pages.size())});
      for (int64_t p = 0; p < table; ++p) batch.pages.push_back(p < common ? static_cast<int32_t>(p) : next++);
    }
    batch.rows = questions * rows;
    const int64_t slot_bytes = l.heads * (l.head_dim + 2) * 4, partial_bytes = cuda::kPartialBytes;
    const cuda::AttentionPlan plan =
        cuda::plan_attention(batch, l.heads, l.kv_heads, bench.limits().multiprocessors, partial_bytes / slot_bytes);
    const AreaPtr qkv = halves(batch.rows * l.qkv_dim()), out = zeros(2 * batch.rows * l.q_dim()),
                  keys_area = halves(page_values), values_area = halves(page_values), page_list = values(batch.pages),
                  wide = values(plan.wide), narrow = values(plan.narrow), tokens = values(plan.tokens),
                  split = values(plan.split_tokens), partial = zeros(partial_bytes);
    cuda::CachedAttention job{};
    job.qkv = qkv->as<bf16>(), job.out = out->as<bf16>(), job.keys = keys_area->as<void>(),
    job.values = values_area->as<void>();
    job.format = format;
    job.pages = page_list->as<int32_t>();
    job.wide = wide->as<cuda::AttentionItem>(), job.wide_items = static_cast<int>(plan.wide.size());
    job.narrow = narrow->as<cuda::AttentionItem>(), job.narrow_items = static_cast<int>(plan.narrow.size());
    job.tokens = tokens->as<cuda::AttentionToken>();
    job.split_tokens = split->as<int32_t>(), job.split_token_count = static_cast<int>(plan.split_tokens.size());
    job.partial = partial->as<float>();
    job.heads = static_cast<int>(l.heads), job.kv_heads = static_cast<int>(l.kv_heads),
    job.head_dim = static_cast<int>(l.head_dim);
    return [=, stream = bench.stream(),
            keep = std::vector<AreaPtr>{qkv, out, keys_area, values_area, page_list, wide, narrow, tokens, split,
                                        partial}] { cuda::attention_cached(job, stream); };
  });
}

void vision_rows(Bench& bench, const VisionConfig& v, int64_t tiles, int64_t llm_dim) {
  const int64_t rows = tiles * v.positions(), patches = tiles * v.patches(), tokens = tiles * v.tile_tokens();
  const int64_t pixels = tiles * v.tile_size * v.tile_size * 3;
  bench.row("vit_patchify", 0, 3.0 * pixels, [&]() -> std::function<void()> {
    const AreaPtr in = zeros(pixels), out = zeros(2 * pixels);
    return [=, &v, stream = bench.stream()] {
      cuda::patchify(out->as<bf16>(), in->as<uint8_t>(), tiles, v.tile_size, v.patch_size, v.mean, v.std, stream);
    };
  });
  linear_row(bench, "vit_patch_embedding", patches, v.dim, v.patch_values(), After::store);
  bench.row("vit_assemble", 0, 2.0 * (rows + patches) * v.dim, [&]() -> std::function<void()> {
    const AreaPtr in = halves(patches * v.dim), out = zeros(2 * rows * v.dim), first = floats(v.dim, 1),
                  positions = floats(v.positions() * v.dim, 1);
    return [=, &v, stream = bench.stream()] {
      cuda::assemble_tiles(out->as<bf16>(), in->as<bf16>(), first->as<float>(), positions->as<float>(), tiles,
                           v.patches(), v.dim, stream);
    };
  });
  norm_row(bench, "vit_layer_norm", rows, v.dim, true);
  linear_row(bench, "vit_qkv", rows, 3 * v.dim, v.dim, After::store);
  bench.row("vit_attention", 4.0 * rows * v.positions() * v.dim, 8.0 * rows * v.dim, [&]() -> std::function<void()> {
    const AreaPtr qkv = halves(rows * 3 * v.dim), out = zeros(2 * rows * v.dim);
    const cuda::FullAttention job{qkv->as<bf16>(),           out->as<bf16>(),
                                  static_cast<int>(tiles),   static_cast<int>(v.positions()),
                                  static_cast<int>(v.heads), static_cast<int>(v.head_dim)};
    return [=, stream = bench.stream(), keep = std::vector<AreaPtr>{qkv, out}] { cuda::attention_full(job, stream); };
  });
  linear_row(bench, "vit_proj", rows, v.dim, v.dim, After::scale_add);
  linear_row(bench, "vit_fc1", rows, v.ffn_dim, v.dim, After::gelu);
  linear_row(bench, "vit_fc2", rows, v.dim, v.ffn_dim, After::scale_add);
  norm_row(bench, "projector_shuffle_norm", tokens, 4 * v.dim, true, v.grid());
  linear_row(bench, "projector_fc1", tokens, llm_dim, 4 * v.dim, After::gelu);
  linear_row(bench, "projector_fc2", tokens, llm_dim, llm_dim, After::store);
}

void rope_row(Bench& bench, const std::string& name, const LanguageConfig& l, int64_t rows, KvFormat format) {
  const int64_t block = cuda::kv_block_bytes(l.head_dim, format);
  // q is read and written, k and v read, and written to the cache.
  const double bytes =
      4.0 * rows * l.q_dim() + 2.0 * rows * l.kv_heads * (2.0 * l.head_dim + block / double{cuda::kPageTokens});
  bench.row(name, 0, bytes, [&]() -> std::function<void()> {
    const int64_t cache = cuda::ceil_div(rows, cuda::kPageTokens) * l.kv_heads * block;
    std::vector<int32_t> places(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) places[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    const AreaPtr qkv = halves(rows * l.qkv_dim()), cos_sin = floats(rows * l.head_dim, 0.5f), slots = values(places),
                  keys = zeros(cache), cached = zeros(cache);
    cuda::RopeAppend job{};
    job.qkv = qkv->as<bf16>(), job.cos_sin = cos_sin->as<float>(), job.slots = job.angles = slots->as<int32_t>();
    job.keys = keys->as<void>(), job.values = cached->as<void>(), job.rows = rows;
    job.heads = static_cast<int>(l.heads), job.kv_heads = static_cast<int>(l.kv_heads),
    job.head_dim = static_cast<int>(l.head_dim);
    job.format = format;
    return [=, stream = bench.stream(), keep = std::vector<AreaPtr>{qkv, cos_sin, slots, keys, cached}] {
      cuda::rope_append(job, stream);
    };
  });
}

void sample_row(Bench& bench, const LanguageConfig& l) {
  bench.row("decode_sample", 0, 4.0 * l.vocab, [&]() -> std::function<void()> {
    const AreaPtr logits = floats(l.vocab, 1), results = zeros(sizeof(cuda::SampleResult));
    const AreaPtr jobs = values(std::vector<cuda::SampleJob>{{0, 1, 0, 0, static_cast<int32_t>(l.vocab), -1, -1, 0}});
    return [=, stream = bench.stream(), vocab = l.vocab] {
      cuda::sample(results->as<cuda::SampleResult>(), logits->as<float>(), jobs->as<cuda::SampleJob>(), nullptr, 1,
                   vocab, stream);
    };
  });
}

}  // namespace

void bench_ops(Bench& bench) {
  const bool small = bench.options().small;
  const NetworkDescription n = network(small);
  const LanguageConfig& l = n.language;
  const int64_t tiles = small ? 2 : 13, prompt = small ? 70 : 3328, context = small ? 130 : 3500,
                scene = small ? 128 : 3456;
  linear_row(bench, small ? "gemm_256" : "gemm_8192", small ? 256 : 8192, small ? 256 : 8192, small ? 256 : 8192,
             After::store);
  vision_rows(bench, n.vision, tiles, l.dim);
  norm_row(bench, "prefill_rms_norm", prompt, l.dim, false);
  linear_row(bench, "prefill_qkv", prompt, l.qkv_dim(), l.dim, After::store);
  rope_row(bench, "prefill_rope_append", l, prompt, KvFormat::activation);
  rope_row(bench, "prefill_rope_append_int8_cache", l, prompt, KvFormat::int8);
  cached_rows(bench, "prefill_attention", l, 1, prompt, 0, 0);
  cached_rows(bench, "prefill_attention_int8_cache", l, 1, prompt, 0, 0, KvFormat::int8);
  linear_row(bench, "prefill_out", prompt, l.dim, l.q_dim(), After::add);
  linear_row(bench, "prefill_gate_up", prompt, 2 * l.ffn_dim, l.dim, After::gated);
  linear_row(bench, "prefill_down", prompt, l.dim, l.ffn_dim, After::add);
  constexpr Formats kW8A8{Encoding::s8, true}, kW8{Encoding::s8, false}, kW4{Encoding::s4, false};
  const VisionConfig& v = n.vision;
  const int64_t rows13 = tiles * v.positions();
  norm_row(bench, "vit_layer_norm_rounds", rows13, v.dim, true, 0, true);
  norm_row(bench, "prefill_rms_norm_rounds", prompt, l.dim, false, 0, true);
  round_row(bench, "vit_round_dim", rows13, v.dim);
  round_row(bench, "vit_round_ffn", rows13, v.ffn_dim);
  linear_row(bench, "vit_qkv_w8a8", rows13, 3 * v.dim, v.dim, After::store, kW8A8);
  linear_row(bench, "vit_fc1_w8a8", rows13, v.ffn_dim, v.dim, After::gelu, kW8A8);
  linear_row(bench, "vit_fc2_w8a8", rows13, v.dim, v.ffn_dim, After::scale_add, kW8A8);
  bytes_row(bench, "prefill_gate_up_4_bits_to_bytes", 2 * l.ffn_dim, l.dim);
  linear_row(bench, "prefill_down_w8a8", prompt, l.dim, l.ffn_dim, After::add, kW8A8);
  linear_row(bench, "prefill_gate_up_w8a8", prompt, 2 * l.ffn_dim, l.dim, After::gated, kW8A8);
  linear_row(bench, "prefill_gate_up_w8a16", prompt, 2 * l.ffn_dim, l.dim, After::gated, kW8);
  linear_row(bench, "prefill_gate_up_w4a16", prompt, 2 * l.ffn_dim, l.dim, After::gated, kW4);
  for (const int64_t rows : {1, 8}) {
    const std::string end = rows == 1 ? "" : "_8_questions";
    linear_row(bench, "decode_qkv" + end, rows, l.qkv_dim(), l.dim, After::store);
    linear_row(bench, "decode_out" + end, rows, l.dim, l.q_dim(), After::add);
    linear_row(bench, "decode_gate_up" + end, rows, 2 * l.ffn_dim, l.dim, After::gated);
    linear_row(bench, "decode_down" + end, rows, l.dim, l.ffn_dim, After::add);
    linear_row(bench, "decode_head" + end, rows, l.vocab, l.dim, After::f32);
    for (const auto& [format, formats] : {std::pair("_w8a16", kW8), std::pair("_w4a16", kW4)}) {
      linear_row(bench, "decode_qkv" + (format + end), rows, l.qkv_dim(), l.dim, After::store, formats);
      linear_row(bench, "decode_out" + (format + end), rows, l.dim, l.q_dim(), After::add, formats);
      linear_row(bench, "decode_gate_up" + (format + end), rows, 2 * l.ffn_dim, l.dim, After::gated, formats);
      linear_row(bench, "decode_down" + (format + end), rows, l.dim, l.ffn_dim, After::add, formats);
    }
    linear_row(bench, "decode_head_w8a16" + end, rows, l.vocab, l.dim, After::f32, kW8);
    const int64_t shared = rows == 1 ? 0 : scene;
    cached_rows(bench, "decode_attention" + end, l, rows, 1, context - 1, shared);
    cached_rows(bench, "decode_attention_int8_cache" + end, l, rows, 1, context - 1, shared, KvFormat::int8);
  }
  for (const int64_t rows : {16, 64}) {  // more questions: products whose k is split
    const std::string end = text("_%lld_questions", static_cast<long long>(rows));
    linear_row(bench, "decode_out" + end, rows, l.dim, l.q_dim(), After::add);
    linear_row(bench, "decode_down" + end, rows, l.dim, l.ffn_dim, After::add);
    linear_row(bench, "decode_down_w8a16" + end, rows, l.dim, l.ffn_dim, After::add, kW8);
    linear_row(bench, "decode_down_w4a16" + end, rows, l.dim, l.ffn_dim, After::add, kW4);
    linear_row(bench, "decode_down_w8a8" + end, rows, l.dim, l.ffn_dim, After::add, kW8A8);
  }
  sample_row(bench, l);
}

}  // namespace drivlm::gpu
