// CUDA's vocabulary for g++: what a kernel file sees when it is compiled for the emulator.
//
// Every construct that needs other threads (barriers, shuffles, ldmatrix, mma) or another memory space is a call into the
// emulator; the rest of a kernel is plain C++ run by a fiber. Operands travel by value, so that fragment arrays stay
// registers and the compiler does not instrument them. kSite arguments give reports the caller's line.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ use_SHARED_ARRAY_or_dynamic_shared
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// Emulator code inlined into kernels is not itself checked.
#define EMU_UNCHECKED __attribute__((no_sanitize("thread", "alignment", "bounds")))
#define EMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMU_AT \
  ::emu::Site { file, line, nullptr }

namespace emu {

struct Site {
  const char* file;
  int line;
  void* pc;  // instead of file and line, for instrumented accesses
};

enum class Op : uint8_t {
  none,
  barrier,
  syncwarp,
  shuffle,
  ballot,
  ldmatrix,
  ldmatrix_trans,
  mma_bf16,
  mma_tile,
  mma_u8s8_tile
};

// Opaque to the compiler: memory is read again after each call, as after a real barrier.
uint3 thread_index() __attribute__((const));  // constant for the life of a fiber, so calls may be merged
uint3 block_index() __attribute__((const));
uint3 block_dimensions() __attribute__((const));
uint3 grid_dimensions() __attribute__((const));
unsigned lane_index() __attribute__((const));
unsigned char* dynamic_shared_base() __attribute__((const));
void* static_shared(const void* key, size_t bytes);
uint32_t shared_offset(const void* p);
void barrier(Site site);
void syncwarp(uint32_t mask, Site site);
uint64_t shuffle(uint32_t mask, uint64_t value, int source_lane, Site site);
uint32_t ballot(uint32_t mask, bool predicate, Site site);
uint4 ldmatrix(int matrices, bool trans, uint32_t address, Site site);
float4 mma_bf16(uint4 a, uint2 b, float4 c, Site site);
void mma_bf16_tile(int mi, int ni, float* d, const uint32_t* a, const uint32_t* b, Site site);
void mma_u8s8_tile(int mi, int ni, int32_t* d, const uint32_t* a, const uint32_t* b, Site site);
void cp_async(uint32_t to, const void* from, int bytes, int from_bytes, Site site);
void cp_async_commit();
void cp_async_wait(int groups);
void check_atomic(const void* p, size_t bytes, Site site);
uint4 load16(const void* p, Site site);
cudaError_t enqueue_launch(void (*run)(const void*), std::shared_ptr<const void> call, const void* kernel, dim3 grid,
                           dim3 block, size_t shared_bytes, cudaStream_t stream);

template <class T>
EMU_UNCHECKED __forceinline__ T shuffle_value(uint32_t mask, T value, int source_lane, Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, source_lane, site);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

// A kernel and its arguments by value: what a launch keeps until it runs.
template <class... P>
struct Call {
  void (*kernel)(P...);
  std::tuple<std::decay_t<P>...> arguments;

  template <size_t... kIndex>
  EMU_UNCHECKED static void invoke(const Call* call, std::index_sequence<kIndex...>) {
    call->kernel(std::get<kIndex>(call->arguments)...);
  }
  EMU_UNCHECKED static void run(const void* call) {
    invoke(static_cast<const Call*>(call), std::index_sequence_for<P...>());
  }
};

}  // namespace emu

#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_dimensions())
#define gridDim (::emu::grid_dimensions())

template <class T>
__forceinline__ T* dynamic_shared() {
  return reinterpret_cast<T*>(::emu::dynamic_shared_base());
}
#define SHARED_ARRAY(T, name, dims) \
  using name##_array = T dims;      \
  static const char name##_key = 0; \
  name##_array& name = *static_cast<name##_array*>(::emu::static_shared(&name##_key, sizeof(name##_array)))

// ---- threads ----

__forceinline__ void __syncthreads(EMU_SITE) { emu::barrier(EMU_AT); }
__forceinline__ void __syncwarp(uint32_t mask = ~0u, EMU_SITE) { emu::syncwarp(mask, EMU_AT); }
template <class T>
__forceinline__ T __shfl_sync(uint32_t mask, T value, int source, int width = 32, EMU_SITE) {
  const int lane = emu::lane_index();
  return emu::shuffle_value(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), EMU_AT);
}
template <class T>
__forceinline__ T __shfl_xor_sync(uint32_t mask, T value, int flip, int width = 32, EMU_SITE) {
  const int lane = emu::lane_index(), source = lane ^ flip;
  return emu::shuffle_value(mask, value, (source | (width - 1)) <= (lane | (width - 1)) ? source : lane, EMU_AT);
}
template <class T>
__forceinline__ T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, EMU_SITE) {
  const int lane = emu::lane_index(), source = lane + int(delta);
  return emu::shuffle_value(mask, value, source > (lane | (width - 1)) ? lane : source, EMU_AT);
}
template <class T>
__forceinline__ T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, EMU_SITE) {
  const int lane = emu::lane_index(), source = lane - int(delta);
  return emu::shuffle_value(mask, value, source < (lane & ~(width - 1)) ? lane : source, EMU_AT);
}
__forceinline__ uint32_t __ballot_sync(uint32_t mask, int predicate, EMU_SITE) {
  return emu::ballot(mask, predicate != 0, EMU_AT);
}

