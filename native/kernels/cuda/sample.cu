// Chosen tokens on the device, any number of a row, so that eight bytes come back instead of the logits.
//
//   greedy    the lowest id among the largest logits
//   else      softmax(logits / temperature), the smallest set of most likely ids that reaches top_p, and the id of it
//             where the cumulated share passes `uniform`, in order of falling likelihood, then rising id
//   logprob   logit - ln sum exp(logits), at temperature 1 over all ids below the limit
//
//   logits  [rows, vocab]   f32     NaN is never chosen
//   allowed [.., words]     u32     a bit an id; a job names its first word
//
// Tiling    A block of 512 threads makes a choice; nothing is sorted. "The first id in order of likelihood at which the
//           cumulated mass reaches a target" is found by bisecting the order of the logits' bits sixteen ways: eight
//           passes over the row, which stays in L2. Ties at the end are counted by id.
// Traffic   greedy reads the logits once or twice: 608 KB for 151 936 ids. Top-p reads them about 20 times.
// Numerics  Masses are integers, 2^40 for the best id, so that every order of adding gives the same sums.
// Checked   test/emulator/sample_test.cpp.

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/op_checks.h"
#include "kernels/cuda/warp.cuh"

namespace drivlm::cuda {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
using Mass = unsigned long long;

// A key for a float: unsigned comparison of keys orders the floats. +0 and -0 get the same key.
__device__ __forceinline__ uint32_t order_key(float value) {
  const uint32_t bits = __float_as_uint(value + 0.f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// `combine` of all threads' values, in every thread.
template <class T, class F>
__device__ __forceinline__ T block_reduce(T value, T* s_part, F combine) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, flip));
  __syncthreads();  // s_part may still be read from its last use
  if (threadIdx.x % 32 == 0) s_part[threadIdx.x / 32] = value;
  __syncthreads();
  value = s_part[0];
  for (int i = 1; i < kWarps; ++i) value = combine(value, s_part[i]);
  return value;
}

struct Row {
  const float* logits;
  const uint32_t* allowed;  // null: all
  int limit;
  float top, inverse_temperature;

  __device__ __forceinline__ bool may_choose(int id) const { return !allowed || (allowed[id / 32] >> (id % 32) & 1); }
  __device__ __forceinline__ Mass mass(float logit) const {
    const float weight = __expf((logit - top) * inverse_temperature);  // NaN falls through the comparison
    return weight > 0.f ? Mass(weight * 1099511627776.f) : 0;
  }
};

// The largest key at which the mass of all ids with this key or a larger one reaches `target`.
__device__ uint32_t find_key(const Row& row, Mass target, Mass* s_part) {
  uint32_t key = 0;
  for (int shift = 28; shift >= 0; shift -= 4) {
    Mass r_reached[15];
#pragma unroll
    for (int d = 0; d < 15; ++d) r_reached[d] = 0;
    for (int id = threadIdx.x; id < row.limit; id += kThreads) {
      const float logit = row.logits[id];
      const uint32_t own = order_key(logit);
      if (own < key || !row.may_choose(id)) continue;
      const Mass mass = row.mass(logit);
      const uint32_t steps = (own - key) >> shift;
#pragma unroll
      for (int d = 0; d < 15; ++d) r_reached[d] += steps > uint32_t(d) ? mass : 0;
    }
    uint32_t reached = 0;
#pragma unroll
    for (int d = 0; d < 15; ++d) {
      reached += block_reduce(r_reached[d], s_part, [](Mass a, Mass b) { return a + b; }) >= target;
    }
    key += reached << shift;
  }
  return key;
}

// Mass of the ids whose key is larger.
__device__ Mass mass_above(const Row& row, uint32_t key, Mass* s_part) {
  Mass mass = 0;
  for (int id = threadIdx.x; id < row.limit; id += kThreads) {
    const float logit = row.logits[id];
    if (order_key(logit) > key && row.may_choose(id)) mass += row.mass(logit);
  }
  return block_reduce(mass, s_part, [](Mass a, Mass b) { return a + b; });
}

