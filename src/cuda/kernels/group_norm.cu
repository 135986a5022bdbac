// Group normalisation of channels-last pictures, and the mean over a picture's pixels.
//
//   v = x + shift                                          shift (batch, channels) optional, rounded to x's type as torch
//                                                          rounds the sum before its norm
//   y = (v - mean) / sqrt(variance + eps) * weight + bias  statistics over a group's channels and all pixels, biased
//   y = y * sigmoid(y)                                     if asked for
//
// Rounding: statistics and arithmetic are f32, one rounding of y. torch also rounds between norm and SiLU; leaving that
// out only comes closer to f32. Statistics: each thread sums differences to the first value it sees, so that a mean far
// from 0 costs no digits; counts, means and squared deviations are then merged pairwise (Chan, Golub, LeVeque 1983).
// Bytes: x is read twice, y written once.

#include "lanes.cuh"

namespace marquee {
namespace {

struct Moments {
    float mean, squares;
};

// Merges `count` entries of which entry i has weight(i) values; called by a whole warp.
template <typename Weight, typename Entry>
__device__ Moments merge(int count, float total, Weight weight, Entry entry) {
    const int lane = threadIdx.x % 32;
    float mean = 0.0f;
    for (int i = lane; i < count; i += 32) mean += weight(i) * entry(i).mean;
    for (int offset = 16; offset; offset /= 2) mean += __shfl_xor_sync(~0u, mean, offset);
    mean /= total;
    float squares = 0.0f;
    for (int i = lane; i < count; i += 32) {
        const Moments m = entry(i);
        const float off = m.mean - mean;
        squares += m.squares + weight(i) * off * off;
    }
    for (int offset = 16; offset; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
    return {mean, squares};
}

// Grid (chunks, batch), block (packs a pixel, rows) flattened: each block the moments of its pixels, one entry a group.
template <typename T, int N>
__global__ void moments(const T* __restrict__ x, const T* __restrict__ shift, Moments* __restrict__ partial,
                        int64_t pixels, int channels, int groups, int rows, int64_t chunk) {
    extern __shared__ Moments entries[];  // (rows, channels)
    const int packs = channels / N;
    const int column = threadIdx.x % packs, row = threadIdx.x / packs;
    const int64_t first = blockIdx.x * chunk, last = min(first + chunk, pixels);
    const T* picture = x + blockIdx.y * pixels * channels;
    const auto seen = [&](int r) { return first + r < last ? (last - first - r + rows - 1) / rows : int64_t{0}; };
    if (row < rows) {
        float base[N], sum[N], squares[N], extra[N];
        for (int i = 0; i < N; ++i) {
            sum[i] = squares[i] = base[i] = 0.0f;
            extra[i] = shift ? wide(shift[blockIdx.y * channels + column * N + i]) : 0.0f;
        }
        if (first + row < last) {
            const auto v = Lanes<T, N>::load(picture + (first + row) * channels + column * N);
            for (int i = 0; i < N; ++i) base[i] = shift ? rounded<T>(v[i] + extra[i]) : v[i];
        }
#pragma unroll 4
        for (int64_t pixel = first + row; pixel < last; pixel += rows) {
            const auto v = Lanes<T, N>::load(picture + pixel * channels + column * N);
            for (int i = 0; i < N; ++i) {
                const float off = (shift ? rounded<T>(v[i] + extra[i]) : v[i]) - base[i];
                sum[i] += off;
                squares[i] += off * off;
            }
        }
        const float count = static_cast<float>(max(seen(row), int64_t{1}));
        for (int i = 0; i < N; ++i) {
            const float off = sum[i] / count;
            entries[row * channels + column * N + i] = {base[i] + off, fmaxf(squares[i] - sum[i] * off, 0.0f)};
        }
    }
    __syncthreads();
    const int width = channels / groups;
    const float total = static_cast<float>((last - first) * width);
    for (int group = threadIdx.x / 32; group < groups; group += blockDim.x / 32) {
        const Moments all = merge(
            rows * width, total, [&](int i) { return static_cast<float>(seen(i / width)); },
            [&](int i) { return entries[i / width * channels + group * width + i % width]; });
        if (threadIdx.x % 32 == 0) {
            partial[(blockIdx.y * gridDim.x + blockIdx.x) * static_cast<int64_t>(groups) + group] = all;
        }
    }
}

struct Chunks {
    int64_t pixels, chunk;
    int count, groups, width;  // width: channels of a group

    // The moments of a group over all chunks, by a whole warp.
    __device__ Moments of(const Moments* partial, int item, int group) const {
        const auto weight = [&](int i) {
            return static_cast<float>(min(chunk, pixels - i * chunk) * static_cast<int64_t>(width));
        };
        return merge(count, static_cast<float>(pixels * width), weight, [&](int i) {
            return partial[(static_cast<int64_t>(item) * count + i) * groups + group];
        });
    }
};

// One warp a (group, item): its moments.
__global__ void finish(const Moments* __restrict__ partial, Moments* __restrict__ whole, Chunks chunks, int batch) {
    const int index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (index >= batch * chunks.groups) return;
    const Moments all = chunks.of(partial, index / chunks.groups, index % chunks.groups);
    if (threadIdx.x % 32 == 0) whole[index] = all;
}

// One warp a (group, item): what each of its channels is multiplied by, and what is then added.
template <typename T>
__global__ void factors(const Moments* __restrict__ partial, const T* __restrict__ weight, const T* __restrict__ bias,
                        Chunks chunks, int batch, float eps, float2* __restrict__ table) {
    const int index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (index >= batch * chunks.groups) return;
    const int item = index / chunks.groups, group = index % chunks.groups;
    const Moments all = chunks.of(partial, item, group);
    const float variance = all.squares / static_cast<float>(chunks.pixels * chunks.width);
    const float inverse = rsqrtf(variance + eps);
    for (int i = threadIdx.x % 32; i < chunks.width; i += 32) {
        const int channel = group * chunks.width + i;
        const float by = inverse * wide(weight[channel]);
        table[static_cast<int64_t>(item) * chunks.groups * chunks.width + channel] =
            make_float2(by, wide(bias[channel]) - all.mean * by);
    }
}

template <typename T>
__global__ void means(const Moments* __restrict__ whole, T* __restrict__ y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) y[index] = narrow<T>(whole[index].mean);
}

// Grid (chunks, batch), block (packs a pixel, rows) flattened: a thread stays with its channels, whose factors it keeps in
// registers, and goes from pixel to pixel.
template <typename T, int N, bool Silu, bool Shift>
__global__ void normalise(const T* __restrict__ x, const T* __restrict__ shift, const float2* __restrict__ table,
                          int64_t pixels, int channels, int rows, int64_t chunk, T* __restrict__ y) {
    const int packs = channels / N;
    const int column = threadIdx.x % packs, row = threadIdx.x / packs;
    if (row >= rows) return;
    float scale[N], offset[N], extra[N];
    const int64_t first_channel = static_cast<int64_t>(blockIdx.y) * channels + column * N;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float2 factor = table[first_channel + i];
        scale[i] = factor.x;
        offset[i] = factor.y;
        extra[i] = Shift ? wide(shift[first_channel + i]) : 0.0f;
    }
    const int64_t last = min((blockIdx.x + 1) * chunk, pixels);
    const int64_t picture = blockIdx.y * pixels * channels + column * N;
#pragma unroll 4
    for (int64_t pixel = blockIdx.x * chunk + row; pixel < last; pixel += rows) {
        auto v = Lanes<T, N>::load(x + picture + pixel * channels);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            float value = v[i];
            if (Shift) value = rounded<T>(value + extra[i]);
            value = value * scale[i] + offset[i];
            // x / (1 + e^-x): the quick division is 2 units in the last place of f32 off.
            if (Silu) value = __fdividef(value, 1.0f + __expf(-value));
            v.set(i, value);
        }
        v.store(y + picture + pixel * channels);
    }
}

