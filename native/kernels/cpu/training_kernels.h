// What training does to every value of a layer, in f32: activations with what they were given, their gradients, softmax both ways, the update.
//
//   gelu      out = u Phi(u)              du = dy (Phi(u) + u phi(u))
//   gated     out = silu(g) up            dg = dy up sigma(g) (1 + g (1 - sigma(g)))     dup = dy silu(g)
//   softmax   w = exp(scale (s - max s)) / sum           ds = scale w (dw - sum(w dw)), with w made on the way
//   adamw     m = b1 m + (1 - b1) g    v = b2 v + (1 - b2) g^2    p = keep p - rate m / (sqrt(v) root + eps)
//
// Powers are exact to 2e-7 (simd.h). Sums run over kWidth lanes, so that targets differ in the last places and threads do not.
// Checked   test/native/cpu_gradients_test.cpp
#pragma once

#include <cstdint>

namespace drivlm::cpu {

struct AdamStep {
  float beta1, rest1, beta2, rest2;  // rest = 1 - beta
  float clip;                        // gradients are multiplied with it first
  float rate, root, eps, keep;
};

// A target's part of its table. out may be an input of the same index.
struct TrainingKernels {
  void (*gelu)(float* out, const float* u, int64_t count);
  void (*gelu_gradient)(float* du, const float* dy, const float* u, int64_t count);
  void (*gated)(float* out, const float* gate, const float* up, int64_t count);
  void (*gated_gradient)(float* d_gate, float* d_up, const float* dy, const float* gate, const float* up,
                         int64_t count);
  void (*softmax)(float* scores, int64_t count, float scale);
  void (*softmax_gradient)(float* scores, float* slopes, int64_t count, float scale);  // to weights, and dw to ds
  void (*adamw)(float* p, float* m, float* v, const float* g, int64_t count, const AdamStep& step);
};

}  // namespace drivlm::cpu

#if defined(DRIVLM_CPU_TARGET)
#include "kernels/cpu/simd.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

// body(i, left) for vectors of [0, count); left: values from i on.
template <class Body>
DRIVLM_INLINE void over_vectors(int64_t count, const Body& body) {
  for (int64_t i = 0; i < count; i += kWidth) body(i, count - i);
}

void gelu_values(float* out, const float* u, int64_t count) {
  over_vectors(count, [&](int64_t i, int64_t left) { store_first(out + i, gelu(load_first(u + i, left)), left); });
}

void gelu_gradient(float* du, const float* dy, const float* u, int64_t count) {
  over_vectors(count, [&](int64_t i, int64_t left) {
    const F v = load_first(u + i, left);
    const F s = min(absolute(v), splat(13.2f));
    const F density = exp2(s * s * -0.72134752f) * 0.39894228f;
    store_first(du + i, load_first(dy + i, left) * (normal_share(v) + v * density), left);
  });
}

void gated_values(float* out, const float* gate, const float* up, int64_t count) {
  over_vectors(count, [&](int64_t i, int64_t left) {
    store_first(out + i, silu(load_first(gate + i, left)) * load_first(up + i, left), left);
  });
}

void gated_gradient(float* d_gate, float* d_up, const float* dy, const float* gate, const float* up, int64_t count) {
  over_vectors(count, [&](int64_t i, int64_t left) {
    const F g = load_first(gate + i, left), w = load_first(up + i, left), d = load_first(dy + i, left);
    const F sigma = reciprocal(1.0f + exp(-g));
    store_first(d_gate + i, d * w * sigma * (1.0f + g * (1.0f - sigma)), left);
    store_first(d_up + i, d * g * sigma, left);
  });
}

DRIVLM_INLINE float top_of(const float* scores, int64_t count) {
  F tops = splat(-__builtin_inff());
  over_vectors(count, [&](int64_t i, int64_t left) {
    tops = max(tops, first_lanes(load_first(scores + i, left), left, -__builtin_inff()));
  });
  return max_of(tops);
}

void softmax(float* scores, int64_t count, float scale) {
  const float top = top_of(scores, count), by = scale * 1.44269504f;
  F totals = F{};
  over_vectors(count, [&](int64_t i, int64_t left) {
    const F weight = exp2((load_first(scores + i, left) - top) * by);
    store_first(scores + i, weight, left);
    totals += first_lanes(weight, left, 0.0f);
  });
  const F share = splat(1.0f / sum_of(totals));
  over_vectors(count,
               [&](int64_t i, int64_t left) { store_first(scores + i, load_first(scores + i, left) * share, left); });
}

// One pass less than softmax and its gradient one after the other: the mean of the slopes is summed up with the weights.
void softmax_gradient(float* scores, float* slopes, int64_t count, float scale) {
  const float top = top_of(scores, count), by = scale * 1.44269504f;
  F totals = F{}, sums = F{};
  over_vectors(count, [&](int64_t i, int64_t left) {
    const F weight = first_lanes(exp2((load_first(scores + i, left) - top) * by), left, 0.0f);
    store_first(scores + i, weight, left);
    totals += weight;
    sums += weight * load_first(slopes + i, left);
  });
  const float total = sum_of(totals);
  const F share = splat(1.0f / total), mean = splat(sum_of(sums) / total), factor = splat(scale);
  over_vectors(count, [&](int64_t i, int64_t left) {
    const F weight = load_first(scores + i, left) * share;
    store_first(scores + i, weight, left);
    store_first(slopes + i, weight * (load_first(slopes + i, left) - mean) * factor, left);
  });
}

DRIVLM_INLINE F root_of(F v) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(v);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#else
  F out;
  for (int i = 0; i < kWidth; ++i) out[i] = __builtin_sqrtf(v[i]);
  return out;
#endif
}

void adamw(float* p, float* m, float* v, const float* g, int64_t count, const cpu::AdamStep& step) {
  over_vectors(count, [&](int64_t i, int64_t left) {
    const F d = load_first(g + i, left) * step.clip;
    const F first = load_first(m + i, left) * step.beta1 + d * step.rest1;
    const F second = load_first(v + i, left) * step.beta2 + d * d * step.rest2;
    store_first(m + i, first, left);
    store_first(v + i, second, left);
    store_first(p + i,
                load_first(p + i, left) * step.keep - step.rate * first / (root_of(second) * step.root + step.eps),
                left);
  });
}

constexpr cpu::TrainingKernels kTraining = {.gelu = gelu_values,
                                            .gelu_gradient = gelu_gradient,
                                            .gated = gated_values,
                                            .gated_gradient = gated_gradient,
                                            .softmax = softmax,
                                            .softmax_gradient = softmax_gradient,
                                            .adamw = adamw};

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
#endif
