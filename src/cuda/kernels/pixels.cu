// Bytes of pictures to numbers and back, so that a quarter of the bytes crosses the bus and no processor core converts them.
//
//   widen:  y = b / 255                                     b bytes (pixels, channels) side by side, y f32, same order
//   bytes:  b = rint(255 clamp(round(x / 2 + 1/2), 0, 1))   round: to x's format, as torch rounds the sum; rint: ties to even
//
// Arithmetic is f32 with each operation rounded by itself (halving is exact), as diffusers' image processor does in torch
// and numpy. Bytes moved: each number once on either side.

#include "lanes.cuh"

namespace marquee {
namespace {

__global__ void widen(const uint8_t* __restrict__ b, float* __restrict__ y, int64_t count) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        y[i] = __fdiv_rn(static_cast<float>(b[i]), 255.0f);
    }
}

template <typename T>
__global__ void bytes(const T* __restrict__ x, uint8_t* __restrict__ b, int64_t count) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const float shifted = rounded<T>(__fadd_rn(0.5f * wide(x[i]), 0.5f));
        const float held = fminf(fmaxf(shifted, 0.0f), 1.0f);
        b[i] = static_cast<uint8_t>(__float2int_rn(__fmul_rn(held, 255.0f)));
    }
}

}  // namespace
}  // namespace marquee

MARQUEE_EXPORT int marquee_bytes_to_unit(const void* b, void* y, int64_t count, cudaStream_t stream) {
    using namespace marquee;
    if (count == 0) return 0;
    widen<<<blocks_for(count, 256, 4096), 256, 0, stream>>>(static_cast<const uint8_t*>(b), static_cast<float*>(y), count);
    return launched();
}

MARQUEE_EXPORT int marquee_signed_to_bytes(int format, const void* x, void* b, int64_t count, cudaStream_t stream) {
    using namespace marquee;
    if (count == 0) return 0;
    MARQUEE_BY_FORMAT(format, {
        bytes<T><<<blocks_for(count, 256, 4096), 256, 0, stream>>>(static_cast<const T*>(x), static_cast<uint8_t*>(b), count);
    });
    return launched();
}
