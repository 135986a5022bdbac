// Channels-last pictures as kernels read and write them: sixteen bytes at a time where the channels allow it, computed in
// f32. Counts that sixteen bytes do not divide go one by one.
#pragma once
#include <type_traits>

#include "numeric.cuh"

namespace marquee {

// N neighbouring channels.
template <typename T, int N> struct alignas(sizeof(T) * N) Lanes {
    T at[N];

    static __device__ __forceinline__ Lanes load(const T* from) { return *reinterpret_cast<const Lanes*>(from); }
    __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Lanes*>(to) = *this; }
    __device__ __forceinline__ float operator[](int i) const { return wide(at[i]); }
    __device__ __forceinline__ void set(int i, float x) { at[i] = narrow<T>(x); }
};

inline int multiprocessors() {
    int device = 0, count = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 80;
    if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 80;
    return count;
}

inline int blocks_for(int64_t items, int threads, int64_t most) {
    const int64_t wanted = (items + threads - 1) / threads;
    return static_cast<int>(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

// As many blocks as there is work, one item a thread.
constexpr int64_t kAll = int64_t(1) << 30;

// Calls `body` with a value of the format's type and the number of lanes that divides `channels`.
template <typename Body> int by_format(int format, int64_t channels, Body body) {
    const auto with = [&](auto zero) {
        constexpr int lanes = 16 / sizeof(zero);
        return channels % lanes == 0 ? body(zero, std::integral_constant<int, lanes>{})
                                     : body(zero, std::integral_constant<int, 1>{});
    };
    switch (format) {
        case F32:
            return with(float{});
        case F16:
            return with(__half{});
        case BF16:
            return with(__nv_bfloat16{});
        default:
            return static_cast<int>(cudaErrorInvalidValue);
    }
}

}  // namespace marquee
