// The gather of deformable convolution, version 2: each tap reads the picture at a place of its own, bilinearly, and is
// weighted. One matrix product with the kernels follows.
//
//   columns[p, t, c] = mask[p, t] * picture(row(p) + t / k - k / 2 + offset[p, 2 t],
//                                           column(p) + t % k - k / 2 + offset[p, 2 t + 1], c)
//
// `picture` is bilinear between pixels and 0 beyond the border, as torchvision.ops.deform_conv2d. The mask may come before
// its sigmoid: mask = 2 sigmoid(m), rounded to the tensors' type where torch rounds it. Places and sums are f32
// (torchvision's half precision kernel has places in half precision: a quarter of a pixel at 256), columns are rounded once.
// Bytes: 4 pixels' channels read (from L2) and one written for each tap. A kernel of 7 x 7 over 64 channels at 256 x 256 has
// 411 MB of columns in 16 bit, so callers take `count` pixels at a time.

#include "lanes.cuh"

namespace marquee {
namespace {

template <typename T, int N>
__global__ void gather(const T* __restrict__ x, const T* __restrict__ offset, const T* __restrict__ mask,
                       T* __restrict__ columns, int height, int width, int channels, int kernel, int activate,
                       int64_t first, int64_t count) {
    const int taps = kernel * kernel, packs = channels / N;
    const int64_t items = count * taps * packs;
    for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items;
         item += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int pack = static_cast<int>(item % packs);
        const int64_t place = item / packs;
        const int tap = static_cast<int>(place % taps);
        const int64_t pixel = first + place / taps;  // over the whole batch
        const int64_t within = pixel % (static_cast<int64_t>(height) * width);
        const T* picture = x + (pixel - within) * channels + pack * N;
        const float row = static_cast<float>(static_cast<int>(within / width) + tap / kernel - kernel / 2) +
                          wide(offset[pixel * 2 * taps + 2 * tap]);
        const float column = static_cast<float>(static_cast<int>(within % width) + tap % kernel - kernel / 2) +
                             wide(offset[pixel * 2 * taps + 2 * tap + 1]);
        float sum[N];
        for (int i = 0; i < N; ++i) sum[i] = 0.0f;
        // A place that is no number is no place.
        if (row > -1.0f && column > -1.0f && row < static_cast<float>(height) && column < static_cast<float>(width)) {
            const float top = floorf(row), left = floorf(column);
            const float down = row - top, right = column - left;
            float by = wide(mask[pixel * taps + tap]);
            if (activate) by = 2.0f * rounded<T>(sigmoid(by));
            const int at_row = static_cast<int>(top), at_column = static_cast<int>(left);
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
                const int below = corner / 2, beside = corner % 2;
                const int r = at_row + below, c = at_column + beside;
                if (r >= 0 && r < height && c >= 0 && c < width) {
                    const float weight = by * (below ? down : 1.0f - down) * (beside ? right : 1.0f - right);
                    const auto v = Lanes<T, N>::load(picture + (static_cast<int64_t>(r) * width + c) * channels);
                    for (int i = 0; i < N; ++i) sum[i] += weight * v[i];
                }
            }
        }
        Lanes<T, N> out;
        for (int i = 0; i < N; ++i) out.set(i, sum[i]);
        out.store(columns + item * N);
    }
}

}  // namespace
}  // namespace marquee

// x (batch, height, width, channels), offset (…, 2 kernel²), mask (…, kernel²), before its sigmoid if `activate`: columns
// (count, kernel², channels) of the pixels from `first` on, counted over the whole batch.
MARQUEE_EXPORT int marquee_deform_gather(int format, const void* x, const void* offset, const void* mask, void* columns, int height,
                          int width, int channels, int kernel, int activate, int64_t first, int64_t count, cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, channels, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const int64_t items = count * kernel * kernel * (channels / N);
        gather<T, N><<<blocks_for(items, 256, kAll), 256, 0, stream>>>(
            static_cast<const T*>(x), static_cast<const T*>(offset), static_cast<const T*>(mask),
            static_cast<T*>(columns), height, width, channels, kernel, activate, first, count);
        return launched();
    });
}
