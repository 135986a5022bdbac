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

#include <cuda_pipeline_primitives.h>

#include <atomic>

#include "early.cuh"
#include "lanes.cuh"

namespace marquee {
namespace {

struct alignas(8) Moments {
    float mean, squares;
};

// Sums of 32 lanes' numbers, of several at once.
template <int K> __device__ __forceinline__ void sum_each(float (&x)[K]) {
#pragma unroll
    for (int offset = 16; offset; offset /= 2) {
#pragma unroll
        for (int k = 0; k < K; ++k) x[k] += __shfl_xor_sync(~0u, x[k], offset);
    }
}

// How a picture is cut: chunks of `chunk` pixels, of which a block of `moments` takes one.
struct Chunks {
    int64_t pixels, chunk;
    int count, groups, width;  // width: channels of a group
};

// Groups that a warp merges at once, so that their latencies are one.
constexpr int kAtOnce = 4;
// Entries of a chunk that lanes of `finish` add, each its own, and groups of a round: both a warp's.
constexpr int kLanes = 32;
// At least as many warps has every block of `moments` (`split`).
constexpr int kLeastWarps = 4;
// Pixels under way to a thread, and threads of a block up to which there is room for so many: for all but very many
// channels.
constexpr int kAhead = 5, kUsual = 384, kLeastAhead = 1;

// How many blocks of a launch are done, of recent launches one after the other: zero before and after each.
constexpr unsigned kCounters = 4096;
__device__ unsigned done[kCounters];

// By a whole block: the moments of all chunks of a picture, as (mean, 1 / sqrt(variance + eps)) of each group. Warps take
// entries 32 apart, each lane those of its group; sums are added as a warp's lanes would add them.
__device__ void finish(const Moments* partial, float2* whole, const Chunks& chunks, float eps) {
    __shared__ float sums[kLanes][kLanes + 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    constexpr int most = kLanes / kLeastWarps;
    const auto add_up = [&](float (&mine)[most]) {
        __syncthreads();
#pragma unroll
        for (int k = 0; k < most; ++k) {
            if (warp + k * warps < kLanes) sums[warp + k * warps][lane] = mine[k];
        }
        __syncthreads();
        // As 32 lanes would: those 16 apart, then those 8 apart, and so on.
        float all[kLanes / 2];
#pragma unroll
        for (int k = 0; k < kLanes / 2; ++k) all[k] = sums[k][lane] + sums[k + kLanes / 2][lane];
#pragma unroll
        for (int k = 0; k < 8; ++k) all[k] += all[k + 8];
#pragma unroll
        for (int k = 0; k < 4; ++k) all[k] += all[k + 4];
        return (all[0] + all[2]) + (all[1] + all[3]);
    };
    const float total = static_cast<float>(chunks.pixels * chunks.width);
    // Numbers of a group in a chunk, and in the last.
    const int64_t rest = chunks.pixels - (chunks.count - 1) * chunks.chunk;
    const float full = static_cast<float>(chunks.chunk * chunks.width), less = static_cast<float>(rest * chunks.width);
    const auto weight = [&](int i) { return i + 1 < chunks.count ? full : less; };
    for (int first = 0; first < chunks.groups; first += kLanes) {
        const int group = min(first + lane, chunks.groups - 1);
        // Past the first-level cache, which may hold what other blocks have written since.
        const auto entry = [&](int i) {
            const float2 bits = __ldcg(reinterpret_cast<const float2*>(partial) + i * chunks.groups + group);
            return Moments{bits.x, bits.y};
        };
        float mine[most] = {};
        for (int start = warp; start < chunks.count; start += kLanes) {
            Moments m[most];
#pragma unroll
            for (int k = 0; k < most; ++k) {
                if (warp + k * warps < kLanes) m[k] = entry(min(start + k * warps, chunks.count - 1));
            }
#pragma unroll
            for (int k = 0; k < most; ++k) {
                const int i = start + k * warps;
                if (warp + k * warps < kLanes && i < chunks.count) mine[k] += weight(i) * m[k].mean;
            }
        }
        const float mean = add_up(mine) / total;
#pragma unroll
        for (int k = 0; k < most; ++k) mine[k] = 0.0f;
        for (int start = warp; start < chunks.count; start += kLanes) {
            Moments m[most];
#pragma unroll
            for (int k = 0; k < most; ++k) {
                if (warp + k * warps < kLanes) m[k] = entry(min(start + k * warps, chunks.count - 1));
            }
#pragma unroll
            for (int k = 0; k < most; ++k) {
                const int i = start + k * warps;
                const float off = m[k].mean - mean;
                if (warp + k * warps < kLanes && i < chunks.count) {
                    mine[k] += m[k].squares + weight(i) * off * off;
                }
            }
        }
        const float variance = add_up(mine) / total;
        if (warp == 0 && first + lane < chunks.groups) whole[group] = make_float2(mean, rsqrtf(variance + eps));
    }
}

// Grid (chunks, batch), block (packs a pixel, rows) flattened: each block the moments of its pixels, one entry a group; the
// last block of a picture merges them. Ahead pixels are under way to each thread. `counter` is the launch's first.
template <typename T, int N, bool Shift, int Ahead>
__global__ void __launch_bounds__(Ahead == kAhead ? kUsual : 1024)
    moments(const T* __restrict__ x, const T* __restrict__ shift, Moments* __restrict__ partial, float2* __restrict__ whole,
            Chunks chunks, int rows, float eps, unsigned counter) {
    in_order();
    using Part = Lanes<T, N>;
    // First (Ahead + 1, threads) parts of pixels, where a thread reads only what it fetched itself; then moments (rows, N,
    // stride), so that neighbours' lie side by side.
    extern __shared__ int4 room[];
    auto* held = reinterpret_cast<Part*>(room) + threadIdx.x;
    auto* entries = reinterpret_cast<Moments*>(room);
    const int groups = chunks.groups, width = chunks.width, channels = groups * width;
    const int packs = channels / N, stride = packs | 1;
    const int column = threadIdx.x % packs, row = threadIdx.x / packs;
    const int64_t first = blockIdx.x * chunks.chunk;
    const int pixels = static_cast<int>(min(chunks.chunk, chunks.pixels - first));
    const T* from = x + (blockIdx.y * chunks.pixels + first) * channels + column * N;
    // Pixels of a row, and one more in the first rows.
    const int each = pixels / rows, more = pixels % rows;
    const auto seen = [&](int r) { return each + (r < more ? 1 : 0); };
    float base[N], sum[N], squares[N];
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = squares[i] = base[i] = 0.0f;
    if (row < rows && row < pixels) {
        Part extra;
        if (Shift) extra = Part::load(shift + blockIdx.y * channels + column * N);
        const auto fetch = [&](int pixel, int slot) {
            if (pixel < pixels) {
                Part& to = held[slot * static_cast<int>(blockDim.x)];
                const T* at = from + static_cast<int64_t>(pixel) * channels;
                if constexpr (sizeof(Part) >= 4) {
                    __pipeline_memcpy_async(&to, at, sizeof(Part));
                } else {
                    to = Part::load(at);
                }
            }
            __pipeline_commit();
        };
        const auto value = [&](const Part& v, int i) { return Shift ? rounded<T>(v[i] + extra[i]) : v[i]; };
#pragma unroll
        for (int slot = 0; slot < Ahead; ++slot) fetch(row + slot * rows, slot);
        __pipeline_wait_prior(Ahead - 1);
        const Part seen_first = held[0];
#pragma unroll
        for (int i = 0; i < N; ++i) base[i] = value(seen_first, i);
        int slot = 0;
        for (int pixel = row; pixel < pixels; pixel += rows) {
            fetch(pixel + Ahead * rows, slot == 0 ? Ahead : slot - 1);
            __pipeline_wait_prior(Ahead);
            const Part v = held[slot * static_cast<int>(blockDim.x)];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const float off = value(v, i) - base[i];
                sum[i] += off;
                squares[i] += off * off;
            }
            slot = slot == Ahead ? 0 : slot + 1;
        }
    }
    __syncthreads();
    if (row < rows) {
        const float count = static_cast<float>(max(seen(row), 1));
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float off = sum[i] / count;
            entries[(row * N + i) * stride + column] = {base[i] + off, fmaxf(squares[i] - sum[i] * off, 0.0f)};
        }
    }
    __syncthreads();
    // Of a group's entries, row by row, a lane has every 32nd.
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32, count = rows * width;
    const float total = static_cast<float>(static_cast<int64_t>(pixels) * width);
    const int down = 32 / width, across = 32 % width;
    const auto over_entries = [&](auto body) {
        int r = lane / width, c = lane % width;
        for (int i = lane; i < count; i += 32) {
            body(static_cast<float>(seen(r)), r, c);
            r += down;
            c += across;
            if (c >= width) {
                c -= width;
                ++r;
            }
        }
    };
    for (int start = threadIdx.x / 32; start < groups; start += kAtOnce * warps) {
        const auto entry = [&](int k, int r, int c) {
            const unsigned channel = min(start + k * warps, groups - 1) * width + c;
            return entries[(r * N + channel % N) * stride + channel / N];
        };
        float mean[kAtOnce] = {}, squares[kAtOnce] = {};
        over_entries([&](float weight, int r, int c) {
#pragma unroll
            for (int k = 0; k < kAtOnce; ++k) mean[k] += weight * entry(k, r, c).mean;
        });
        sum_each(mean);
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) mean[k] /= total;
        over_entries([&](float weight, int r, int c) {
#pragma unroll
            for (int k = 0; k < kAtOnce; ++k) {
                const Moments m = entry(k, r, c);
                const float off = m.mean - mean[k];
                squares[k] += m.squares + weight * off * off;
            }
        });
        sum_each(squares);
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            const int group = start + k * warps;
            if (lane == 0 && group < groups) {
                partial[(blockIdx.y * gridDim.x + blockIdx.x) * static_cast<int64_t>(groups) + group] = {mean[k], squares[k]};
            }
        }
    }
    // Entries are written before they are counted, and counted before they are read.
    __threadfence();
    __syncthreads();
    __shared__ bool last;
    if (threadIdx.x == 0) {
        // The last one leaves a zero.
        last = atomicInc(&done[(counter + blockIdx.y) % kCounters], gridDim.x - 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (last) {
        finish(partial + blockIdx.y * static_cast<int64_t>(chunks.count) * groups, whole + blockIdx.y * groups, chunks, eps);
    }
}

template <typename T>
__global__ void means(const float2* __restrict__ whole, T* __restrict__ y, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) y[index] = narrow<T>(whole[index].x);
}

