#include "kernels/cuda/cuda_ops.h"

#include <algorithm>

namespace drivlm::cuda {

namespace {

constexpr size_t kPartialBytes = size_t(16) << 20;
constexpr int64_t kMaxSampleRows = 256;

const CudaMatrix& ours(const Matrix& matrix) { return static_cast<const CudaMatrix&>(matrix); }

void expect_bf16(const char* op, const char* name, const Tensor& tensor) {
  if (tensor.dtype != DType::bf16) {
    throw Error(Code::internal, text("%s: %s: expected bf16, found %s", op, name, describe(tensor).c_str()));
  }
}
const float* parameters(const char* op, const char* name, const Tensor& tensor, int64_t size) {
  if (!tensor) return nullptr;
  if (tensor.dtype != DType::f32 || tensor.count() != size) {
    throw Error(Code::internal, text("%s: %s: expected f32 [%lld], found %s", op, name, static_cast<long long>(size),
                                     describe(tensor).c_str()));
  }
  return tensor.as<float>();
}

// Keys of one layer; the values follow them. All layers are [pages, kv_heads, 64, head_dim] twice.
int64_t layer_values(const KvShape& s) { return s.pages * s.kv_heads * kPageTokens * s.head_dim; }
bf16* layer_keys(const Kv& kv, int64_t layer) { return static_cast<bf16*>(kv.data) + 2 * layer * layer_values(kv.shape); }
bf16* layer_values_of(const Kv& kv, int64_t layer) { return layer_keys(kv, layer) + layer_values(kv.shape); }

void expect_kv(const char* op, const Kv& kv, int64_t layer) {
  if (!kv.data || kv.shape.page_tokens != kPageTokens || layer < 0 || layer >= kv.shape.layers) {
    throw Error(Code::internal, text("%s: expected pages of %d tokens and a layer below %lld, found %lld and %lld", op, kPageTokens,
                                     static_cast<long long>(kv.shape.layers), static_cast<long long>(kv.shape.page_tokens),
                                     static_cast<long long>(layer)));
  }
}

}  // namespace

CudaOps::CudaOps(Device& device, const Context& context)
    : Ops(device),
      context_(context),
      graphs_(context.stream),
      partial_(kPartialBytes, "Attention's partial results"),
      results_(kMaxSampleRows * sizeof(SampleResult), "Sampled tokens") {
  check(cudaMallocHost(reinterpret_cast<void**>(&pinned_results_), kMaxSampleRows * sizeof(SampleResult)),
        "reserving pinned memory");
}

CudaOps::~CudaOps() { cudaFreeHost(pinned_results_); }

size_t CudaOps::own_bytes() const {
  return partial_.bytes + results_.bytes + batch_lists_.bytes() + plan_lists_.bytes() + id_lists_.bytes() + sample_lists_.bytes();
}

void CudaOps::reserve(const PassLimits& limits) {
  stream();
  const size_t rows = size_t(limits.rows), sequences = size_t(limits.sequences);
  const size_t pages = sequences * size_t(ceil_div(limits.context, kPageTokens));
  const auto list = [](size_t count, size_t bytes) { return StagedLists::room_for(count * bytes); };
  batch_lists_.reserve(list(rows, sizeof(int32_t)) + list(pages, sizeof(int32_t)));
  plan_lists_.reserve(plan_bytes(rows, sequences, context_.limits.multiprocessors));
  id_lists_.reserve(list(rows, sizeof(int32_t)));
  sample_lists_.reserve(list(sequences, sizeof(SampleJob)) + list(sequences * size_t(ceil_div(limits.vocab, 32)), sizeof(uint32_t)));
  graphs_.drop();  // they hold addresses of lists
}

// Recordings hold addresses of lists; they go when a list moves.
void CudaOps::send(StagedLists& lists) {
  if (lists.send(*context_.staging)) graphs_.drop();
}

cudaStream_t CudaOps::stream() {
  check(cudaSetDevice(context_.index), "choosing the GPU");
  return context_.stream;
}

// ---- vision ----

void CudaOps::patchify(Tensor patches, Tensor tiles, int64_t patch, const std::array<float, 3>& mean,
                       const std::array<float, 3>& std) {
  const int64_t count = tiles.shape[0], size = tiles.shape[1];
  expect_shape("patchify", "tiles", tiles, {count, size, size, 3});
  expect_shape("patchify", "patches", patches, {count * (size / patch) * (size / patch), 3 * patch * patch});
  expect_bf16("patchify", "patches", patches);
  cuda::patchify(patches.as<bf16>(), tiles.as<uint8_t>(), count, size, patch, mean, std, stream());
}

void CudaOps::assemble_tiles(Tensor x, Tensor patches, Tensor class_embedding, Tensor positions) {
  const int64_t tiles = x.shape[0], rows = x.shape[1], dim = x.shape[2];
  expect_shape("assemble_tiles", "x", x, {tiles, rows, dim});
  expect_shape("assemble_tiles", "patches", patches, {tiles * (rows - 1), dim});
  expect_bf16("assemble_tiles", "x", x);
  cuda::assemble_tiles(x.as<bf16>(), patches.as<bf16>(), parameters("assemble_tiles", "class", class_embedding, dim),
                       parameters("assemble_tiles", "positions", positions, rows * dim), tiles, rows - 1, dim, stream());
}

void CudaOps::attention(Tensor out, Tensor qkv, int64_t heads, int64_t head_dim, int64_t positions) {
  const int64_t rows = qkv.shape[0];
  expect_shape("attention", "qkv", qkv, {rows, 3 * heads * head_dim});
  expect_shape("attention", "out", out, {rows, heads * head_dim});
  expect_bf16("attention", "qkv", qkv);
  if (rows % positions != 0) throw Error(Code::internal, "attention: rows are not whole groups");
  attention_full({qkv.as<bf16>(), out.as<bf16>(), int(rows / positions), int(positions), int(heads), int(head_dim)}, stream());
}

void CudaOps::pixel_shuffle(Tensor out, Tensor x, int64_t grid, int version) {
  const int64_t tiles = x.shape[0], dim = x.shape[2];
  expect_shape("pixel_shuffle", "x", x, {tiles, 1 + grid * grid, dim});
  expect_shape("pixel_shuffle", "out", out, {tiles * grid * grid / 4, 4 * dim});
  cuda::pixel_shuffle(out.as<bf16>(), x.as<bf16>(), tiles, grid, dim, version, stream());
}

void CudaOps::pixel_shuffle_norm(Tensor out, Tensor x, int64_t grid, int version, const Norm& norm) {
  const int64_t tiles = x.shape[0], dim = 4 * x.shape[2], rows = tiles * grid * grid / 4;
  // A vector of eight values must not straddle two patches.
  if (!norm.layer || x.shape[2] % 8 != 0) return Ops::pixel_shuffle_norm(out, x, grid, version, norm);
  expect_shape("pixel_shuffle_norm", "x", x, {tiles, 1 + grid * grid, dim / 4});
  expect_shape("pixel_shuffle_norm", "out", out, {rows, dim});
  expect_bf16("pixel_shuffle_norm", "x", x);
  NormJob job{};
  job.x = x.as<bf16>(), job.out = out.as<bf16>();
  job.weight = parameters("pixel_shuffle_norm", "weight", norm.weight, dim);
  job.bias = parameters("pixel_shuffle_norm", "bias", norm.bias, dim);
  job.rows = rows, job.dim = dim, job.x_stride = dim, job.out_stride = dim;
  job.eps = norm.eps, job.layer = true, job.grid = grid, job.version = version;
  if (rows > 0) cuda::norm(job, stream());
}

// ---- both ----

void CudaOps::run_linear(const Linear& job) {
  if (job.rows == 0) return;
  if (job.rows <= kMatvecRows && job.k % 8 == 0) return matvec(job, stream());
  cuda::linear(job, choose_linear_tile(job.rows, job.n, context_.limits), stream());
}

void CudaOps::linear(Tensor out, Tensor x, const Matrix& w, Tensor bias, Act act) {
  const int64_t rows = x.shape[0];
  expect_shape("linear", "x", x, {rows, w.cols});
  expect_shape("linear", "out", out, {rows, w.rows});
  expect_bf16("linear", "x", x);
  Linear job{x.as<bf16>(), ours(w).data, rows, w.rows, w.cols, ours(w).stride};
  job.bias = parameters("linear", "bias", bias, w.rows);
  job.out = out.data;
  job.out_f32 = out.dtype == DType::f32;
  job.gelu = act == Act::gelu;
  if (job.out_f32 && job.gelu) throw Error(Code::internal, "linear: no kernel for gelu with f32 out");
  if (ours(w).gated) throw Error(Code::internal, "linear: a gated matrix is for linear_gated");
  run_linear(job);
}

void CudaOps::linear_add(Tensor x, Tensor in, const Matrix& w, Tensor bias, Tensor scale, Tensor) {
  const int64_t rows = in.shape[0];
  expect_shape("linear_add", "in", in, {rows, w.cols});
  expect_shape("linear_add", "x", x, {rows, w.rows});
  expect_bf16("linear_add", "in", in);
  expect_bf16("linear_add", "x", x);
  Linear job{in.as<bf16>(), ours(w).data, rows, w.rows, w.cols, ours(w).stride};
  job.bias = parameters("linear_add", "bias", bias, w.rows);
  job.scale = parameters("linear_add", "scale", scale, w.rows);
  job.out = x.data;
  job.add = true;
  run_linear(job);
}

void CudaOps::linear_gated(Tensor out, Tensor x, const Matrix& gate_up) {
  const int64_t rows = x.shape[0];
  expect_shape("linear_gated", "x", x, {rows, gate_up.cols});
  expect_shape("linear_gated", "out", out, {rows, gate_up.rows / 2});
  expect_bf16("linear_gated", "x", x);
  expect_bf16("linear_gated", "out", out);
  if (!ours(gate_up).gated) throw Error(Code::internal, "linear_gated: the matrix is not from load_gated");
  Linear job{x.as<bf16>(), ours(gate_up).data, rows, gate_up.rows, gate_up.cols, ours(gate_up).stride};
  job.out = out.data;
  job.gated = true;
  run_linear(job);
}

void CudaOps::scale_add(Tensor x, Tensor y, Tensor scale) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("scale_add", "y", y, {rows, dim});
  expect_bf16("scale_add", "x", x);
  cuda::scale_add(x.as<bf16>(), y.as<bf16>(), parameters("scale_add", "scale", scale, dim), rows, dim, stream());
}