// ---- memory ----

inline void __threadfence() {}
template <class T>
__forceinline__ T __ldg(const T* p) {
  return *p;
}
// All threads run on one OS thread, so a plain read-modify-write is atomic.
template <class T>
EMU_UNCHECKED inline T atomicAdd(T* p, T value, EMU_SITE) {
  emu::check_atomic(p, sizeof(T), EMU_AT);
  const T old = *p;
  *p = old + value;
  return old;
}

// ---- arithmetic ----

__forceinline__ float __uint_as_float(unsigned v) { return __builtin_bit_cast(float, v); }
__forceinline__ unsigned __float_as_uint(float v) { return __builtin_bit_cast(unsigned, v); }
__forceinline__ float __int_as_float(int v) { return __builtin_bit_cast(float, v); }
__forceinline__ int __float_as_int(float v) { return __builtin_bit_cast(int, v); }
__forceinline__ float __expf(float x) { return expf(x); }
__forceinline__ float __fdividef(float a, float b) { return a / b; }
__forceinline__ float rsqrtf(float x) { return 1.f / sqrtf(x); }
__forceinline__ int __popc(unsigned v) { return __builtin_popcount(v); }
__forceinline__ int __ffs(unsigned v) { return __builtin_ffs(int(v)); }
template <class A, class B>
__forceinline__ constexpr std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  return C(b) < C(a) ? C(b) : C(a);
}
template <class A, class B>
__forceinline__ constexpr std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  return C(a) < C(b) ? C(b) : C(a);
}

// ---- the twins of the inline-PTX wrappers in async_copy.cuh, mma.cuh and warp.cuh ----

__forceinline__ uint32_t shared_address(const void* p) { return emu::shared_offset(p); }
__forceinline__ void cp_async16(uint32_t to, const void* from, bool valid = true, EMU_SITE) {
  emu::cp_async(to, from, 16, valid ? 16 : 0, EMU_AT);
}
__forceinline__ void cp_async8(uint32_t to, const void* from, bool valid = true, EMU_SITE) {
  emu::cp_async(to, from, 8, valid ? 8 : 0, EMU_AT);
}
__forceinline__ void cp_async4(uint32_t to, const void* from, bool valid = true, EMU_SITE) {
  emu::cp_async(to, from, 4, valid ? 4 : 0, EMU_AT);
}
__forceinline__ void cp_async_commit() { emu::cp_async_commit(); }
template <int kGroups>
__forceinline__ void cp_async_wait() {
  emu::cp_async_wait(kGroups);
}
__forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address, EMU_SITE) {
  const uint4 v = emu::ldmatrix(4, false, address, EMU_AT);
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
__forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address, EMU_SITE) {
  const uint4 v = emu::ldmatrix(4, true, address, EMU_AT);
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
__forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_SITE) {
  const float4 v = emu::mma_bf16(make_uint4(a[0], a[1], a[2], a[3]), make_uint2(b0, b1),
                                 make_float4(d[0], d[1], d[2], d[3]), EMU_AT);
  d[0] = v.x, d[1] = v.y, d[2] = v.z, d[3] = v.w;
}
template <int kMi, int kNi>
__forceinline__ void mma_bf16_tile(float (&d)[kMi][kNi][4], const uint32_t (&a)[kMi][4], const uint32_t (&b)[kNi][2],
                                   EMU_SITE) {
  emu::mma_bf16_tile(kMi, kNi, &d[0][0][0], &a[0][0], &b[0][0], EMU_AT);
}
template <int kMi, int kNi>
__forceinline__ void mma_u8s8_tile(int32_t (&d)[kMi][kNi][4], const uint32_t (&a)[kMi][4], const uint32_t (&b)[kNi][2],
                                   EMU_SITE) {
  emu::mma_u8s8_tile(kMi, kNi, &d[0][0][0], &a[0][0], &b[0][0], EMU_AT);
}
__forceinline__ float exp2_approx(float x) { return exp2f(x); }
// The product of two bf16 is exact in f32; adding in f64 and rounding to f32 first may round twice, which no sum of ours is near.
__forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  const auto one = [](uint32_t x, uint32_t y, uint32_t z) {
    const auto wide = [](uint32_t bits) { return __builtin_bit_cast(float, bits << 16); };
    const __nv_bfloat16 sum = __float2bfloat16(float(double(wide(x)) * wide(y) + wide(z)));
    return uint32_t(__builtin_bit_cast(uint16_t, sum));
  };
  return one(a & 0xffff, b & 0xffff, c & 0xffff) | one(a >> 16, b >> 16, c >> 16) << 16;
}
template <uint32_t kMask, uint32_t kFlip>
__forceinline__ uint32_t and_xor(uint32_t a) {
  return (a & kMask) ^ kFlip;
}
__forceinline__ uint4 load_streaming16(const void* p, EMU_SITE) { return emu::load16(p, EMU_AT); }
