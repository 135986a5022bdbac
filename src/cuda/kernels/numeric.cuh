// Number formats of the kernels: the codes that cross the C interface, conversions, 16-byte packs, sums over a warp or
// a block. Included by every kernel; must not know any of them.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define MARQUEE_EXPORT extern "C" __attribute__((visibility("default")))

namespace marquee {

// Number formats as src/cuda/launch.rs numbers them.
enum Format : int { F32 = 0, F16 = 1, BF16 = 2 };

// Calls `body<T>()` for the format's type, or returns cudaErrorInvalidValue.
#define MARQUEE_BY_FORMAT(format, ...)                                                        \
    switch (format) {                                                                         \
        case marquee::F32: { using T = float; __VA_ARGS__; } break;                           \
        case marquee::F16: { using T = __half; __VA_ARGS__; } break;                          \
        case marquee::BF16: { using T = __nv_bfloat16; __VA_ARGS__; } break;                  \
        default: return cudaErrorInvalidValue;                                                \
    }

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// `x` as it would be after a trip through memory in format T: the points where torch rounds inside a formula.
template <typename T> __device__ __forceinline__ float rounded(float x) { return wide(narrow<T>(x)); }

// Two neighbours at once in the format itself. Sums and products of 16-bit numbers round the same whether f32 stands
// between or not (its 24 bits are at least twice theirs and two), at half the instructions.
template <typename T> struct Pair;
template <> struct Pair<float> { using type = float2; };
template <> struct Pair<__half> { using type = __half2; };
template <> struct Pair<__nv_bfloat16> { using type = __nv_bfloat162; };

template <typename T> using PairOf = typename Pair<T>::type;

__device__ __forceinline__ float2 sum_of(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ __half2 sum_of(__half2 a, __half2 b) { return __hadd2_rn(a, b); }
__device__ __forceinline__ __nv_bfloat162 sum_of(__nv_bfloat162 a, __nv_bfloat162 b) { return __hadd2_rn(a, b); }

__device__ __forceinline__ float2 product_of(float2 a, float2 b) { return make_float2(a.x * b.x, a.y * b.y); }
__device__ __forceinline__ __half2 product_of(__half2 a, __half2 b) { return __hmul2_rn(a, b); }
__device__ __forceinline__ __nv_bfloat162 product_of(__nv_bfloat162 a, __nv_bfloat162 b) { return __hmul2_rn(a, b); }

__device__ __forceinline__ float2 wide(float2 x) { return x; }
__device__ __forceinline__ float2 wide(__half2 x) { return __half22float2(x); }
__device__ __forceinline__ float2 wide(__nv_bfloat162 x) { return __bfloat1622float2(x); }

template <typename T> __device__ __forceinline__ PairOf<T> narrow_pair(float a, float b);
template <> __device__ __forceinline__ float2 narrow_pair<float>(float a, float b) { return make_float2(a, b); }
template <> __device__ __forceinline__ __half2 narrow_pair<__half>(float a, float b) { return __floats2half2_rn(a, b); }
template <> __device__ __forceinline__ __nv_bfloat162 narrow_pair<__nv_bfloat16>(float a, float b) {
    return __floats2bfloat162_rn(a, b);
}

// 16 bytes of T: what a thread moves at once.
template <typename T> struct alignas(16) Pack {
    static constexpr int N = 16 / sizeof(T);
    T at[N];

    __device__ __forceinline__ PairOf<T>& pair(int j) { return reinterpret_cast<PairOf<T>*>(at)[j / 2]; }
    __device__ __forceinline__ const PairOf<T>& pair(int j) const {
        return reinterpret_cast<const PairOf<T>*>(at)[j / 2];
    }
};

template <typename T> __device__ __forceinline__ Pack<T> load(const T* from) {
    return *reinterpret_cast<const Pack<T>*>(from);
}

// For data that nobody reads again soon.
template <typename T> __device__ __forceinline__ Pack<T> load_once(const T* from) {
    const int4 bits = __ldcs(reinterpret_cast<const int4*>(from));
    return *reinterpret_cast<const Pack<T>*>(&bits);
}

template <typename T> __device__ __forceinline__ void store(T* to, const Pack<T>& pack) {
    *reinterpret_cast<Pack<T>*>(to) = pack;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Sum over a block of up to 1024 threads (a multiple of 32), known to all of them. `scratch` holds 32 floats, which are
// free again after the next barrier that the caller passes.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = lane < (blockDim.x + 31) / 32 ? scratch[lane] : 0.0f;
    return warp_sum(x);
}

// The largest, likewise.
__device__ __forceinline__ float block_max(float x, float* scratch) {
    x = warp_max(x);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = lane < (blockDim.x + 31) / 32 ? scratch[lane] : -INFINITY;
    return warp_max(x);
}

__device__ __forceinline__ float gelu_tanh(float x) {
    const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanhf(inner));
}

__device__ __forceinline__ float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f)); }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

// cudaGetLastError as the exported functions return it.
inline int launched() { return static_cast<int>(cudaGetLastError()); }

}  // namespace marquee
