// Attention of our own: o = softmax(q kᵀ scale + bias) v in 16-bit formats; scores, softmax and sums in f32, the weights
// rounded to the format before they meet v, one rounding to o. For short sequences (text encoders, cross attention,
// windows), where building one of cuDNN's plans costs more than all the work, and for machines without cuDNN.
//
// A block of 4 warps takes 64 queries of one head and walks over the keys in tiles of 64 with a running maximum and sum
// (Milakov and Gimelshein 2018; Dao 2023, FlashAttention-2). Products are mma.sync m16n8k16, which every card from sm_80
// on has. K and V come through cp.async into two stages of shared memory, whose 16-byte columns are swizzled so that
// ldmatrix meets no bank twice. FLOPs: 4 batch heads queries keys dim.
#include "attention.h"
#include "early.cuh"
#include "numeric.cuh"

#include <type_traits>

namespace {
using namespace marquee;

constexpr int kWarps = 4, kQueries = 16 * kWarps, kKeys = 64;

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes to shared memory, or 16 zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(there ? 16 : 0));
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

template <typename T>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void multiply<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                        uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pair(float low, float high, __half) {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
}

__device__ __forceinline__ uint32_t pair(float low, float high, __nv_bfloat16) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
}

// A tile of rows of D 16-bit numbers: byte offset of 16-byte column `column` of `row`.
template <int D> __device__ __forceinline__ uint32_t place(int row, int column) {
    constexpr int COLUMNS = D / 8;
    const int swizzled = COLUMNS >= 8 ? column ^ (row & 7) : column ^ ((row >> 1) & 3);
    return static_cast<uint32_t>((row * COLUMNS + swizzled) * 16);
}

template <typename T, int D, int ROWS>
__device__ __forceinline__ void fill(uint32_t tile, const T* from, int64_t distance, int64_t first, int64_t rows,
                                     int columns) {
    constexpr int COLUMNS = D / 8;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += kWarps * 32) {
        const int row = i / COLUMNS, column = i % COLUMNS;
        const bool there = first + row < rows && column < columns;
        copy_async(tile + place<D>(row, column), there ? from + (first + row) * distance + column * 8 : from, there);
    }
}

// Two neighbours of the bias, of which only those that are there are read. `even`: the pair may be read at once.
template <typename B>
__device__ __forceinline__ float2 bias_at(const B* bias, bool even, bool first, bool second) {
    if (even && second) return wide(*reinterpret_cast<const PairOf<B>*>(bias));
    return make_float2(first ? wide(bias[0]) : 0.0f, second ? wide(bias[1]) : 0.0f);
}

// The bias' format where there is none.
struct None {};