// Grid (chunks, batch), block (packs a pixel, rows) flattened: a thread stays with its channels, whose factors it keeps in
// registers, and goes from pixel to pixel. `whole` (batch, groups) as `finish` leaves it.
template <typename T, int N, bool Silu, bool Shift>
__global__ void normalise(const T* __restrict__ x, const T* __restrict__ shift, const float2* __restrict__ whole,
                          const T* __restrict__ weight, const T* __restrict__ bias, int64_t pixels, int channels,
                          int groups, int rows, int64_t chunk, T* __restrict__ y) {
    in_order();
    const int packs = channels / N;
    const int column = threadIdx.x % packs, row = threadIdx.x / packs;
    if (row >= rows) return;
    float scale[N], offset[N], extra[N];
    const int width = channels / groups;
    const auto weights = Lanes<T, N>::load(weight + column * N), biases = Lanes<T, N>::load(bias + column * N);
    Lanes<T, N> shifts;
    if (Shift) shifts = Lanes<T, N>::load(shift + static_cast<int64_t>(blockIdx.y) * channels + column * N);
    int group = column * N / width, within = column * N % width;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float2 moments = whole[blockIdx.y * groups + group];
        scale[i] = moments.y * weights[i];
        offset[i] = biases[i] - moments.x * scale[i];
        extra[i] = Shift ? shifts[i] : 0.0f;
        if (++within == width) {
            within = 0;
            ++group;
        }
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

// The moments of each group of each picture, as `finish` leaves them, after those of chunks in `scratch`.
template <typename T, int N>
int statistics(const T* x, const T* shift, void* scratch, float2* whole, int batch, int64_t pixels, int channels,
               int groups, float eps, cudaStream_t stream) {
    static std::atomic<unsigned> launches{0};
    const Split s = split(batch, pixels, channels / N, kBlocks, 8);
    const bool usual = s.threads <= kUsual;
    const size_t entries = static_cast<size_t>(s.rows) * N * (channels / N | 1) * sizeof(Moments);
    const size_t held = static_cast<size_t>(s.threads) * ((usual ? kAhead : kLeastAhead) + 1) * sizeof(Lanes<T, N>);
    const size_t shared = entries > held ? entries : held;
    if (s.threads > 1024 || s.threads < 32 * kLeastWarps || shared > 40 * 1024 ||
        s.chunk > INT32_MAX / 8 || batch > static_cast<int>(kCounters)) {
        return static_cast<int>(cudaErrorInvalidValue);
    }
    const Chunks chunks{pixels, s.chunk, s.chunks, groups, channels / groups};
    // Launches that may run at once count on their own.
    const unsigned counter = launches.fetch_add(batch);
    const auto run = [&](auto kernel) {
        return launch_early(kernel, dim3(s.chunks, batch), s.threads, shared, stream, x, shift,
                            static_cast<Moments*>(scratch), whole, chunks, s.rows, eps, counter);
    };
    if (!usual) return shift ? run(moments<T, N, true, kLeastAhead>) : run(moments<T, N, false, kLeastAhead>);
    return shift ? run(moments<T, N, true, kAhead>) : run(moments<T, N, false, kAhead>);
}

// Room for the moments of all chunks: a chunk more a picture than blocks divide, rounded to what a table may begin at.
size_t moments_room(int batch, int groups) {
    const size_t bytes = static_cast<size_t>(kBlocks * multiprocessors() + batch) * groups * sizeof(Moments);
    return (bytes + 255) / 256 * 256;
}

}  // namespace
}  // namespace marquee