// Blocks of `moments` a multiprocessor.
constexpr int kBlocks = 2;

struct Split {
    int rows, threads, chunks;
    int64_t chunk;
};

// `blocks` a multiprocessor, and at least `least` pixels for each thread.
Split split(int batch, int64_t pixels, int packs, int blocks, int least) {
    Split s{};
    s.rows = packs >= 256 ? 1 : 256 / packs;
    s.threads = (packs * s.rows + 31) / 32 * 32;
    const int64_t most = (blocks * multiprocessors() + batch - 1) / batch;
    int64_t count = (pixels + least * s.rows - 1) / (least * s.rows);
    count = count < 1 ? 1 : count > most ? most : count;
    s.chunk = (pixels + count - 1) / count;
    s.chunks = static_cast<int>((pixels + s.chunk - 1) / s.chunk);
    return s;
}

// The moments of chunks, one after the other in `scratch`; how many there are goes to `chunks`.
template <typename T, int N>
int statistics(const T* x, const T* shift, Moments* scratch, int batch, int64_t pixels, int channels, int groups,
               cudaStream_t stream, Chunks& chunks) {
    const Split s = split(batch, pixels, channels / N, kBlocks, 8);
    const size_t shared = static_cast<size_t>(s.rows) * channels * sizeof(Moments);
    if (s.threads > 1024 || shared > 48 * 1024) return static_cast<int>(cudaErrorInvalidValue);
    moments<T, N><<<dim3(s.chunks, batch), s.threads, shared, stream>>>(x, shift, scratch, pixels, channels, groups,
                                                                        s.rows, s.chunk);
    chunks = {pixels, s.chunk, s.chunks, groups, channels / groups};
    return launched();
}

