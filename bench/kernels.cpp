// Times the CPU kernels at the shapes of InternVL2-1B, beside what this machine could do at best in the same run.
//
//   drivlm_bench [--threads N] [--only TEXT] [--json FILE] [--clock wall|cpu]
//
// On a machine that others use too, `--threads 1 --clock cpu` counts the time this thread had a core.
//
// Answers are checked first. A row is the median of its runs; its floor is the larger of its operations at the measured
// peak and its bytes at the measured bandwidth; the share is floor / time. Peaks are measured before, between and after
// the rows, the largest counts. Targets as of DRIVLM_CPU.
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "cpu_bench.h"
#include "device/ops.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_attention.h"
#include "kernels/cpu/packed_device.h"
#include "packed/formats.h"

using namespace drivlm;
using namespace drivlm::cpu;

namespace {

std::vector<uint16_t> noise(int64_t count, float size) {
  std::vector<uint16_t> out(count);
  uint32_t state = 1;
  for (uint16_t& v : out) {
    state = state * 1664525u + 1013904223u;
    v = from_float<bf16>(static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f * size).bits;
  }
  return out;
}

const char* kind_name(WeightKind kind) {
  return kind == WeightKind::bf16 ? "bf16" : kind == WeightKind::s8 ? "int8" : kind == WeightKind::s4 ? "int4" : "f32";
}

// A product with random weights, packed from the values that the check knows.
struct Product {
  Product(const KernelTable& kernels, WeightKind kind, int64_t m, int64_t n, int64_t k, bool x_int8)
      : x(noise(m * k, 1)), out(m * n), packed(packed_bytes(kind, n, k), "Packed weights", true) {
    const auto wide = noise(kPanelRows * k, 0.1f);  // the same for every panel: what is timed does not depend on values
    for (const uint16_t bits : wide) weights.push_back(to_float(bf16{bits}));
    scales.assign(panel_count(n) * kPanelRows, 0);
    sums.assign(panel_count(n) * kPanelRows, 0);
    StoredRows rows;
    rows.k = k;
    for (int64_t i = 0; i < kPanelRows; ++i) rows.row[i] = reinterpret_cast<const char*>(wide.data() + i * k);
    for (int64_t panel = 0; panel < panel_count(n); ++panel) {
      kernels.pack_panel(static_cast<char*>(packed.data) + panel * panel_bytes(kind, k),
                         scales.data() + panel * kPanelRows, sums.data() + panel * kPanelRows, kind, rows);
    }
    job.x = x.data();
    job.x_stride = k;
    job.x_int8 = x_int8;
    job.w = packed.data;
    job.kind = kind;
    job.w_scale = scales.data();
    job.w_sum = sums.data();
    job.m = m, job.n = n, job.k = k;
    job.out = out.data();
    job.out_stride = n;
  }

  // Some values against sums in double; quantised weights are off by a share of the values' size.
  void check(const std::string& name) const {
    const double allowed = job.kind == WeightKind::s4 ? 0.5 : job.kind == WeightKind::s8 ? 0.08 : 0.01;
    const double size = 0.1 * std::sqrt(static_cast<double>(job.k)) / 3;
    for (int64_t i = 0; i < 64; ++i) {
      const int64_t row = i * 7919 % job.m, column = i * 104729 % job.n;
      double y = 0;
      for (int64_t j = 0; j < job.k; ++j)
        y += static_cast<double>(to_float(bf16{x[row * job.k + j]})) * weights[column % kPanelRows * job.k + j];
      const double found = to_float(bf16{out[row * job.n + column]});
      if (!(std::fabs(found - y) <= allowed * (size + std::fabs(y)))) {
        wrong(text("%s: at %d, %d expected %g, found %g", name.c_str(), static_cast<int>(row), static_cast<int>(column),
                   y, found));
      }
    }
  }

