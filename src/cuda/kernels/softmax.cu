// Rows of attention scores to weights: y = exp(scale x - max) / sum, x and arithmetic f32, rounded once.
//
// For heads too wide for a fused attention kernel (the autoencoder's one head of 512 channels): scores come from one
// matrix product in f32, some rows at a time so that they stay in L2, weights go into another.
// Bytes: x is read twice, the second time from L2; y is written once.

#include "lanes.cuh"

namespace marquee {
namespace {

template <typename T>
__global__ void softmax(const float* __restrict__ x, T* __restrict__ y, int64_t width, float scale) {
    __shared__ float highest[32], total[32];
    const float* row = x + blockIdx.x * width;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    // Powers of two are one instruction; the factor turns them into those of e.
    const float by = scale * 1.4426950408889634f;
    float most = -INFINITY, sum = 0.0f;
    for (int64_t i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x) {
        const auto v = Lanes<float, 4>::load(row + i);
        const float here = fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3])) * by;
        if (here > most) {
            sum *= exp2f(most - here);
            most = here;
        }
        for (int k = 0; k < 4; ++k) sum += exp2f(v[k] * by - most);
    }
    float all = most;
    for (int offset = 16; offset; offset /= 2) all = fmaxf(all, __shfl_xor_sync(~0u, all, offset));
    if (lane == 0) highest[warp] = all;
    __syncthreads();
    all = highest[0];
    for (int i = 1; i < warps; ++i) all = fmaxf(all, highest[i]);
    sum = most == -INFINITY ? 0.0f : sum * exp2f(most - all);
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0) total[warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < warps; ++i) sum += total[i];
    const float inverse = 1.0f / sum;
    for (int64_t i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x) {
        const auto v = Lanes<float, 4>::load(row + i);
        Lanes<T, 4> out;
        for (int k = 0; k < 4; ++k) out.set(k, exp2f(v[k] * by - all) * inverse);
        out.store(y + blockIdx.x * width + i);
    }
}

}  // namespace
}  // namespace marquee

// x (rows, width) f32, scale > 0; y the same shape in `format`. `width` is a multiple of 4.
MARQUEE_EXPORT int marquee_softmax(int format, const float* x, void* y, int64_t rows, int64_t width, float scale, cudaStream_t stream) {
    using namespace marquee;
    if (width % 4) return static_cast<int>(cudaErrorInvalidValue);
    return by_format(format, 8, [&](auto zero, auto) {
        using T = decltype(zero);
        softmax<T><<<static_cast<unsigned>(rows), 512, 0, stream>>>(x, static_cast<T*>(y), width, scale);
        return launched();
    });
}