void CudaOps::norm(Tensor out, Tensor x, const Norm& norm) {
  const int64_t rows = x.shape[0], dim = x.shape[1];
  expect_shape("norm", "out", out, {rows, dim});
  expect_bf16("norm", "x", x);
  if (rows == 0) return;
  NormJob job{};
  job.x = x.as<bf16>(), job.out = out.as<bf16>();
  job.weight = parameters("norm", "weight", norm.weight, dim);
  job.bias = parameters("norm", "bias", norm.bias, dim);
  job.rows = rows, job.dim = dim, job.x_stride = dim, job.out_stride = dim;
  job.eps = norm.eps, job.layer = norm.layer;
  if (!job.weight || norm.layer != (job.bias != nullptr)) {
    throw Error(Code::internal, "norm: LayerNorm needs weight and bias, RMS norm a weight only");
  }
  cuda::norm(job, stream());
}

void CudaOps::norm_columns(Tensor x, int64_t first, int64_t width, Tensor weight, float eps) {
  const int64_t rows = x.shape[0], stride = x.shape[1];
  expect_bf16("norm_columns", "x", x);
  if (first < 0 || width < 1 || first + width > stride || first % 8 != 0 || stride % 8 != 0) {
    throw Error(Code::internal, "norm_columns: expected columns inside the rows, on a multiple of 8");
  }
  NormJob job{};
  job.x = x.as<bf16>() + first, job.out = x.as<bf16>() + first;
  job.weight = parameters("norm_columns", "weight", weight, width);
  job.rows = rows, job.dim = width, job.x_stride = stride, job.out_stride = stride;
  job.eps = eps, job.layer = false;
  if (rows > 0) cuda::norm(job, stream());
}