// Room for the moments of all chunks: a chunk more a picture than blocks divide, rounded to what a table may begin at.
size_t moments_room(int batch, int groups) {
    const size_t bytes = static_cast<size_t>(kBlocks * multiprocessors() + batch) * groups * sizeof(Moments);
    return (bytes + 255) / 256 * 256;
}

}  // namespace
}  // namespace marquee

// Bytes of `scratch` that the functions below need.
MARQUEE_EXPORT size_t marquee_group_norm_scratch(int batch, int groups, int channels) {
    return marquee::moments_room(batch, groups) + static_cast<size_t>(batch) * channels * sizeof(float2);
}

// x, y (batch, pixels, channels); shift (batch, channels) or null; weight, bias (channels).
MARQUEE_EXPORT int marquee_group_norm(int format, const void* x, const void* shift, const void* weight, const void* bias, void* y,
                       void* scratch, int batch, int64_t pixels, int channels, int groups, float eps, int silu,
                       cudaStream_t stream) {
    using namespace marquee;
    if (groups < 1 || channels % groups) return static_cast<int>(cudaErrorInvalidValue);
    return by_format(format, channels, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        const auto* from = static_cast<const T*>(x);
        const auto* extra = static_cast<const T*>(shift);
        auto* partial = static_cast<Moments*>(scratch);
        Chunks chunks{};
        if (int error = statistics<T, N>(from, extra, partial, batch, pixels, channels, groups, stream, chunks)) return error;
        auto* table = reinterpret_cast<float2*>(static_cast<char*>(scratch) + moments_room(batch, groups));
        factors<T><<<(batch * groups + 3) / 4, 128, 0, stream>>>(partial, static_cast<const T*>(weight),
                                                                 static_cast<const T*>(bias), chunks, batch, eps, table);
        const Split s = split(batch, pixels, channels / N, 8, 4);
        const dim3 grid(s.chunks, batch);
        auto* to = static_cast<T*>(y);
        const auto run = [&](auto kernel) {
            kernel<<<grid, s.threads, 0, stream>>>(from, extra, table, pixels, channels, s.rows, s.chunk, to);
        };
        if (silu) {
            extra ? run(normalise<T, N, true, true>) : run(normalise<T, N, true, false>);
        } else {
            extra ? run(normalise<T, N, false, true>) : run(normalise<T, N, false, false>);
        }
        return launched();
    });
}

// y (batch, channels): the mean of x (batch, pixels, channels) over pixels, summed in f32, rounded once. `scratch` as for
// a norm of `channels` groups.
MARQUEE_EXPORT int marquee_pixel_mean(int format, const void* x, void* y, void* scratch, int batch, int64_t pixels, int channels,
                       cudaStream_t stream) {
    using namespace marquee;
    return by_format(format, channels, [&](auto zero, auto length) {
        using T = decltype(zero);
        constexpr int N = decltype(length)::value;
        auto* partial = static_cast<Moments*>(scratch);
        Chunks chunks{};
        if (int error = statistics<T, N>(static_cast<const T*>(x), nullptr, partial, batch, pixels, channels, channels,
                                         stream, chunks)) {
            return error;
        }
        auto* whole = reinterpret_cast<Moments*>(static_cast<char*>(scratch) + moments_room(batch, channels));
        finish<<<(batch * channels + 7) / 8, 256, 0, stream>>>(partial, whole, chunks, batch);
        means<<<(batch * channels + 255) / 256, 256, 0, stream>>>(whole, static_cast<T*>(y), batch * channels);
        return launched();
    });
}
