// Attention inside the windows of a Swin transformer, read from and written to the map as it lies.
//
//   out[q] = sum over k of softmax(scale <Q[q], K[k]> + table[distance(q, k)][head] + border(q, k)) V[k]
//
// for the `Window`² tokens of each window and each head of 32 channels. The map is moved up and left by `shift` before it
// is cut, and filled up with zeros below and to the right to whole windows; queries, keys and values of filled-up places
// are the projection's bias, as those of zeros are. In a moved map the last row and column of windows hold tokens from
// opposite borders, which must not see each other: border = -inf.
//
// Rounding: scores and softmax f32; weights are rounded before they are multiplied with V, sums are f32, one rounding at
// the end. Source: Liu et al. 2021, Swin Transformer; the fragments' layout from the PTX manual, mma.m16n8k16.
// Bytes: q, k, v are read once for each window, out written once. FLOPs: 4 * 32 * tokens² a head and window.

#include "lanes.cuh"

namespace marquee {
namespace {

constexpr int kHead = 32;
// Halves between two tokens in shared memory: eight rows of 16 bytes then lie in different banks.
constexpr int kStride = kHead + 8;

template <typename T>
struct Tensorcore;

template <>
struct Tensorcore<__half> {
    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
    static __device__ __forceinline__ uint32_t pair(float low, float high) {
        const __half2 both = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&both);
    }
};

template <>
struct Tensorcore<__nv_bfloat16> {
    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
    static __device__ __forceinline__ uint32_t pair(float low, float high) {
        const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&both);
    }
};

// Four 8 x 8 matrices; lane i gives the address of row i % 8 of matrix i / 8.
template <bool Transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if (Transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address));
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address));
    }
}

// Grid (window columns, window rows, batch * heads); one warp for each 16 queries.
template <typename T, int Window>
__global__ void __launch_bounds__((Window * Window + 15) / 16 * 32)
    window_attention(const T* __restrict__ qkv, const T* __restrict__ bias, const T* __restrict__ table,
                     T* __restrict__ out, int height, int width, int heads, int shift, float scale) {
    constexpr int kTokens = Window * Window;
    constexpr int kPadded = (kTokens + 15) / 16 * 16;
    constexpr int kTiles = kPadded / 8;
    constexpr int kSpan = 2 * Window - 1;
    __shared__ alignas(16) T shared[3][kPadded * kStride];
    __shared__ float distances[kSpan * kSpan];
    __shared__ short codes[kPadded];
    __shared__ signed char sides[kPadded];
    __shared__ int places[kPadded];  // pixel of a token; -1: filled up

    const int head = blockIdx.z % heads, item = blockIdx.z / heads;
    const int channels = heads * kHead;
    const bool lower = shift > 0 && blockIdx.y + 1 == gridDim.y, right = shift > 0 && blockIdx.x + 1 == gridDim.x;
    const int padded_height = gridDim.y * Window, padded_width = gridDim.x * Window;
    for (int token = threadIdx.x; token < kPadded; token += blockDim.x) {
        const int row = token / Window, column = token % Window;
        codes[token] = static_cast<short>(row * kSpan + column);
        const int side = (lower && row >= Window - shift ? 2 : 0) + (right && column >= Window - shift ? 1 : 0);
        sides[token] = static_cast<signed char>(token < kTokens ? side : -1);
        const int y = (blockIdx.y * Window + row + shift) % padded_height;
        const int x = (blockIdx.x * Window + column + shift) % padded_width;
        places[token] = token < kTokens && y < height && x < width ? y * width + x : -1;
    }
    for (int i = threadIdx.x; i < kSpan * kSpan; i += blockDim.x) distances[i] = wide(table[i * heads + head]);
    __syncthreads();

    const T* map = qkv + static_cast<int64_t>(item) * height * width * 3 * channels + head * kHead;
    constexpr int kPacks = kHead / 8;
    for (int i = threadIdx.x; i < 3 * kPadded * kPacks; i += blockDim.x) {
        const int pack = i % kPacks, token = i / kPacks % kPadded, part = i / (kPacks * kPadded);
        T* to = &shared[part][token * kStride + pack * 8];
        const int place = places[token];
        const int channel = part * channels + pack * 8;
        if (place >= 0) {
            Lanes<T, 8>::load(map + static_cast<int64_t>(place) * 3 * channels + channel).store(to);
        } else if (token < kTokens) {
            Lanes<T, 8>::load(bias + head * kHead + channel).store(to);
        } else {
            Lanes<T, 8> nothing;
            for (int k = 0; k < 8; ++k) nothing.set(k, 0.0f);
            nothing.store(to);
        }
    }
    __syncthreads();

    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
    const int quad = lane / 4, pair = lane % 4 * 2;
    // Queries (16 rows, 32 channels) as two fragments.
    uint32_t query[2][4];
    for (int k = 0; k < 2; ++k) {
        load_matrices<false>(query[k], &shared[0][(first + lane % 16) * kStride + k * 16 + lane / 16 * 8]);
    }
    float score[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
        uint32_t key[4];
        load_matrices<false>(key, &shared[1][(tile * 8 + lane % 8) * kStride + lane / 8 * 8]);
        for (int i = 0; i < 4; ++i) score[tile][i] = 0.0f;
        Tensorcore<T>::multiply(score[tile], query[0], key[0], key[1]);
        Tensorcore<T>::multiply(score[tile], query[1], key[2], key[3]);
    }

    const int rows[2] = {first + quad, first + quad + 8};
    constexpr int kCentre = (Window - 1) * kSpan + Window - 1;
    constexpr float kLog2e = 1.4426950408889634f;
    float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = rows[i / 2], column = tile * 8 + pair + i % 2;
            const bool seen = sides[column] >= 0 && (sides[column] == sides[row] || sides[row] < 0);
            const int distance = row < kTokens ? codes[row] - codes[column] + kCentre : 0;
            const float value =
                seen ? (score[tile][i] * scale + distances[seen ? distance : 0]) * kLog2e : -INFINITY;
            score[tile][i] = value;
            most[i / 2] = fmaxf(most[i / 2], value);
        }
    }
    float sum[2] = {0.0f, 0.0f};
    for (int r = 0; r < 2; ++r) {
        most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 1));
        most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 2));
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            score[tile][i] = exp2f(score[tile][i] - most[i / 2]);
            sum[i / 2] += score[tile][i];
        }
    }
    for (int r = 0; r < 2; ++r) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }

    float mixed[kHead / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kTiles / 2; ++step) {
        const auto& low = score[2 * step];
        const auto& high = score[2 * step + 1];
        const uint32_t weights[4] = {Tensorcore<T>::pair(low[0], low[1]), Tensorcore<T>::pair(low[2], low[3]),
                                     Tensorcore<T>::pair(high[0], high[1]), Tensorcore<T>::pair(high[2], high[3])};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t value[4];
            load_matrices<true>(
                value, &shared[2][(step * 16 + lane % 16) * kStride + half * 16 + lane / 16 * 8]);
            Tensorcore<T>::multiply(mixed[2 * half], weights, value[0], value[1]);
            Tensorcore<T>::multiply(mixed[2 * half + 1], weights, value[2], value[3]);
        }
    }
    T* to = out + static_cast<int64_t>(item) * height * width * channels + head * kHead + pair;
    for (int r = 0; r < 2; ++r) {
        const int place = rows[r] < kTokens ? places[rows[r]] : -1;
        if (place < 0) continue;
        const float inverse = 1.0f / sum[r];
        for (int tile = 0; tile < kHead / 8; ++tile) {
            *reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(place) * channels + tile * 8) =
                Tensorcore<T>::pair(mixed[tile][2 * r] * inverse, mixed[tile][2 * r + 1] * inverse);
        }
    }
}