void CudaOps::copy_rows(Tensor to, Tensor from) {
  if (to.dtype != from.dtype || to.count() != from.count()) throw Error(Code::internal, "copy_rows: shapes differ");
  if (to.count() == 0) return;
  check(cudaMemcpyAsync(to.data, from.data, size_t(to.bytes()), cudaMemcpyDeviceToDevice, stream()), "copying rows");
}

// ---- language ----

void CudaOps::gather(Tensor out, const int32_t* ids, int64_t count, const Matrix& table) {
  expect_shape("gather", "out", out, {count, table.cols});
  expect_bf16("gather", "out", out);
  if (count == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= table.rows) {
      throw Error(Code::internal, text("gather: id %d is not in a table of %lld rows", ids[i], static_cast<long long>(table.rows)));
    }
  }
  const cudaStream_t on = stream();
  id_lists_.clear();
  id_lists_.add(ids, size_t(count));
  send(id_lists_);
  cuda::gather(out.as<bf16>(), id_lists_.at<int32_t>(0), count, ours(table).data, ours(table).stride, table.cols, on);
}

void CudaOps::begin_batch(const Batch& batch) {
  stream();
  abandon_recording();
  plan_.reset();
  std::vector<int32_t> slots(batch.rows);
  for (const Segment& segment : batch.segments) {
    for (int64_t i = 0; i < segment.rows; ++i) {
      const int64_t position = segment.past + i;
      slots[segment.row + i] =
          batch.pages[segment.first_page + position / kPageTokens] * kPageTokens + int32_t(position % kPageTokens);
    }
  }
  batch_lists_.clear();
  batch_lists_.add(slots);
  batch_lists_.add(batch.pages);
  send(batch_lists_);
}

