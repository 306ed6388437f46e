#include "kernels/cuda/cuda_ops.h"

namespace drivlm::cuda {

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
         sample_lists_.bytes() + (rounded_ ? rounded_->bytes : 0);
}

void CudaOps::reserve(const PassLimits& limits) {
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
    // Rows are filled up to 16 bytes, and each has a scale.
    rounded_room(limits.input_values + limits.input_rows * int64_t(16 + sizeof(InputScale)) + 16);
  }
  graphs_.drop();  // they hold addresses of lists
}

// Grows where nothing was reserved, as in a test of an op.
void* CudaOps::rounded_room(int64_t bytes) {
  if (!rounded_ || rounded_->bytes < size_t(bytes)) {
    rounded_.reset();
    rounded_.emplace(size_t(bytes), "Activations in 8 bits");
    graphs_.drop();
  }
  return rounded_->data;
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
