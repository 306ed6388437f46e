// Launchers of wrappers_test.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace drivlm::cuda::testing {

// One warp. a [32][4], b [32][2], c and d [32][4]: what each lane's registers hold.
void run_mma(const uint32_t* a, const uint32_t* b, const float* c, float* d, bool tile);
// The same of bytes: four of A, unsigned, or of B, signed, a register.
void run_mma_u8s8(const uint32_t* a, const uint32_t* b, const int32_t* c, int32_t* d);
// rows [32][8] bf16 -> registers [32][4].
void run_ldmatrix(const uint4* rows, uint32_t* registers, bool trans);
// out[i] = in[i] by cp.async of 16, 8 or 4 bytes through shared memory; chunks from `valid` on are zero-filled.
void run_copy(const uint4* in, uint4* out, int valid, int bytes);
// out[i] = in[i] for i < 64, past L1
void run_streaming(const uint4* in, uint4* out);
// out[i] = in[i] + 1 for i < n
void run_increment(int* data, int n, cudaStream_t stream);
// one of the collectives a lane
void run_shuffles(const int* in, int* out);  // out [6][32]: idx, xor, down, up, ballot, through shared memory
void run_activations(const float* in, float* out, int n);  // out [3][n]: gelu, silu, exp2
// out[i] = a[i] * b[i] + c[i] of bf16 pairs; i < 32
void run_fma(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out);
// out [3][256]: a 64th of the low bytes of each half, 128 + their low nibbles, a quarter of (their high nibbles - 8)
void run_widen(const uint32_t* in, uint32_t* out);
// *out = 3 by way of 4 KiB of declared shared memory and `bytes` of dynamic
void run_shared(int* out, int bytes);
// writes past the end of `data`
void run_overrun(int* data, int n);

}  // namespace drivlm::cuda::testing
