// Arithmetic at each pixel of channels-last pictures, in f32 with the roundings named.
//
// batch norm:  y = x scale + offset, scale = weight / sqrt(variance + 1e-5), offset = bias - mean scale (all f32, as torch
//              keeps a norm's statistics); negative values to 0 if asked for; one rounding
// gate:        y[p, c] = x[p, c] round(sigmoid(g[p])), rounded
// GEGLU:       y[r, c] = x[r, c] round(gelu(x[r, inner + c])), rounded; gelu(v) = v (1 + erf(v / sqrt 2)) / 2
// scaled sum:  y = a + round(scale b), rounded, where a may be several pictures and b one for all; without a:
//              y = round(scale b)
//
// Bytes: every operand is read once, y written once.

#include <cuda_pipeline_primitives.h>

#include "early.cuh"
#include "lanes.cuh"

namespace marquee {
namespace {

template <typename T, int N, bool Relu>
__global__ void batch_norm(const T* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                           const float* __restrict__ mean, const float* __restrict__ variance, T* __restrict__ y,
                           int64_t items, int channels) {
    extern __shared__ float table[];
    float *scale = table, *offset = table + channels;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        scale[c] = weight[c] / sqrtf(variance[c] + 1e-5f);
        offset[c] = bias[c] - mean[c] * scale[c];
    }
    __syncthreads();
    const int packs = channels / N;
#pragma unroll 2
    for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items;
         item += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int channel = static_cast<int>(item % packs) * N;
        auto v = Lanes<T, N>::load(x + item * N);
        for (int i = 0; i < N; ++i) {
            const float value = v[i] * scale[channel + i] + offset[channel + i];
            v.set(i, Relu ? fmaxf(value, 0.0f) : value);
        }
        v.store(y + item * N);
    }
}

template <typename T, int N>
__global__ void gate(const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ y, int64_t items, int packs) {
    for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items;
         item += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const float by = rounded<T>(sigmoid(wide(g[item / packs])));
        auto v = Lanes<T, N>::load(x + item * N);
        for (int i = 0; i < N; ++i) v.set(i, v[i] * by);
        v.store(y + item * N);
    }
}

// Threads of a block, blocks of a multiprocessor, and rows under way to a thread while it works on another: the error
// function takes half as long as the memory, and is to hide behind it.
constexpr int kThreads = 320, kGegluBlocks = 4, kAhead = 2;

// Grid (every how many rows, parts of a row).
template <typename T, int N>
__global__ void __launch_bounds__(kThreads, kGegluBlocks)
    geglu(const T* __restrict__ x, T* __restrict__ y, int64_t rows, int packs) {
    in_order();
    using Part = Lanes<T, N>;
    // A thread reads only what it fetched itself.
    __shared__ Part held[kAhead + 1][2][kThreads];
    const int pack = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
    if (pack >= packs) return;
    const int64_t width = static_cast<int64_t>(packs) * N, step = gridDim.x;
    const auto fetch = [&](int64_t row, int slot) {
        if (row < rows) {
            const T* from = x + 2 * row * width + pack * N;
            for (int half = 0; half < 2; ++half) {
                Part& to = held[slot][half][threadIdx.x];
                if constexpr (sizeof(Part) >= 4) {
                    __pipeline_memcpy_async(&to, from + half * width, sizeof(Part));
                } else {
                    to = Part::load(from + half * width);
                }
            }
        }
        __pipeline_commit();
    };
    for (int slot = 0; slot < kAhead; ++slot) fetch(blockIdx.x + slot * step, slot);
    int slot = 0;
    for (int64_t row = blockIdx.x; row < rows; row += step) {
        fetch(row + kAhead * step, slot == 0 ? kAhead : slot - 1);
        __pipeline_wait_prior(kAhead);
        Part v = held[slot][0][threadIdx.x];
        const Part g = held[slot][1][threadIdx.x];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            v.set(i, v[i] * rounded<T>(0.5f * g[i] * (1.0f + erff(g[i] * 0.70710678118654752f))));
        }
        v.store(y + row * width + pack * N);
        slot = slot == kAhead ? 0 : slot + 1;
    }
}