bool CudaOps::replay_step(Kv kv, int64_t heads, const Batch& batch) {
  stream();
  const AttentionPlan& p = plan(batch, heads, kv.shape.kv_heads, kv.shape.head_dim, /*padded=*/true);
  return graphs_.replay({size_t(batch.rows), p.wide.size(), p.narrow.size(), p.split_tokens.size()});
}

void CudaOps::end_step() { graphs_.end(); }

void CudaOps::rope_append(Tensor qkv, Tensor q_norm, Tensor k_norm, float eps, Tensor cos_sin, Kv kv, int64_t layer,
                          int64_t heads, const Batch& batch) {
  const int64_t kv_heads = kv.shape.kv_heads, head_dim = kv.shape.head_dim;
  expect_shape("rope_append", "qkv", qkv, {batch.rows, (heads + 2 * kv_heads) * head_dim});
  expect_shape("rope_append", "cos_sin", cos_sin, {batch.rows, head_dim});
  expect_bf16("rope_append", "qkv", qkv);
  expect_kv("rope_append", kv, layer);
  RopeAppend job{};
  job.qkv = qkv.as<bf16>();
  job.cos_sin = cos_sin.as<float>();
  job.q_norm = parameters("rope_append", "q_norm", q_norm, head_dim);
  job.k_norm = parameters("rope_append", "k_norm", k_norm, head_dim);
  job.eps = eps;
  job.slots = batch_lists_.at<int32_t>(0);
  job.keys = layer_keys(kv, layer), job.values = layer_values_of(kv, layer);
  job.rows = batch.rows;
  job.heads = int(heads), job.kv_heads = int(kv_heads), job.head_dim = int(head_dim);
  cuda::rope_append(job, stream());
}

// The plan is the same for all layers of a pass; the first one makes it.
const AttentionPlan& CudaOps::plan(const Batch& batch, int64_t heads, int64_t kv_heads, int64_t head_dim, bool padded) {
  if (plan_) return *plan_;
  const int64_t slot_bytes = heads * (head_dim + 2) * int64_t(sizeof(float));
  plan_ = plan_attention(batch, heads, kv_heads, context_.limits.multiprocessors, int64_t(kPartialBytes) / slot_bytes);
  if (padded) pad(*plan_);
  plan_lists_.clear();
  plan_lists_.add(plan_->wide);
  plan_lists_.add(plan_->narrow);
  plan_lists_.add(plan_->tokens);
  plan_lists_.add(plan_->split_tokens);
  send(plan_lists_);
  return *plan_;
}

void CudaOps::attention_cached(Tensor out, Tensor qkv, Kv kv, int64_t layer, int64_t heads, const Batch& batch) {
  const int64_t kv_heads = kv.shape.kv_heads, head_dim = kv.shape.head_dim;
  expect_shape("attention_cached", "qkv", qkv, {batch.rows, (heads + 2 * kv_heads) * head_dim});
  expect_shape("attention_cached", "out", out, {batch.rows, heads * head_dim});
  expect_bf16("attention_cached", "out", out);
  expect_kv("attention_cached", kv, layer);
  const cudaStream_t on = stream();
  const AttentionPlan& p = plan(batch, heads, kv_heads, head_dim);
  CachedAttention job{};
  job.qkv = qkv.as<bf16>(), job.out = out.as<bf16>();
  job.keys = layer_keys(kv, layer), job.values = layer_values_of(kv, layer);
  job.pages = batch_lists_.at<int32_t>(1);
  job.wide = plan_lists_.at<AttentionItem>(0), job.wide_items = int(p.wide.size());
  job.narrow = plan_lists_.at<AttentionItem>(1), job.narrow_items = int(p.narrow.size());
  job.tokens = plan_lists_.at<AttentionToken>(2);
  job.split_tokens = plan_lists_.at<int32_t>(3), job.split_token_count = int(p.split_tokens.size());
  job.partial = static_cast<float*>(partial_.data);
  job.heads = int(heads), job.kv_heads = int(kv_heads), job.head_dim = int(head_dim);
  cuda::attention_cached(job, on);
}

