// e4m3 (4 bits of exponent, 3 of mantissa, largest number 448): scales and stores. Included by the kernels that round to it.
#pragma once
#include <cuda_fp8.h>

#include <cstdint>

namespace marquee {

constexpr float kLargestE4m3 = 448.0f;

// What a row with this largest magnitude is divided by; 1 for a row of zeros.
__device__ __forceinline__ float row_scale(float largest) { return largest > 0.0f ? largest / kLargestE4m3 : 1.0f; }

// N numbers times `factor`, rounded to nearest even and held within ±448. `to` is a multiple of N bytes.
template <int N> __device__ __forceinline__ void store_eight(uint8_t* to, const float* values, float factor) {
    static_assert(N % 4 == 0);
    uint32_t words[N / 4];
#pragma unroll
    for (int w = 0; w < N / 4; w++) {
        const float* const four = values + 4 * w;
        const __nv_fp8x2_storage_t low =
            __nv_cvt_float2_to_fp8x2(make_float2(four[0] * factor, four[1] * factor), __NV_SATFINITE, __NV_E4M3);
        const __nv_fp8x2_storage_t high =
            __nv_cvt_float2_to_fp8x2(make_float2(four[2] * factor, four[3] * factor), __NV_SATFINITE, __NV_E4M3);
        words[w] = uint32_t(low) | uint32_t(high) << 16;
    }
    if constexpr (N == 8) {
        *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
    } else {
        *reinterpret_cast<uint32_t*>(to) = words[0];
    }
}

// Eight e4m3 numbers, from a multiple of 8 bytes.
__device__ __forceinline__ void load_eight(const uint8_t* from, float* values) {
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    const uint32_t all[2] = {words.x, words.y};
#pragma unroll
    for (int w = 0; w < 4; w++) {
        const auto pair = static_cast<__nv_fp8x2_storage_t>(all[w / 2] >> 16 * (w % 2));
        const float2 both = __half22float2(static_cast<__half2>(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
        values[2 * w] = both.x;
        values[2 * w + 1] = both.y;
    }
}

}  // namespace marquee
