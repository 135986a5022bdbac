// Changes of size of channels-last pictures, and their channels side by side.
//
// nearest:   y[p, q] = x[floor(p h / height), floor(q w / width)]                  (torch: ratio and product in f32)
// bilinear:  corners keep their places (align_corners): position = p (h - 1) / (height - 1), ratio and product in f32 as
//            torch; y = (1 - a) ((1 - b) x00 + b x01) + a ((1 - b) x10 + b x11) in f32, rounded once
// columns:   copies the channels of one picture into those of a wider one, from channel `at` on
//
// Bytes: y written once; x read once (nearest, columns) or four times, mostly from caches (bilinear).

#include "early.cuh"
#include "lanes.cuh"

namespace marquee {
namespace {

template <typename T, int N>
__global__ void nearest(const T* __restrict__ x, T* __restrict__ y, int h, int w, int height, int width, int packs,
                        int64_t items, float down, float across) {
    for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items;
         item += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int pack = static_cast<int>(item % packs);
        const int64_t pixel = item / packs;
        const int column = static_cast<int>(pixel % width);
        const int64_t line = pixel / width;
        const int row = static_cast<int>(line % height);
        const int64_t picture = line / height;
        const int from_row = min(static_cast<int>(floorf(row * down)), h - 1);
        const int from_column = min(static_cast<int>(floorf(column * across)), w - 1);
        Lanes<T, N>::load(x + (((picture * h + from_row) * w + from_column) * packs + pack) * N).store(y + item * N);
    }
}

struct Tap {
    int at, step;
    float weight;
};

__device__ __forceinline__ Tap tap(int out, float ratio, int from) {
    const float position = ratio * static_cast<float>(out);
    const int at = min(static_cast<int>(position), from - 1);
    const float weight = fminf(fmaxf(position - static_cast<float>(at), 0.0f), 1.0f);
    return {at, at + 1 < from ? 1 : 0, weight};
}

template <typename T, int N>
__global__ void bilinear(const T* __restrict__ x, T* __restrict__ y, int h, int w, int height, int width, int packs,
                         int64_t items, float down, float across) {
    for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items;
         item += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int pack = static_cast<int>(item % packs);
        const int64_t pixel = item / packs;
        const int64_t line = pixel / width;
        const int64_t picture = line / height;
        const Tap row = tap(static_cast<int>(line % height), down, h);
        const Tap column = tap(static_cast<int>(pixel % width), across, w);
        const auto at = [&](int r, int c) {
            return Lanes<T, N>::load(x + (((picture * h + r) * w + c) * packs + pack) * N);
        };
        const auto v00 = at(row.at, column.at), v01 = at(row.at, column.at + column.step);
        const auto v10 = at(row.at + row.step, column.at), v11 = at(row.at + row.step, column.at + column.step);
        Lanes<T, N> out;
        for (int i = 0; i < N; ++i) {
            const float upper = v00[i] * (1.0f - column.weight) + v01[i] * column.weight;
            const float lower = v10[i] * (1.0f - column.weight) + v11[i] * column.weight;
            out.set(i, upper * (1.0f - row.weight) + lower * row.weight);
        }
        out.store(y + item * N);
    }
}

template <typename T, int N>
__global__ void columns(const T* __restrict__ x, T* __restrict__ y, unsigned packs, int stride, int at, int64_t items) {
    in_order();
    const int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= items) return;
    // A division of 64 bits would take longer than the copy.
    const unsigned row = static_cast<unsigned>(item) / packs, pack = static_cast<unsigned>(item) % packs;
    Lanes<T, N>::load(x + item * N).store(y + static_cast<int64_t>(row) * stride + at + pack * N);
}

}  // namespace
}  // namespace marquee

// x (batch, h, w, channels) to y (batch, height, width, channels).
MARQUEE_EXPORT int marquee_upsample_nearest(int format, const void* x, void* y, int batch, int h, int w, int height, int width,
                             int channels, cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, channels, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int64_t items = static_cast<int64_t>(batch) * height * width * (channels / N);
        nearest<T, N><<<blocks_for(items, 256, kAll), 256, 0, stream>>>(
            static_cast<const T*>(x), static_cast<T*>(y), h, w, height, width, channels / N, items,
            static_cast<float>(h) / static_cast<float>(height), static_cast<float>(w) / static_cast<float>(width));
        return launched();
    });
}

// As above, bilinear with aligned corners.
MARQUEE_EXPORT int marquee_resize_bilinear(int format, const void* x, void* y, int batch, int h, int w, int height, int width,
                            int channels, cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, channels, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int64_t items = static_cast<int64_t>(batch) * height * width * (channels / N);
        const auto ratio = [](int from, int to) {
            return to > 1 ? static_cast<float>(from - 1) / static_cast<float>(to - 1) : 0.0f;
        };
        bilinear<T, N><<<blocks_for(items, 256, kAll), 256, 0, stream>>>(
            static_cast<const T*>(x), static_cast<T*>(y), h, w, height, width, channels / N, items, ratio(h, height),
            ratio(w, width));
        return launched();
    });
}

// x (rows, channels) into y (rows, stride) from column `at` on.
MARQUEE_EXPORT int marquee_copy_columns(int format, const void* x, void* y, int64_t rows, int channels, int stride, int at,
                         cudaStream_t stream) {
    using namespace marquee;
    // A pack must divide all three; their common bits decide.
    return by_format(format, channels | stride | at, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int64_t items = rows * (channels / N);
        if (items > UINT32_MAX) return static_cast<int>(cudaErrorInvalidValue);
        return launch_early(columns<T, N>, dim3(blocks_for(items, 256, kAll)), 256, 0, stream, static_cast<const T*>(x),
                            static_cast<T*>(y), channels / N, stride, at, items);
    });
}