  std::vector<uint16_t> x, out;
  HostMemory packed;
  std::vector<float> scales, weights;
  std::vector<int32_t> sums;
  GemmJob job;
};

void products(Bench& bench) {
  struct Shape {
    const char* name;
    int64_t m, n, k;
  };
  const Shape shapes[] = {{"vit_qkv", 1025, 3072, 1024},     {"vit_proj", 1025, 1024, 1024},
                          {"vit_fc1", 1025, 4096, 1024},     {"vit_fc2", 1025, 1024, 4096},
                          {"prefill_qkv", 512, 1152, 896},   {"prefill_out", 512, 896, 896},
                          {"prefill_gated", 512, 9728, 896}, {"prefill_down", 512, 896, 4864}};
  for (const bool int8 : {false, true}) {
    for (const Shape& s : shapes) {
      const std::string name = std::string(s.name) + (int8 ? "_int8" : "_bf16");
      if (!bench.wants(name)) continue;
      const WeightKind kind = int8 ? WeightKind::s8 : WeightKind::bf16;
      Product product(bench.kernels(), kind, s.m, s.n, s.k, int8);
      gemm(bench.kernels(), product.job, bench.workers());
      product.check(name);
      if (std::strcmp(s.name, "vit_fc1") == 0) product.job.after = Epilogue::gelu;
      if (std::strcmp(s.name, "prefill_gated") == 0) {
        product.job.after = Epilogue::gated;
        product.job.out_stride = s.n / 2;
      }
      if (std::strcmp(s.name, "vit_fc2") == 0 || std::strcmp(s.name, "prefill_down") == 0)
        product.job.after = Epilogue::add;
      bench.time(name, int8 ? "u8s8" : "bf16", 2.0 * s.m * s.n * s.k, static_cast<double>(packed_bytes(kind, s.n, s.k)),
                 [&] { gemm(bench.kernels(), product.job, bench.workers()); });
    }
  }
}

// All matrices of one decoder step, each read once: 24 layers and the head. The head stays in 8 bits with int4.
void decode_weights(Bench& bench, WeightKind kind, int64_t rows, bool x_int8) {
  const std::string name =
      text("decode_weights_%s%s_rows_%d", kind_name(kind), x_int8 ? "_int8" : "", static_cast<int>(rows));
  if (!bench.wants(name)) return;
  std::vector<std::unique_ptr<Product>> all;
  double bytes = 0, operations = 0;
  const auto add = [&](WeightKind of, int64_t n, int64_t k, Epilogue after) {
    all.push_back(std::make_unique<Product>(bench.kernels(), of, rows, n, k, x_int8));
    gemm(bench.kernels(), all.back()->job, bench.workers());
    all.back()->check(name);
    all.back()->job.after = after;
    if (after == Epilogue::gated) all.back()->job.out_stride = n / 2;
    bytes += static_cast<double>(packed_bytes(of, n, k));
    operations += 2.0 * rows * n * k;
  };
  for (int layer = 0; layer < 24; ++layer) {
    add(kind, 1152, 896, Epilogue::store);
    add(kind, 896, 896, Epilogue::add);
    add(kind, 9728, 896, Epilogue::gated);
    add(kind, 896, 4864, Epilogue::add);
  }
  add(kind == WeightKind::s4 ? WeightKind::s8 : kind, 151655, 896, Epilogue::store);
  bench.time(name, x_int8 ? "u8s8" : "bf16", operations, bytes, [&] {
    for (const auto& product : all) gemm(bench.kernels(), product->job, bench.workers());
  });
}

void decode_weights(Bench& bench) {
  for (const WeightKind kind : {WeightKind::bf16, WeightKind::s8, WeightKind::s4}) {
    for (const int64_t rows : {1, 8, 20}) decode_weights(bench, kind, rows, false);
    if (kind != WeightKind::bf16) decode_weights(bench, kind, 20, true);  // up to 8 rows it changes nothing
  }
}

void cached_attentions(Bench& bench, bool int8, bool integers) {
  const int64_t heads = 14, kv_heads = 2, dim = 64, page_tokens = 64, layers = 24, pages = 80;
  const KvLayout layout{layers, kv_heads, dim, page_tokens, int8};
  const HostMemory kv(static_cast<size_t>(layout.page_bytes() * pages), "The cache", true);
  const auto tokens = noise(page_tokens * dim, 1);
  for (int64_t page = 0; page < pages; ++page) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (int64_t head = 0; head < kv_heads; ++head) {
        bench.kernels().append(static_cast<char*>(kv.data) + layout.block_offset(page, layer, head), layout,
                               tokens.data(), tokens.data(), dim, 0, page_tokens);
      }
    }
  }
  struct Case {
    const char* name;
    int64_t sequences, past, rows;
  };
  for (const Case& c : {Case{"prefill_attention_512", 1, 0, 512},
                        {"prefill_attention_3328", 1, 2816, 512},
                        {"decode_attention_512", 1, 512, 1},
                        {"decode_attention_3500", 1, 3500, 1},
                        {"decode_attention_3500_shared_by_8", 8, 3500, 1},
                        {"decode_attention_3400_shared_by_20", 20, 3400, 1}}) {
    if (integers && c.rows == 1) continue;  // few rows have no form in integers
    Batch batch;
    for (int64_t s = 0; s < c.sequences; ++s) {
      batch.segments.push_back({batch.rows, c.rows, c.past, static_cast<int64_t>(batch.pages.size())});
      batch.rows += c.rows;
      const int64_t needed = (c.past + c.rows + page_tokens - 1) / page_tokens;
      for (int64_t p = 0; p < needed; ++p) batch.pages.push_back(static_cast<int32_t>(p + 1 < needed ? p : p + s));
    }
    const auto qkv = noise(batch.rows * (heads + 2 * kv_heads) * dim, 2);
    std::vector<uint16_t> out(batch.rows * heads * dim);
    AttentionPlan plan;
    plan.make(batch, page_tokens, heads, kv_heads, dim, bench.kernels().tile_rows, bench.workers().count());
    const double seen = c.sequences * c.rows * (c.past + (c.rows + 1) / 2.0);
    const double bytes = static_cast<double>((c.past + c.rows) * layout.page_bytes()) / page_tokens;
    bench.time(std::string(c.name) + "_24_layers" + (int8 ? "_int8" : "") + (integers ? "_integers" : ""), "bf16",
               4.0 * seen * heads * dim * layers, bytes, [&] {
                 for (int64_t layer = 0; layer < layers; ++layer) {
                   plan.run(bench.kernels(), out.data(), qkv.data(), kv.data, layout, layer, heads, integers,
                            bench.workers());
                 }
               });
  }
}

