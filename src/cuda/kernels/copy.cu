// Copies that would otherwise go through candle's kernels, which the driver compiles at first use.
//
//   copy:    y = x, of rows at any distance, between formats (rounded to nearest even)
//   gather:  rows of a table by index: token embeddings
//   fetch:   y = x, bytes, where x is mapped main memory: the card's threads read across the bus themselves, because its copy
//            engine would serve them after everything else that waits for it (see upload.rs)
//
// Bytes moved: each element read once and written once.
#include "numeric.cuh"

namespace {
using namespace marquee;

template <typename A, typename B>
__global__ void copy(const A* x, int64_t x_outer, int64_t x_row, B* y, int64_t y_outer, int64_t y_row, int64_t rows,
                     int64_t columns, int64_t count) {
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t line = i / columns, column = i - line * columns;
        const int64_t outer = line / rows, row = line - outer * rows;
        y[outer * y_outer + row * y_row + column] = narrow<B>(wide(x[outer * x_outer + row * x_row + column]));
    }
}

// Whole packs of one format.
__global__ void copy_packs(const int4* x, int64_t x_outer, int64_t x_row, int4* y, int64_t y_outer, int64_t y_row,
                           int64_t rows, int64_t columns, int64_t count) {
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t line = i / columns, column = i - line * columns;
        const int64_t outer = line / rows, row = line - outer * rows;
        y[outer * y_outer + row * y_row + column] = __ldcs(x + outer * x_outer + row * x_row + column);
    }
}

template <typename T>
__global__ void gather(const T* table, const uint32_t* indices, T* y, int64_t columns, int64_t count) {
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = i / columns;
        y[i] = table[indices[row] * columns + i - row * columns];
    }
}

__global__ void fetch(const int4* x, int4* y, int64_t packs, const unsigned char* x_rest, unsigned char* y_rest, int rest) {
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < packs; i += int64_t(gridDim.x) * blockDim.x) {
        y[i] = x[i];
    }
    if (blockIdx.x == 0 && threadIdx.x < rest) y_rest[threadIdx.x] = x_rest[threadIdx.x];
}

unsigned blocks_for(int64_t count) {
    const int64_t wanted = (count + 255) / 256;
    return static_cast<unsigned>(wanted > 4096 ? 4096 : wanted);
}
}  // namespace

// y = x: `outers` groups of `rows` rows of `columns`; distances in elements of each side's format.
MARQUEE_EXPORT int marquee_copy(const void* x, int64_t x_outer, int64_t x_row, int x_format, void* y, int64_t y_outer,
                                int64_t y_row, int y_format, int64_t outers, int64_t rows, int64_t columns,
                                cudaStream_t stream) {
    const int64_t count = outers * rows * columns;
    if (count == 0) return cudaSuccess;
    const int64_t pack = x_format == F32 ? 4 : 8;
    const auto whole = [pack](int64_t distance) { return distance % pack == 0; };
    if (x_format == y_format && whole(x_outer) && whole(x_row) && whole(y_outer) && whole(y_row) && whole(columns) &&
        (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % 16 == 0) {
        copy_packs<<<blocks_for(count / pack), 256, 0, stream>>>(static_cast<const int4*>(x), x_outer / pack,
                                                                 x_row / pack, static_cast<int4*>(y), y_outer / pack,
                                                                 y_row / pack, rows, columns / pack, count / pack);
        return launched();
    }
    MARQUEE_BY_FORMAT(x_format, {
        using A = T;
        MARQUEE_BY_FORMAT(y_format, {
            copy<A, T><<<blocks_for(count), 256, 0, stream>>>(static_cast<const A*>(x), x_outer, x_row,
                                                              static_cast<T*>(y), y_outer, y_row, rows, columns, count);
        });
    });
    return launched();
}

// y (count, columns) = table[indices]; indices were checked by the caller.
MARQUEE_EXPORT int marquee_gather(const void* table, const uint32_t* indices, void* y, int64_t count, int64_t columns,
                                  int format, cudaStream_t stream) {
    if (count * columns == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(format, {
        constexpr int N = Pack<T>::N;
        if (columns % N == 0 && (reinterpret_cast<uintptr_t>(table) | reinterpret_cast<uintptr_t>(y)) % 16 == 0) {
            const int64_t packs = count * (columns / N);
            gather<int4><<<blocks_for(packs), 256, 0, stream>>>(static_cast<const int4*>(table), indices,
                                                                static_cast<int4*>(y), columns / N, packs);
        } else {
            gather<T><<<blocks_for(count * columns), 256, 0, stream>>>(static_cast<const T*>(table), indices,
                                                                       static_cast<T*>(y), columns, count * columns);
        }
    });
    return launched();
}

// y = x: `bytes` of mapped main memory; both begin at multiples of 16.
MARQUEE_EXPORT int marquee_fetch(const void* x, void* y, int64_t bytes, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    if ((reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % 16) return cudaErrorMisalignedAddress;
    const int64_t packs = bytes / 16, whole = packs * 16;
    fetch<<<blocks_for(packs < 1 ? 1 : packs), 256, 0, stream>>>(
        static_cast<const int4*>(x), static_cast<int4*>(y), packs, static_cast<const unsigned char*>(x) + whole,
        static_cast<unsigned char*>(y) + whole, static_cast<int>(bytes - whole));
    return launched();
}