// Grid (parts of b, how often a has b's size); `items` packs of b. One a thread: more of them wait for each other.
template <typename T, int N, bool Sum>
__global__ void scaled_sum(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, float scale,
                           int64_t items) {
    in_order();
    const int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= items) return;
    const int64_t at = (blockIdx.y * items + item) * N;
    auto v = Lanes<T, N>::load(b + item * N);
    if constexpr (Sum) {
        const auto w = Lanes<T, N>::load(a + at);
        // In f32 a product and a sum that the compiler may join would round once.
        for (int i = 0; i < N; ++i) v.set(i, w[i] + rounded<T>(__fmul_rn(scale, v[i])));
    } else {
        for (int i = 0; i < N; ++i) v.set(i, scale * v[i]);
    }
    v.store(y + at);
}

}  // namespace
}  // namespace marquee

// x, y (pixels, channels); the other four (channels) f32.
MARQUEE_EXPORT int marquee_batch_norm(int format, const void* x, const float* weight, const float* bias, const float* mean,
                       const float* variance, void* y, int64_t pixels, int channels, int relu, cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, channels, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int64_t items = pixels * (channels / N);
        const size_t shared = 2 * sizeof(float) * channels;
        if (shared > 48 * 1024) return static_cast<int>(cudaErrorInvalidValue);
        const int blocks = blocks_for(items, 256, 8 * multiprocessors());
        const auto* from = static_cast<const T*>(x);
        auto* to = static_cast<T*>(y);
        if (relu) {
            batch_norm<T, N, true><<<blocks, 256, shared, stream>>>(from, weight, bias, mean, variance, to, items, channels);
        } else {
            batch_norm<T, N, false><<<blocks, 256, shared, stream>>>(from, weight, bias, mean, variance, to, items, channels);
        }
        return launched();
    });
}

// x, y (pixels, channels), g (pixels).
MARQUEE_EXPORT int marquee_gate(int format, const void* x, const void* g, void* y, int64_t pixels, int channels, cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, channels, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int64_t items = pixels * (channels / N);
        gate<T, N><<<blocks_for(items, 256, kAll), 256, 0, stream>>>(
            static_cast<const T*>(x), static_cast<const T*>(g), static_cast<T*>(y), items, channels / N);
        return launched();
    });
}

// x (rows, 2 inner): values, then gates. y (rows, inner).
MARQUEE_EXPORT int marquee_geglu(int format, const void* x, void* y, int64_t rows, int inner, cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, inner, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int packs = inner / N;
        // As few threads beyond a row's end as may be: none at SDXL's 2,560 and 5,120.
        const int parts = (packs + kThreads - 1) / kThreads, threads = ((packs + parts - 1) / parts + 31) / 32 * 32;
        const dim3 grid(blocks_for(rows, 1, (kGegluBlocks * multiprocessors() + parts - 1) / parts), parts);
        return launch_early(geglu<T, N>, grid, threads, 0, stream, static_cast<const T*>(x), static_cast<T*>(y), rows, packs);
    });
}

// b (count); a, y (times, count), or a null and `times` 1.
MARQUEE_EXPORT int marquee_scaled_sum(int format, const void* a, const void* b, void* y, float scale, int64_t count, int times,
                       cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, count, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int64_t items = count / N;
        const dim3 grid(blocks_for(items, 256, kAll), times);
        const auto run = [&](auto kernel) {
            return launch_early(kernel, grid, 256, 0, stream, static_cast<const T*>(a), static_cast<const T*>(b),
                                static_cast<T*>(y), scale, items);
        };
        return a ? run(scaled_sum<T, N, true>) : run(scaled_sum<T, N, false>);
    });
}
