#include "kernels/cuda/cuda_ops.h"

namespace drivlm::cuda {

namespace {
constexpr const char* kExpanded = "4-bit weights as bytes";

[[noreturn]] void no_kernels(const std::string& what, int64_t found) {
  throw Error(Code::bad_argument, text("The CUDA backend has %s; this model has %lld. Load it with device 'cpu'.",
                                       what.c_str(), static_cast<long long>(found)));
}

void check_shapes(const PassLimits& limits) {
  for (const int64_t width : limits.row_widths)
    if (width % 8 != 0) no_kernels("products for rows of a multiple of 8 values", width);
  if (limits.norm_width > kMostNormed)
    no_kernels(text("norms for rows of up to %d values", int(kMostNormed)), limits.norm_width);
  if (limits.tower_head_dim != 0 && !has_attention(limits.tower_head_dim))
    no_kernels("attention for heads of 16, 32, 64, 96 and 128 values in the vision tower", limits.tower_head_dim);
}
}  // namespace

CudaOps::CudaOps(Device& device, const Context& context)
    : Ops(device),
      context_(context),
      graphs_(context.stream),
      partial_(kPartialBytes, "Attention's partial results"),
      results_(kMaxSamples * sizeof(SampleResult), "Sampled tokens") {
  check(cudaMallocHost(reinterpret_cast<void**>(&pinned_results_), kMaxSamples * sizeof(SampleResult)),
        "reserving pinned memory");
}

CudaOps::~CudaOps() { cudaFreeHost(pinned_results_); }

size_t CudaOps::own_bytes() const {
  return partial_.bytes + results_.bytes + batch_lists_.bytes() + plan_lists_.bytes() + id_lists_.bytes() +
         sample_lists_.bytes() + (rounded_ ? rounded_->bytes : 0) + (expanded_ ? expanded_->bytes : 0);
}

void CudaOps::reserve(const PassLimits& limits) {
  check_shapes(limits);
  stream();
  const size_t rows = size_t(limits.rows), sequences = size_t(limits.sequences);
  const size_t pages = sequences * size_t(ceil_div(limits.context, kPageTokens));
  const auto list = [](size_t count, size_t bytes) { return StagedLists::room_for(count * bytes); };
  batch_lists_.reserve(2 * list(rows, sizeof(int32_t)) + list(pages, sizeof(int32_t)));
  plan_lists_.reserve(plan_bytes(rows, sequences, context_.limits.multiprocessors));
  id_lists_.reserve(list(rows, sizeof(int32_t)));
  sample_lists_.reserve(list(sequences, sizeof(SampleJob)) +
                        list(sequences * size_t(ceil_div(limits.vocab, 32)), sizeof(uint32_t)));
  if (context_.int8_activations) {
    // Rows are filled up to 16 bytes, or to 128 where 4-bit weights have them so, and each has a scale.
    const int64_t filled = context_.int4_weights ? 128 : 16;
    rounded_room(limits.input_values + limits.input_rows * int64_t(filled + sizeof(InputScale)) + 16);
    if (context_.int4_weights && limits.matrix_rows > 0)
      grown(expanded_, limits.matrix_values + limits.matrix_rows * int64_t(sizeof(RowScale)), kExpanded);
  }
  graphs_.drop();  // they hold addresses of lists
}

// Grows where nothing was reserved, as in a test of an op.
void* CudaOps::grown(std::optional<DeviceMemory>& memory, int64_t bytes, const char* what) {
  if (!memory || memory->bytes < size_t(bytes)) {
    memory.reset();
    memory.emplace(size_t(bytes), what);
    graphs_.drop();
  }
  return memory->data;
}

void* CudaOps::rounded_room(int64_t bytes) { return grown(rounded_, bytes, "Activations in 8 bits"); }

Weights CudaOps::as_bytes(const Weights& w, int64_t n) {
  if (w.encoding != Encoding::s4) return w;
  uint8_t* bytes = static_cast<uint8_t*>(grown(expanded_, n * (w.stride + int64_t(sizeof(RowScale))), kExpanded));
  RowScale* scales = reinterpret_cast<RowScale*>(bytes + n * w.stride);
  bytes_of_s4(bytes, scales, w, n, stream());
  return {bytes, w.stride, Encoding::s8, scales};
}

// Recordings hold addresses of lists; they go when a list moves.
void CudaOps::send(StagedLists& lists) {
  if (lists.send(*context_.staging)) graphs_.drop();
}

cudaStream_t CudaOps::stream() {
  check(cudaSetDevice(context_.index), "choosing the GPU");
  return context_.stream;
}

void CudaOps::copy_rows(Tensor to, Tensor from) {
  if (to.dtype != from.dtype || to.count() != from.count()) throw Error(Code::internal, "copy_rows: shapes differ");
  if (to.count() == 0) return;
  check(cudaMemcpyAsync(to.data, from.data, size_t(to.bytes()), cudaMemcpyDeviceToDevice, stream()), "copying rows");
}

void CudaOps::begin_batch(const Batch& batch) {
  stream();
  abandon_recording();
  plan_.reset();
  std::vector<int32_t> slots(batch.rows), angles(batch.rows);
  for (const Segment& segment : batch.segments) {
    for (int64_t i = 0; i < segment.rows; ++i) {
      const int64_t position = segment.past + i;
      slots[segment.row + i] =
          batch.pages[segment.first_page + position / kPageTokens] * kPageTokens + int32_t(position % kPageTokens);
      angles[segment.row + i] = int32_t(segment.first_angle + i);
    }
  }
  batch_lists_.clear();
  batch_lists_.add(slots);
  batch_lists_.add(angles);
  batch_lists_.add(batch.pages);
  send(batch_lists_);
}

bool CudaOps::replay_step(Kv kv, int64_t heads, const Batch& batch) {
  stream();
  const AttentionPlan& p = plan(batch, heads, kv.shape.kv_heads, kv.shape.head_dim, /*padded=*/true);
  return graphs_.replay({size_t(batch.rows), p.wide.size(), p.narrow.size(), p.split_tokens.size()});
}

void CudaOps::end_step() { graphs_.end(); }

}  // namespace drivlm::cuda
