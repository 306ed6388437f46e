// The two products of attention on AMX, for heads of whole steps (32 dimensions): up to 16 queries, whose rows the tiles are configured for.
//
// A panel of keys, head_dim / 32 steps, gives the scores of 32 tokens; a step of values, 32 tokens, adds to the sums of 32 dimensions. Chunks
// begin at steps, so where pages end changes no sum.
#pragma once

#include "kernels/cpu/amx.h"

namespace drivlm::DRIVLM_CPU_TARGET {
namespace {

// Tiles 0 and 1 grow by a step: x rows `stride` bytes apart, w 2 KiB. As much is fetched early, from `next` on.
DRIVLM_INLINE void add_step(const char* x, int64_t stride, const char* w, const char* next) {
  for (int64_t i = 0; i < kStepBytes; i += 64) __builtin_prefetch(next + i);
  load_tile<4>(x, stride);
  load_tile<6>(w, 128);
  AmxPairs::multiply<0, 4, 6>();
  load_tile<7>(w + 64, 128);
  AmxPairs::multiply<1, 4, 7>();
}

// As score_tile. x: rows of q in bf16, units * 4 bytes apart.
void amx_score_tile(float* __restrict__ c, const char* __restrict__ w, int64_t panels, const float* __restrict__ x,
                    int64_t units, int64_t ahead) {
  for (int64_t p = 0; p < panels; ++p, c += 32) {
    clear_tile<0>();
    clear_tile<1>();
    const char* q = reinterpret_cast<const char*>(x);
    for (int64_t u = 0; u < units; u += kStepUnits, q += 64, w += kStepBytes) add_step(q, units * 4, w, w + ahead);
    store_tile<0>(c, kScoreStride * 4);
    store_tile<1>(c + 16, kScoreStride * 4);
  }
}

// As piece_tile. x: rows of weights in bf16, kScoreStride words apart, zeros up to a whole step.
void amx_piece_tile(float* __restrict__ c, int64_t c_stride, const Piece* pieces, int64_t count, int64_t offset,
                    const float* __restrict__ x, const char* next) {
  clear_tile<0>();
  clear_tile<1>();
  const char* from = reinterpret_cast<const char*>(x);
  for (int64_t i = 0; i < count; ++i) {
    const char* w = pieces[i].w + offset;
    const char* fetch = i + 1 < count ? pieces[i + 1].w + offset : next;
    int64_t units = pieces[i].units;
    for (; units >= kStepUnits; units -= kStepUnits, from += 64, w += kStepBytes, fetch += kStepBytes) {
      add_step(from, kScoreStride * 4, w, fetch);
    }
    if (units == 0) continue;
    // What was never written must not be read as a NaN.
    alignas(64) char last[kStepBytes] = {};
    memcpy(last, w, static_cast<size_t>(units) * 128);
    add_step(from, kScoreStride * 4, last, fetch);
  }
  store_tile<0>(c, c_stride * 4);
  store_tile<1>(c + 16, c_stride * 4);
}

}  // namespace
}  // namespace drivlm::DRIVLM_CPU_TARGET