// Bytes of `scratch` that the functions below need.
MARQUEE_EXPORT size_t marquee_group_norm_scratch(int batch, int groups) {
    return marquee::moments_room(batch, groups) + static_cast<size_t>(batch) * groups * sizeof(float2);
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
        auto* whole = reinterpret_cast<float2*>(static_cast<char*>(scratch) + moments_room(batch, groups));
        if (int error = statistics<T, N>(from, extra, scratch, whole, batch, pixels, channels, groups, eps, stream)) return error;
        const Split s = split(batch, pixels, channels / N, 8, 4);
        const dim3 grid(s.chunks, batch);
        const auto run = [&](auto kernel) {
            return launch_early(kernel, grid, s.threads, 0, stream, from, extra, whole, static_cast<const T*>(weight),
                                static_cast<const T*>(bias), pixels, channels, groups, s.rows, s.chunk, static_cast<T*>(y));
        };
        if (silu) return extra ? run(normalise<T, N, true, true>) : run(normalise<T, N, true, false>);
        return extra ? run(normalise<T, N, false, true>) : run(normalise<T, N, false, false>);
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
        auto* whole = reinterpret_cast<float2*>(static_cast<char*>(scratch) + moments_room(batch, channels));
        if (int error = statistics<T, N>(static_cast<const T*>(x), nullptr, scratch, whole, batch, pixels, channels, channels,
                                         1.0f, stream)) {
            return error;
        }
        means<<<(batch * channels + 255) / 256, 256, 0, stream>>>(whole, static_cast<T*>(y), batch * channels);
        return launched();
    });
}