// The n-th lowest id (from 1) that has this key.
__device__ int nth_of_key(const Row& row, uint32_t key, int n, int* s_counts, int* s_found) {
  const int share = (row.limit + kThreads - 1) / kThreads, first = min(row.limit, int(threadIdx.x) * share);
  const int last = min(row.limit, first + share);
  int count = 0;
  for (int id = first; id < last; ++id) count += order_key(row.logits[id]) == key && row.may_choose(id);
  __syncthreads();
  s_counts[threadIdx.x] = count;
  __syncthreads();
  int before = 0;
  for (int i = 0; i < int(threadIdx.x); ++i) before += s_counts[i];
  if (before < n && n <= before + count) {
    for (int id = first; id < last; ++id) {
      before += order_key(row.logits[id]) == key && row.may_choose(id);
      if (before == n) {
        *s_found = id;
        break;
      }
    }
  }
  __syncthreads();
  return *s_found;
}

// Ids that tie at `key` and are needed to bring the mass from `above` to `target`.
__device__ __forceinline__ Mass ties_needed(Mass target, Mass above, Mass each) {
  return each == 0 ? 1 : (target - above + each - 1) / each;
}

__device__ int nucleus(const Row& row, const SampleJob& job, int best, Mass* s_part, int* s_counts, int* s_found) {
  Mass kept = 0;
  for (int id = threadIdx.x; id < row.limit; id += kThreads) {
    if (row.may_choose(id)) kept += row.mass(row.logits[id]);
  }
  kept = block_reduce(kept, s_part, [](Mass a, Mass b) { return a + b; });
  if (kept == 0) return best;  // an infinite logit
  if (job.top_p < 1.f) {
    const Mass target = max(Mass(double(job.top_p) * double(kept)), Mass(1));
    const uint32_t key = find_key(row, target, s_part);
    const Mass above = mass_above(row, key, s_part), each = row.mass(key_value(key));
    kept = above + ties_needed(target, above, each) * each;
  }
  const Mass target = min(Mass(job.uniform * double(kept)) + 1, kept);
  const uint32_t key = find_key(row, target, s_part);
  const Mass above = mass_above(row, key, s_part);
  return nth_of_key(row, key, int(ties_needed(target, above, row.mass(key_value(key)))), s_counts, s_found);
}

__global__ void __launch_bounds__(kThreads, 1)
    sample_kernel(SampleResult* results, const float* logits, const SampleJob* jobs, const uint32_t* allowed,
                  int vocab) {
  SHARED_ARRAY(Mass, s_part, [kWarps]);
  SHARED_ARRAY(int, s_counts, [kThreads]);
  SHARED_ARRAY(int, s_found, [1]);
  const SampleJob job = jobs[blockIdx.x];
  Row row{logits + size_t(job.row) * vocab, job.allowed < 0 ? nullptr : allowed + job.allowed, job.limit, 0, 0};

  int id = job.forced;
  if (id < 0) {
    // The best id: keys grow with the logit, and with falling ids below them.
    Mass best = 0;
    for (int i = threadIdx.x; i < row.limit; i += kThreads) {
      const float logit = row.logits[i];
      const Mass rank = Mass(order_key(logit)) << 32 | (0xffffffffu - uint32_t(i));
      if (logit == logit && rank > best && row.may_choose(i)) best = rank;
    }
    best = block_reduce(best, s_part, [](Mass a, Mass b) { return a > b ? a : b; });
    id = best == 0 ? -1 : int(0xffffffffu - uint32_t(best));
    if (id >= 0 && job.temperature > 0.f) {
      row.top = row.logits[id], row.inverse_temperature = 1.f / job.temperature;
      id = nucleus(row, job, id, s_part, s_counts, s_found);
    }
  }
  float logprob = 0;
  if (job.want_logprob && id >= 0) {
    float top = -INFINITY, sum = 0;
    float* s_float = reinterpret_cast<float*>(s_counts);
    for (int i = threadIdx.x; i < row.limit; i += kThreads) top = fmaxf(top, row.logits[i]);  // skips NaN
    top = block_reduce(top, s_float, [](float a, float b) { return fmaxf(a, b); });
    for (int i = threadIdx.x; i < row.limit; i += kThreads) {
      const float logit = row.logits[i];
      if (logit == logit) sum += expf(logit - top);
    }
    sum = block_reduce(sum, s_float, [](float a, float b) { return a + b; });
    logprob = row.logits[id] - top - logf(sum);
  }
  if (threadIdx.x == 0) results[blockIdx.x] = {id, logprob};
}

}  // namespace

