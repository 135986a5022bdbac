// Rows of int8 with a scale each to the dtype of a product: y = q scale in f32, rounded once. A matrix of int8 weights goes
// through this just before the product that reads it.
//
// Bytes moved: 1 a number in, 2 out (f32: 4), and they are all there is to it: a thread takes 8 numbers so that neighbours
// write whole packs of 16 bytes next to each other, four times before it waits. What is written stays in the cache for the
// product as far as it fits; what is read is not needed again until the next step.
#include "numeric.cuh"

namespace {
using namespace marquee;

constexpr int kNumbers = 8, kAtOnce = 4;

// Four numbers in two's complement. Flipping the sign adds 128; behind 0x4b0000 that is the mantissa of 2^23 + 128 + q, which
// costs a permutation and a sum where a conversion would run at a quarter of their speed.
__device__ __forceinline__ void to_float(uint32_t four, float scale, float* out) {
    four ^= 0x80808080u;
#pragma unroll
    for (int j = 0; j < 4; j++) out[j] = (__uint_as_float(__byte_perm(four, 0x4b000000u, 0x7650 + j)) - 8388736.0f) * scale;
}

// A block a row.
template <typename T>
__global__ void widen(const uint2* __restrict__ q, const float* __restrict__ scales, T* __restrict__ y, int packs) {
    constexpr int N = Pack<T>::N;
    q += int64_t(blockIdx.x) * packs;
    y += int64_t(blockIdx.x) * packs * kNumbers;
    const float scale = scales[blockIdx.x];
    for (int first = threadIdx.x; first < packs; first += kAtOnce * blockDim.x) {
        uint2 bytes[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; k++) {
            const int pack = first + k * blockDim.x;
            if (pack < packs) bytes[k] = __ldcs(q + pack);
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; k++) {
            const int pack = first + k * blockDim.x;
            if (pack >= packs) break;
            float values[kNumbers];
            to_float(bytes[k].x, scale, values);
            to_float(bytes[k].y, scale, values + 4);
#pragma unroll
            for (int part = 0; part < kNumbers / N; part++) {
                Pack<T> out;
#pragma unroll
                for (int j = 0; j < N; j += 2) {
                    out.pair(j) = narrow_pair<T>(values[part * N + j], values[part * N + j + 1]);
                }
                store(y + int64_t(pack) * kNumbers + part * N, out);
            }
        }
    }
}
}  // namespace

// q (rows, columns) int8, scales (rows) f32, y (rows, columns) in `format`, all contiguous; columns a multiple of 16, q and y
// of 16 bytes.
MARQUEE_EXPORT int marquee_widen(const void* q, const float* scales, void* y, int64_t rows, int64_t columns, int format,
                                 cudaStream_t stream) {
    if (rows == 0 || columns == 0) return cudaSuccess;
    const int packs = static_cast<int>(columns / kNumbers);
    // Rows of 3072 numbers, FLUX's shortest, are three packs a thread.
    const int threads = packs >= 1024 ? 256 : 128;
    MARQUEE_BY_FORMAT(format, widen<<<static_cast<unsigned>(rows), threads, 0, stream>>>(
                                  static_cast<const uint2*>(q), scales, static_cast<T*>(y), packs));
    return launched();
}