template <typename T>
int launch(const void* qkv, const void* bias, const void* table, void* out, int batch, int height, int width, int heads,
           int window, int shift, float scale, cudaStream_t stream) {
    const dim3 grid((width + window - 1) / window, (height + window - 1) / window, batch * heads);
    const auto with = [&](auto kernel, int tokens) {
        kernel<<<grid, (tokens + 15) / 16 * 32, 0, stream>>>(
            static_cast<const T*>(qkv), static_cast<const T*>(bias), static_cast<const T*>(table), static_cast<T*>(out),
            height, width, heads, shift, scale);
        return launched();
    };
    switch (window) {
        case 7:
            return with(window_attention<T, 7>, 49);
        case 12:
            return with(window_attention<T, 12>, 144);
        default:
            return static_cast<int>(cudaErrorInvalidValue);
    }
}

}  // namespace
}  // namespace marquee

// qkv (batch, height, width, 3 heads * 32): queries, keys, values; bias (3 heads * 32); table ((2 window - 1)², heads); out
// (batch, height, width, heads * 32). f16 (1) or bf16 (2); windows of 7 or 12.
MARQUEE_EXPORT int marquee_window_attention(int format, const void* qkv, const void* bias, const void* table, void* out, int batch,
                             int height, int width, int heads, int window, int shift, float scale, cudaStream_t stream) {
    using namespace marquee;
    switch (format) {
        case 1:
            return launch<__half>(qkv, bias, table, out, batch, height, width, heads, window, shift, scale, stream);
        case 2:
            return launch<__nv_bfloat16>(qkv, bias, table, out, batch, height, width, heads, window, shift, scale, stream);
        default:
            return static_cast<int>(cudaErrorInvalidValue);
    }
}
