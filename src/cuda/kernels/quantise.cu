// Rows of 16-bit numbers to e4m3 with a scale each: q scale = x, scale = max |x| / 448. Weights at load (a row an output),
// activations before a product that nothing writes in 8 bits.
//
// The row is read twice: the second time it comes from the cache. Bytes moved: 2 a number in, 1 out.
#include "eight.cuh"
#include "numeric.cuh"

namespace {
using namespace marquee;

// A block a row.
template <typename T>
__global__ void quantise(const T* x, int64_t x_row, uint8_t* out, int64_t out_row, float* scales, int packs) {
    constexpr int N = Pack<T>::N;
    __shared__ float scratch[32];
    x += blockIdx.x * x_row;
    out += blockIdx.x * out_row;
    float largest = 0.0f;
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
        const Pack<T> numbers = load(x + pack * N);
#pragma unroll
        for (int j = 0; j < N; j++) largest = fmaxf(largest, fabsf(wide(numbers.at[j])));
    }
    const float scale = row_scale(block_max(largest, scratch));
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
        const Pack<T> numbers = load_once(x + pack * N);
        float values[N];
#pragma unroll
        for (int j = 0; j < N; j++) values[j] = wide(numbers.at[j]);
        store_eight<N>(out + pack * N, values, 1.0f / scale);
    }
}
}  // namespace

// x (rows, columns) f16 or bf16, out (rows, columns) e4m3; columns and x_row multiples of 8, out_row of 8 bytes.
MARQUEE_EXPORT int marquee_quantise(const void* x, int64_t x_row, void* out, int64_t out_row, float* scales,
                                    int64_t rows, int64_t columns, int format, cudaStream_t stream) {
    if (rows == 0 || columns == 0) return cudaSuccess;
    const int packs = static_cast<int>(columns / 8);
    const int threads = packs >= 1024 ? 512 : 256;
    auto* const bytes = static_cast<uint8_t*>(out);
    if (format == F16) {
        quantise<<<static_cast<unsigned>(rows), threads, 0, stream>>>(static_cast<const __half*>(x), x_row, bytes,
                                                                      out_row, scales, packs);
    } else if (format == BF16) {
        quantise<<<static_cast<unsigned>(rows), threads, 0, stream>>>(static_cast<const __nv_bfloat16*>(x), x_row, bytes,
                                                                      out_row, scales, packs);
    } else {
        return cudaErrorInvalidValue;
    }
    return launched();
}