void CudaOps::copy_page(Kv kv, int32_t from, int32_t to) {
  const size_t page = size_t(kv.shape.kv_heads * kPageTokens * kv.shape.head_dim) * sizeof(bf16);
  const size_t pitch = size_t(kv.shape.pages) * page;
  char* base = static_cast<char*>(kv.data);
  check(cudaMemcpy2DAsync(base + to * page, pitch, base + from * page, pitch, page, size_t(2 * kv.shape.layers),
                          cudaMemcpyDeviceToDevice, stream()),
        "copying a page");
}

void CudaOps::read_kv(float* keys, float* values, Kv kv, int64_t layer, const int32_t* pages, int64_t tokens) {
  if (tokens == 0) return;
  const cudaStream_t on = stream();
  const size_t bytes = size_t(kv.shape.kv_heads * tokens * kv.shape.head_dim) * sizeof(float);
  DeviceMemory both(2 * bytes, "Cached keys and values for a test");
  float* device_keys = static_cast<float*>(both.data);
  float* device_values = device_keys + bytes / sizeof(float);
  id_lists_.clear();
  id_lists_.add(pages, size_t(ceil_div(tokens, kPageTokens)));
  send(id_lists_);
  read_cached(device_keys, device_values, layer_keys(kv, layer), layer_values_of(kv, layer), id_lists_.at<int32_t>(0), tokens,
              int(kv.shape.kv_heads), int(kv.shape.head_dim), on);
  const int64_t count = kv.shape.kv_heads * tokens * kv.shape.head_dim;
  device_.download(keys, Tensor(device_keys, DType::f32, {count}));
  device_.download(values, Tensor(device_values, DType::f32, {count}));
}

void CudaOps::sample(Sample* samples, Tensor logits, const SampleParams* params) {
  const int64_t rows = logits.shape[0], vocab = logits.shape[1];
  const int64_t words = ceil_div(vocab, 32);
  if (logits.dtype != DType::f32 || rows > kMaxSampleRows) {
    throw Error(Code::internal, text("sample: expected f32 logits of up to %lld rows, found %s", static_cast<long long>(kMaxSampleRows),
                                     describe(logits).c_str()));
  }
  if (rows == 0) return;
  const cudaStream_t on = stream();
  std::vector<SampleJob> jobs;
  std::vector<uint32_t> allowed;
  for (int64_t row = 0; row < rows; ++row) {
    const SampleParams& p = params[row];
    const int64_t limit = p.vocab_limit > 0 ? std::min(p.vocab_limit, vocab) : vocab;
    SampleJob job{p.temperature, p.top_p, p.uniform, int32_t(limit), p.forced, -1, p.want_logprob};
    if (p.forced >= vocab) throw Error(Code::internal, text("sample: forced id %d is not in the vocabulary", p.forced));
    if (p.forced < 0 && (p.allowed || p.banned_count > 0)) {
      job.allowed = int32_t(allowed.size());
      allowed.resize(allowed.size() + words, ~0u);
      uint32_t* mask = allowed.data() + job.allowed;
      if (p.allowed) std::copy(p.allowed, p.allowed + words, mask);
      for (int64_t i = 0; i < p.banned_count; ++i) {
        if (p.banned[i] >= 0 && p.banned[i] < vocab) mask[p.banned[i] / 32] &= ~(1u << (p.banned[i] % 32));
      }
    }
    jobs.push_back(job);
  }
  sample_lists_.clear();
  sample_lists_.add(jobs);
  sample_lists_.add(allowed);
  send(sample_lists_);
  SampleResult* results = static_cast<SampleResult*>(results_.data);
  cuda::sample(results, logits.as<float>(), sample_lists_.at<SampleJob>(0), sample_lists_.at<uint32_t>(1), rows, vocab, on);
  check(cudaMemcpyAsync(pinned_results_, results, size_t(rows) * sizeof(SampleResult), cudaMemcpyDeviceToHost, on),
        "fetching the sampled tokens");
  check(cudaStreamSynchronize(on), "sampling");
  for (int64_t row = 0; row < rows; ++row) {
    samples[row] = {pinned_results_[row].id, pinned_results_[row].logprob};
  }
}

}  // namespace drivlm::cuda
