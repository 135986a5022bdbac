// Elementwise formulas of one and two inputs, f32 inside, one rounding at the end.
//
//   activate:  y = f(x)          f: GELU (tanh or erf form), SiLU, quick GELU (rounded as transformers rounds it: 1.702 x,
//                                its sigmoid, the product)
//   gated:     y = round(f(a)) b over the two halves of each row: T5's gated GELU; torch rounds f(a) and the product
//
// Source: torch's ATen elementwise kernels compute in f32 ("opmath") and round once an operation.
// Bytes moved: each element read once and written once. Rows may be strided; within a row elements are contiguous.
// Ceiling: 2 x rows x columns x size over the card's memory bandwidth.
#include "numeric.cuh"

namespace {
using namespace marquee;

enum Formula : int { GeluTanh = 0, GeluErf = 1, Silu = 2, QuickGelu = 3 };

template <typename T, int F> __device__ __forceinline__ float apply(float x) {
    if constexpr (F == GeluTanh) return gelu_tanh(x);
    if constexpr (F == GeluErf) return gelu_erf(x);
    if constexpr (F == Silu) return silu(x);
    return x * rounded<T>(sigmoid(rounded<T>(x * 1.702f)));
}

// One pack a thread and turn; `packs` a row.
template <typename T, int F>
__global__ void activate(const T* x, int64_t x_row, T* y, int64_t y_row, int64_t rows, int packs) {
    const int64_t count = rows * packs;
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = i / packs;
        const int64_t column = (i - row * packs) * Pack<T>::N;
        Pack<T> pack = load_once(x + row * x_row + column);
#pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) pack.at[j] = narrow<T>(apply<T, F>(wide(pack.at[j])));
        store(y + row * y_row + column, pack);
    }
}

template <typename T, int F>
__global__ void gated(const T* x, int64_t x_row, int64_t half, T* y, int64_t y_row, int64_t rows, int packs) {
    const int64_t count = rows * packs;
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = i / packs;
        const int64_t column = (i - row * packs) * Pack<T>::N;
        Pack<T> gate = load_once(x + row * x_row + column);
        const Pack<T> up = load_once(x + row * x_row + half + column);
#pragma unroll
        for (int j = 0; j < Pack<T>::N; j++) {
            gate.at[j] = narrow<T>(rounded<T>(apply<T, F>(wide(gate.at[j]))) * wide(up.at[j]));
        }
        store(y + row * y_row + column, gate);
    }
}

int blocks_for(int64_t packs) {
    const int64_t wanted = (packs + 255) / 256;
    return static_cast<int>(wanted < 1 ? 1 : wanted > 132 * 16 ? 132 * 16 : wanted);
}

#define BY_FORMULA(formula, ...)                                              \
    switch (formula) {                                                        \
        case GeluTanh: { constexpr int F = GeluTanh; __VA_ARGS__; } break;    \
        case GeluErf: { constexpr int F = GeluErf; __VA_ARGS__; } break;      \
        case Silu: { constexpr int F = Silu; __VA_ARGS__; } break;            \
        case QuickGelu: { constexpr int F = QuickGelu; __VA_ARGS__; } break;  \
        default: return cudaErrorInvalidValue;                                \
    }
}  // namespace

// y = f(x), `rows` of `columns`; x_row and y_row are the rows' distances in elements. Columns, distances and addresses are
// multiples of 16 bytes. x may be y.
MARQUEE_EXPORT int marquee_activate(const void* x, int64_t x_row, void* y, int64_t y_row, int64_t rows, int64_t columns,
                                    int formula, int format, cudaStream_t stream) {
    if (rows == 0 || columns == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(format, BY_FORMULA(formula, {
        const int packs = static_cast<int>(columns / Pack<T>::N);
        activate<T, F><<<blocks_for(rows * packs), 256, 0, stream>>>(static_cast<const T*>(x), x_row, static_cast<T*>(y),
                                                                     y_row, rows, packs);
    }));
    return launched();
}

// y = round(f(x[:, :columns])) x[:, half:half + columns], as marquee_activate.
MARQUEE_EXPORT int marquee_gated(const void* x, int64_t x_row, int64_t half, void* y, int64_t y_row, int64_t rows,
                                 int64_t columns, int formula, int format, cudaStream_t stream) {
    if (rows == 0 || columns == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(format, BY_FORMULA(formula, {
        const int packs = static_cast<int>(columns / Pack<T>::N);
        gated<T, F><<<blocks_for(rows * packs), 256, 0, stream>>>(static_cast<const T*>(x), x_row, half,
                                                                  static_cast<T*>(y), y_row, rows, packs);
    }));
    return launched();
}