void attentions(Bench& bench) {
  {
    const int64_t positions = 1025, heads = 16, dim = 64;
    const auto qkv = noise(positions * 3 * heads * dim, 2);
    std::vector<uint16_t> out(positions * heads * dim);
    for (const bool integers : {false, true}) {
      bench.time(std::string("vit_attention") + (integers ? "_integers" : ""), "bf16",
                 4.0 * positions * positions * heads * dim, 0, [&] {
                   attention(bench.kernels(), out.data(), qkv.data(), 1, positions, heads, dim, integers,
                             bench.workers());
                 });
    }
  }
  for (const bool int8 : {false, true}) {
    for (const bool integers : {false, true}) cached_attentions(bench, int8, integers);
  }
}

// RoPE of queries and keys, and keys and values to the cache, of 24 layers.
void rope_appends(Bench& bench, bool int8, int64_t past, int64_t rows) {
  const int64_t heads = 14, kv_heads = 2, dim = 64, layers = 24, width = (heads + 2 * kv_heads) * dim;
  const std::string name = text("rope_append_%d_24_layers%s", static_cast<int>(rows), int8 ? "_int8" : "");
  if (!bench.wants(name)) return;
  PackedCpuDevice device(bench.workers().count(), bench.kernels());
  Batch batch;
  batch.segments.push_back({0, rows, past, 0});
  batch.rows = rows;
  const KvShape shape{layers, kv_heads, dim, 64, (past + rows + 63) / 64, int8 ? KvFormat::int8 : KvFormat::activation};
  for (int64_t page = 0; page < shape.pages; ++page) batch.pages.push_back(static_cast<int32_t>(page));
  const HostMemory memory(device.kv_bytes(shape), "The cache", true);
  const Kv kv{memory.data, shape};
  auto qkv = noise(rows * width, 2);
  std::vector<float> angles;
  for (int64_t i = 0; i < rows * dim; ++i) {
    const float angle = 0.37f * static_cast<float>(i / dim) / static_cast<float>(1 + i % (dim / 2));
    angles.push_back(i % dim < dim / 2 ? std::cos(angle) : std::sin(angle));
  }
  const Tensor in(qkv.data(), DType::bf16, {rows, width}), cos_sin(angles.data(), DType::f32, {rows, dim});
  const double bytes = 4.0 * rows * heads * dim + static_cast<double>(rows * kv_heads * dim) * (int8 ? 6 : 8);
  bench.time(name, "f32", 0, bytes * layers, [&] {
    device.ops().begin_batch(batch);
    for (int64_t layer = 0; layer < layers; ++layer)
      device.ops().rope_append(in, {}, {}, 0, cos_sin, kv, layer, heads, batch);
  });
}

void row_kernels(Bench& bench) {
  const int64_t rows = 1025, dim = 1024;
  const auto x = noise(rows * dim, 1);
  std::vector<uint16_t> out(x.size());
  const std::vector<float> ones(dim, 1.0f);
  const auto split = [&](const std::function<void(int64_t, int64_t)>& body) {
    run(bench.workers(), 16, [&](int64_t task) { body(rows * task / 16, rows * (task + 1) / 16); });
  };
  bench.time("vit_layer_norm", "f32", 0, 4.0 * rows * dim, [&] {
    split([&](int64_t first, int64_t last) {
      bench.kernels().layer_norm(out.data() + first * dim, x.data() + first * dim, last - first, dim, ones.data(),
                                 ones.data(), 1e-6f);
    });
  });
  bench.time("rms_norm", "f32", 0, 4.0 * rows * dim, [&] {
    split([&](int64_t first, int64_t last) {
      bench.kernels().rms_norm(out.data() + first * dim, x.data() + first * dim, last - first, dim, dim, ones.data(),
                               1e-6f);
    });
  });
  for (const bool int8 : {false, true}) {
    rope_appends(bench, int8, 0, 512);
    rope_appends(bench, int8, 3500, 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return bench_main(argc, argv, [](Bench& bench) {
    products(bench);
    decode_weights(bench);
    attentions(bench);
    row_kernels(bench);
  });
}
