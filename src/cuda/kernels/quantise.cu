// Rows of 16-bit numbers to e4m3 with a scale each: q scale = x, scale = max |x| / 448. Weights at load (a row an output),
// activations before a product that nothing writes in 8 bits.
//
// A row may have e4m3 numbers without a scale before those of 16 bits: attention's output in front of the feed forward's. Both
// leave with the row's scale.
//
// The row is read twice: the second time it comes from the cache. Bytes moved: 2 a number in (1 of those in 8 bits), 1 out.
#include "early.cuh"
#include "eight.cuh"
#include "numeric.cuh"

namespace {
using namespace marquee;

// A block a row: `before` packs of e4m3, adjacent from row to row, then `packs` of T.
template <typename T>
__global__ void quantise(const uint8_t* eight, int before, const T* x, int64_t x_row, uint8_t* out, int64_t out_row,
                         float* scales, int packs) {
    constexpr int N = Pack<T>::N;
    __shared__ float scratch[32];
    in_order();
    eight += blockIdx.x * int64_t(before) * N;
    x += blockIdx.x * x_row;
    out += blockIdx.x * out_row;
    float largest = 0.0f;
    for (int pack = threadIdx.x; pack < before; pack += blockDim.x) {
        float values[N];
        load_eight(eight + pack * N, values);
#pragma unroll
        for (int j = 0; j < N; j++) largest = fmaxf(largest, fabsf(values[j]));
    }
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
        const Pack<T> numbers = load(x + pack * N);
#pragma unroll
        for (int j = 0; j < N; j++) largest = fmaxf(largest, fabsf(wide(numbers.at[j])));
    }
    const float scale = row_scale(block_max(largest, scratch));
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int pack = threadIdx.x; pack < before; pack += blockDim.x) {
        float values[N];
        load_eight(eight + pack * N, values);
        store_eight<N>(out + pack * N, values, 1.0f / scale);
    }
    out += before * N;
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
        const Pack<T> numbers = load_once(x + pack * N);
        float values[N];
#pragma unroll
        for (int j = 0; j < N; j++) values[j] = wide(numbers.at[j]);
        store_eight<N>(out + pack * N, values, 1.0f / scale);
    }
}
}  // namespace

// x (rows, columns) f16 or bf16; `eight` (rows, before) e4m3, contiguous, or null with `before` 0; out (rows, before + columns)
// e4m3; columns, before and x_row multiples of 8, out_row of 8 bytes.
MARQUEE_EXPORT int marquee_quantise(const void* eight, int64_t before, const void* x, int64_t x_row, void* out, int64_t out_row,
                                    float* scales, int64_t rows, int64_t columns, int format, cudaStream_t stream) {
    if (rows == 0 || columns == 0) return cudaSuccess;
    const int packs = static_cast<int>(columns / 8), in_front = static_cast<int>(before / 8);
    const int threads = packs >= 1024 ? 512 : 256;
    const auto* const codes = static_cast<const uint8_t*>(eight);
    auto* const bytes = static_cast<uint8_t*>(out);
    const dim3 blocks(static_cast<unsigned>(rows));
    if (format == F16) {
        return launch_early(quantise<__half>, blocks, threads, 0, stream, codes, in_front, static_cast<const __half*>(x), x_row,
                            bytes, out_row, scales, packs);
    }
    if (format == BF16) {
        return launch_early(quantise<__nv_bfloat16>, blocks, threads, 0, stream, codes, in_front,
                            static_cast<const __nv_bfloat16*>(x), x_row, bytes, out_row, scales, packs);
    }
    return cudaErrorInvalidValue;
}