void sample(SampleResult* results, const float* logits, const SampleJob* jobs, const uint32_t* allowed, int64_t count,
            int64_t vocab, cudaStream_t stream) {
  launch(sample_kernel, dim3(unsigned(count)), kThreads, 0, stream, results, logits, jobs, allowed, int(vocab));
}

void CudaOps::sample(Sample* samples, Tensor logits, const SampleParams* params, int64_t count) {
  const int64_t vocab = logits.shape[1];
  const int64_t words = ceil_div(vocab, 32);
  if (logits.dtype != DType::f32)
    throw Error(Code::internal, text("sample: expected f32 logits, found %s", describe(logits).c_str()));
  for (; count > kMaxSamples; samples += kMaxSamples, params += kMaxSamples, count -= kMaxSamples)
    sample(samples, logits, params, kMaxSamples);
  if (count == 0) return;
  const cudaStream_t on = stream();
  std::vector<SampleJob> jobs;
  std::vector<uint32_t> allowed;
  for (int64_t i = 0; i < count; ++i) {
    const SampleParams& p = params[i];
    if (p.row < 0 || p.row >= logits.shape[0])
      throw Error(Code::internal, text("sample: there is no row %lld", static_cast<long long>(p.row)));
    const int64_t limit = p.vocab_limit > 0 ? std::min(p.vocab_limit, vocab) : vocab;
    SampleJob job{p.temperature, p.top_p, p.uniform, int32_t(p.row), int32_t(limit), p.forced, -1, p.want_logprob};
    if (p.forced >= vocab) throw Error(Code::internal, text("sample: forced id %d is not in the vocabulary", p.forced));
    if (p.forced < 0 && (p.allowed || p.banned_count > 0)) {
      job.allowed = int32_t(allowed.size());
      allowed.resize(allowed.size() + words, ~0u);
      uint32_t* mask = allowed.data() + job.allowed;
      if (p.allowed) std::copy(p.allowed, p.allowed + words, mask);
      for (int64_t b = 0; b < p.banned_count; ++b) {
        if (p.banned[b] >= 0 && p.banned[b] < vocab) mask[p.banned[b] / 32] &= ~(1u << (p.banned[b] % 32));
      }
    }
    jobs.push_back(job);
  }
  sample_lists_.clear();
  sample_lists_.add(jobs);
  sample_lists_.add(allowed);
  send(sample_lists_);
  SampleResult* results = static_cast<SampleResult*>(results_.data);
  cuda::sample(results, logits.as<float>(), sample_lists_.at<SampleJob>(0), sample_lists_.at<uint32_t>(1), count, vocab,
               on);
  check(cudaMemcpyAsync(pinned_results_, results, size_t(count) * sizeof(SampleResult), cudaMemcpyDeviceToHost, on),
        "fetching the sampled tokens");
  check(cudaStreamSynchronize(on), "sampling");
  for (int64_t i = 0; i < count; ++i) samples[i] = {pinned_results_[i].id, pinned_results_[i].logprob};
}

}  // namespace drivlm::cuda
