// T5's relative positions as a bias of attention: bias[head, query, key] = table[bucket[key - query + length - 1], head].
//
// The 2 length - 1 distances have one bucket each, so the host works out a few hundred numbers instead of length^2.
// Source: transformers' T5Attention.compute_bias. Bytes moved: the bias written once (heads x length^2 x size).
#include "numeric.cuh"

namespace {
using namespace marquee;

// A block a head and query.
template <typename T>
__global__ void relative_bias(const T* table, const uint32_t* buckets, T* bias, int heads, int length) {
    const int query = blockIdx.x, head = blockIdx.y;
    T* const row = bias + (int64_t(head) * length + query) * length;
    for (int key = threadIdx.x; key < length; key += blockDim.x) {
        row[key] = table[int64_t(buckets[key - query + length - 1]) * heads + head];
    }
}
}  // namespace

// table (buckets, heads), buckets (2 length - 1), bias (heads, length, length), all contiguous. Heads are at most 65535.
MARQUEE_EXPORT int marquee_relative_bias(const void* table, const uint32_t* buckets, void* bias, int heads, int length,
                                         int format, cudaStream_t stream) {
    if (heads == 0 || length == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(format, {
        relative_bias<T><<<dim3(length, heads), 128, 0, stream>>>(static_cast<const T*>(table), buckets,
                                                                 static_cast<T*>(bias), heads, length);
    });
    return launched();
}