template <typename T, int D, typename B>
__global__ void __launch_bounds__(kWarps * 32)
    attend(const MarqueeAttention a, const T* q, const T* k, const T* v, const B* bias, T* o) {
    in_order();
    constexpr bool BIAS = !std::is_same_v<B, None>;
    extern __shared__ __align__(128) unsigned char memory[];
    constexpr float kLog2e = 1.4426950408889634f;
    constexpr uint32_t kTile = kKeys * D * 2;
    const uint32_t q_tile = shared_address(memory), k_tiles = q_tile + kQueries * D * 2, v_tiles = k_tiles + 2 * kTile;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t first_query = int64_t(blockIdx.x) * kQueries;
    const int head = blockIdx.y, batch = blockIdx.z, columns = static_cast<int>(a.dim / 8);
    q += batch * a.q_stride[0] + head * a.q_stride[2];
    k += batch * a.k_stride[0] + head * a.k_stride[2];
    v += batch * a.v_stride[0] + head * a.v_stride[2];
    o += batch * a.o_stride[0] + head * a.o_stride[2];

    const int64_t keys = a.causal && first_query + kQueries < a.keys ? first_query + kQueries : a.keys;
    const int tiles = static_cast<int>((keys + kKeys - 1) / kKeys);
    fill<T, D, kQueries>(q_tile, q, a.q_stride[1], first_query, a.queries, columns);
    fill<T, D, kKeys>(k_tiles, k, a.k_stride[1], 0, a.keys, columns);
    fill<T, D, kKeys>(v_tiles, v, a.v_stride[1], 0, a.keys, columns);
    asm volatile("cp.async.commit_group;\n");

    uint32_t q_parts[D / 16][4];
    float sums[2] = {0.0f, 0.0f}, highest[2] = {-INFINITY, -INFINITY};
    float out[D / 8][4];
#pragma unroll
    for (auto& tile : out) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
    // This thread's rows of the accumulators, and its first column in each 8.
    const int64_t rows[2] = {first_query + warp * 16 + lane / 4, first_query + warp * 16 + lane / 4 + 8};
    const int pair_column = lane % 4 * 2;
    int64_t bias_row[2] = {0, 0};
    bool even = false;
    if constexpr (BIAS) {
        const int64_t base = (a.bias_batch > 1 ? batch * a.bias_stride[0] : 0) + (a.bias_heads > 1 ? head * a.bias_stride[1] : 0);
        bias_row[0] = base + rows[0] * a.bias_stride[2];
        bias_row[1] = base + rows[1] * a.bias_stride[2];
        // Then every pair begins at a multiple of its size.
        even = (base | a.bias_stride[2]) % 2 == 0 && reinterpret_cast<uintptr_t>(bias) % 8 == 0;
    }

    for (int t = 0; t < tiles; t++) {
        const int stage = t % 2;
        if (t + 1 < tiles) {
            fill<T, D, kKeys>(k_tiles + (1 - stage) * kTile, k, a.k_stride[1], int64_t(t + 1) * kKeys, a.keys, columns);
            fill<T, D, kKeys>(v_tiles + (1 - stage) * kTile, v, a.v_stride[1], int64_t(t + 1) * kKeys, a.keys, columns);
            asm volatile("cp.async.commit_group;\n");
            asm volatile("cp.async.wait_group 1;\n");
        } else {
            asm volatile("cp.async.wait_group 0;\n");
        }
        __syncthreads();
        if (t == 0) {
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                load_matrices(q_parts[c], q_tile + place<D>(warp * 16 + lane % 16, 2 * c + lane / 16));
            }
        }
        const uint32_t k_tile = k_tiles + stage * kTile, v_tile = v_tiles + stage * kTile;
        const int64_t first_key = int64_t(t) * kKeys;

        // Asked for before the product, needed after it.
        float2 added[BIAS ? kKeys / 8 : 1][2];
        if constexpr (BIAS) {
#pragma unroll
            for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int64_t key = first_key + n * 8 + pair_column;
                    const bool row = rows[r] < a.queries;
                    added[n][r] =
                        bias_at(bias + bias_row[r] + key, even, row && key < a.keys, row && key + 1 < a.keys);
                }
            }
        }

        float scores[kKeys / 8][4];
#pragma unroll
        for (auto& tile : scores) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
#pragma unroll
            for (int n = 0; n < kKeys / 16; n++) {
                uint32_t b[4];
                load_matrices(b, k_tile + place<D>(n * 16 + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2));
                multiply<T>(scores[2 * n], q_parts[c], b[0], b[1]);
                multiply<T>(scores[2 * n + 1], q_parts[c], b[2], b[3]);
            }
        }

        const bool ragged = first_key + kKeys > a.keys || (a.causal && first_key + kKeys > first_query);
        float top[2] = {highest[0], highest[1]};
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int64_t key = first_key + n * 8 + pair_column + i % 2, row = rows[i / 2];
                float score = scores[n][i] * a.scale;
                if constexpr (BIAS) score += i % 2 ? added[n][i / 2].y : added[n][i / 2].x;
                score *= kLog2e;
                if (ragged && (key >= a.keys || (a.causal && key > row))) score = -INFINITY;
                scores[n][i] = score;
                top[i / 2] = fmaxf(top[i / 2], score);
            }
        }
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
            // A row that saw only -inf so far: subtract nothing, so that exp2 gives 0 and not NaN.
            const float base = top[r] == -INFINITY ? 0.0f : top[r];
            shrink[r] = exp2f(highest[r] - base);
            highest[r] = top[r];
            top[r] = base;
            sums[r] *= shrink[r];
        }
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[n][i] = exp2f(scores[n][i] - top[i / 2]);
                sums[i / 2] += scores[n][i];
            }
        }
