// Sixteen bytes at a time, computed in f32: what every kernel over channels-last pictures reads and writes.
//
// Tensors are f32 (code 0), f16 (1) or bf16 (2). Channel counts that a pack of sixteen bytes does not divide go one by
// one; their pointers need no alignment beyond their type's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace marquee {

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// What a value of type T would be after a store and a load.
template <typename T>
__device__ __forceinline__ float rounded(float x) {
    return widen(narrow<T>(x));
}

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T values[N];

    static __device__ __forceinline__ Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
    __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
    __device__ __forceinline__ float operator[](int i) const { return widen(values[i]); }
    __device__ __forceinline__ void set(int i, float x) { values[i] = narrow<T>(x); }
};

template <typename T>
constexpr int kPack = 16 / sizeof(T);

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

inline int multiprocessors() {
    int device = 0, count = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 80;
    if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 80;
    return count;
}

inline int blocks_for(int64_t items, int threads, int most) {
    const int64_t wanted = (items + threads - 1) / threads;
    return static_cast<int>(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

// Calls `body` with a value of the element type and the pack's length for `channels` (and every other count given).
template <typename Body>
int by_type(int dtype, int64_t channels, Body body) {
    switch (dtype) {
        case 0:
            return channels % 4 == 0 ? body(float{}, std::integral_constant<int, 4>{})
                                     : body(float{}, std::integral_constant<int, 1>{});
        case 1:
            return channels % 8 == 0 ? body(__half{}, std::integral_constant<int, 8>{})
                                     : body(__half{}, std::integral_constant<int, 1>{});
        case 2:
            return channels % 8 == 0 ? body(__nv_bfloat16{}, std::integral_constant<int, 8>{})
                                     : body(__nv_bfloat16{}, std::integral_constant<int, 1>{});
        default:
            return static_cast<int>(cudaErrorInvalidValue);
    }
}

}  // namespace marquee