#pragma unroll
        for (auto& tile : out) {
            tile[0] *= shrink[0], tile[1] *= shrink[0];
            tile[2] *= shrink[1], tile[3] *= shrink[1];
        }
#pragma unroll
        for (int n = 0; n < kKeys / 16; n++) {
            const uint32_t weights[4] = {
                pair(scores[2 * n][0], scores[2 * n][1], T()), pair(scores[2 * n][2], scores[2 * n][3], T()),
                pair(scores[2 * n + 1][0], scores[2 * n + 1][1], T()), pair(scores[2 * n + 1][2], scores[2 * n + 1][3], T())};
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                uint32_t b[4];
                load_matrices_transposed(b, v_tile + place<D>(n * 16 + lane / 8 % 2 * 8 + lane % 8, 2 * c + lane / 16));
                multiply<T>(out[2 * c], weights, b[0], b[1]);
                multiply<T>(out[2 * c + 1], weights, b[2], b[3]);
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], 1);
        sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], 2);
        const float inverse = 1.0f / sums[r];
        if (rows[r] >= a.queries) continue;
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            if (c * 8 >= a.dim) continue;
            *reinterpret_cast<uint32_t*>(o + rows[r] * a.o_stride[1] + c * 8 + pair_column) =
                pair(out[c][2 * r] * inverse, out[c][2 * r + 1] * inverse, T());
        }
    }
}

template <typename T, int D>
int launch(const MarqueeAttention& a, const void* q, const void* k, const void* v, const void* bias, void* o,
           cudaStream_t stream) {
    constexpr int bytes = (kQueries + 4 * kKeys) * D * 2;
    const dim3 grid(static_cast<unsigned>((a.queries + kQueries - 1) / kQueries), static_cast<unsigned>(a.heads),
                    static_cast<unsigned>(a.batch));
    auto go = [&](auto kernel, auto* added) -> int {
        if constexpr (bytes > 48 * 1024) {
            const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
            if (error != cudaSuccess) return error;
        }
        return launch_early(kernel, grid, kWarps * 32, bytes, stream, a, static_cast<const T*>(q), static_cast<const T*>(k),
                            static_cast<const T*>(v), added, static_cast<T*>(o));
    };
    if (!bias) return go(attend<T, D, None>, static_cast<const None*>(nullptr));
    if (a.bias_format == F32) return go(attend<T, D, float>, static_cast<const float*>(bias));
    // In 16 bits the bias has the format of the rest.
    return a.bias_format == a.format ? go(attend<T, D, T>, static_cast<const T*>(bias)) : int(cudaErrorInvalidValue);
}

template <typename T>
int launch(const MarqueeAttention& a, const void* q, const void* k, const void* v, const void* bias, void* o,
           cudaStream_t stream) {
    if (a.dim <= 32) return launch<T, 32>(a, q, k, v, bias, o, stream);
    if (a.dim <= 64) return launch<T, 64>(a, q, k, v, bias, o, stream);
    return launch<T, 128>(a, q, k, v, bias, o, stream);
}
}  // namespace

// f16 or bf16, dim a multiple of 8 up to 128, batch and heads up to 65535. `bias` may be null, else it is f32 or of q's
// format.
MARQUEE_EXPORT int marquee_attention_own(const MarqueeAttention* a, const void* q, const void* k, const void* v,
                                         const void* bias, void* o, cudaStream_t stream) {
    if (a->dim % 8 != 0 || a->dim > 128 || a->batch > 65535 || a->heads > 65535) return cudaErrorInvalidValue;
    if (a->batch * a->heads * a->queries == 0) return cudaSuccess;
    if (a->format == F16) return launch<__half>(*a, q, k, v, bias, o, stream);
    if (a->format == BF16) return launch<__nv_bfloat16>(*a, q, k, v, bias, o, stream);
    return cudaErrorInvalidValue;
}
