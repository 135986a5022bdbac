// One pass over rows: an optional residual sum, then an optional normalisation of it.
//
//   sum:      s = x, or round(x + y), or round(x + round(gate y)); in f16 optionally held within +-65504
//   Layer:    n = round((s - mean) / sqrt(var + eps))                       var biased
//   Modulate: n = round(round(Layer(s) round(1 + scale)) + shift)           FLUX's adaptive norm
//   Affine:   n = round((s - mean) / sqrt(var + eps) weight + bias)         one rounding
//   Rms:      n = round(s / sqrt(mean(s^2) + eps) weight)                   one rounding (torch.nn.RMSNorm)
//   T5:       n = round(round(s / sqrt(mean(s^2) + eps)) weight)            transformers' T5LayerNorm
//
// Source: torch's LayerNorm and RMSNorm (f32 statistics, mean first, then squares of the centred values), diffusers'
// AdaLayerNorm, transformers' T5LayerNorm. round() is to the tensors' format, where torch materialises.
// A block holds one row in registers, so each element is read once and written once.
// Ceiling: (x + y + sum + n) rows x columns x size over the card's memory bandwidth.
#include "numeric.cuh"

namespace {
using namespace marquee;

enum Form : int { None = 0, Layer = 1, Modulate = 2, Affine = 3, Rms = 4, T5 = 5 };

// Packs that a thread keeps: 1024 threads of 4 hold 32,768 numbers of 16 bits.
constexpr int kDeep = 4;

struct Rows {
    const void *x, *y, *gate;
    void *sum, *out;
    // Modulate: scale and shift. Affine: weight and bias. Rms, T5: weight.
    const void *first, *second;
    int64_t x_row, y_row, sum_row, out_row;
    int packs;
    float inverse_columns, eps;
    bool clip;
};

template <typename T, int F, int D>
__global__ void residual_norm(const Rows a) {
    constexpr int N = Pack<T>::N;
    __shared__ float scratch[2][32];
    const int64_t row = blockIdx.x;
    const T* const x = static_cast<const T*>(a.x) + row * a.x_row;
    float s[D][N];
    float total = 0.0f;
#pragma unroll
    for (int d = 0; d < D; d++) {
        const int pack = threadIdx.x + d * blockDim.x;
        if (pack >= a.packs) break;
        const int column = pack * N;
        const Pack<T> from = load(x + column);
#pragma unroll
        for (int j = 0; j < N; j++) s[d][j] = wide(from.at[j]);
        if (a.y) {
            const Pack<T> more = load_once(static_cast<const T*>(a.y) + row * a.y_row + column);
            Pack<T> gate;
            if (a.gate) gate = load(static_cast<const T*>(a.gate) + column);
            Pack<T> sum;
#pragma unroll
            for (int j = 0; j < N; j++) {
                float part = wide(more.at[j]);
                if (a.gate) part = rounded<T>(part * wide(gate.at[j]));
                float value = rounded<T>(s[d][j] + part);
                // An infinity too: torch clamps the rounded sum.
                if (a.clip) value = fminf(fmaxf(value, -65504.0f), 65504.0f);
                sum.at[j] = narrow<T>(value);
                s[d][j] = value;
            }
            store(static_cast<T*>(a.sum) + row * a.sum_row + column, sum);
        }
#pragma unroll
        for (int j = 0; j < N; j++) total += F == Rms || F == T5 ? s[d][j] * s[d][j] : s[d][j];
    }
    if constexpr (F != None) {
        float mean = 0.0f, squares = block_sum(total, scratch[0]) * a.inverse_columns;
        if constexpr (F != Rms && F != T5) {
            mean = squares;
            total = 0.0f;
#pragma unroll
            for (int d = 0; d < D; d++) {
                if (threadIdx.x + d * blockDim.x >= a.packs) break;
#pragma unroll
                for (int j = 0; j < N; j++) total += (s[d][j] - mean) * (s[d][j] - mean);
            }
            squares = block_sum(total, scratch[1]) * a.inverse_columns;
        }
        const float inverse = 1.0f / sqrtf(squares + a.eps);
        T* const out = static_cast<T*>(a.out) + row * a.out_row;
#pragma unroll
        for (int d = 0; d < D; d++) {
            const int pack = threadIdx.x + d * blockDim.x;
            if (pack >= a.packs) break;
            const int column = pack * N;
            Pack<T> first, second, to;
            if constexpr (F != Layer) first = load(static_cast<const T*>(a.first) + column);
            if constexpr (F == Modulate || F == Affine) second = load(static_cast<const T*>(a.second) + column);
#pragma unroll
            for (int j = 0; j < N; j++) {
                float n = (s[d][j] - mean) * inverse;
                if constexpr (F == Modulate) {
                    const float scale = rounded<T>(1.0f + wide(first.at[j]));
                    n = rounded<T>(rounded<T>(n) * scale) + wide(second.at[j]);
                }
                if constexpr (F == Affine) n = n * wide(first.at[j]) + wide(second.at[j]);
                if constexpr (F == Rms) n = n * wide(first.at[j]);
                if constexpr (F == T5) n = rounded<T>(n) * wide(first.at[j]);
                to.at[j] = narrow<T>(n);
            }
            store(out + column, to);
        }
    }
}

template <typename T, int F>
int launch(Rows a, int64_t rows, int64_t columns, cudaStream_t stream) {
    if (columns % Pack<T>::N) return cudaErrorInvalidValue;
    a.packs = static_cast<int>(columns / Pack<T>::N);
    a.inverse_columns = 1.0f / static_cast<float>(columns);
    // Two packs a thread keep more loads in flight than they cost in registers.
    const int per = a.packs <= 64 ? 1 : a.packs <= 2048 ? 2 : kDeep;
    const int threads = ((a.packs + per - 1) / per + 31) / 32 * 32;
    if (threads > 1024) return cudaErrorInvalidValue;
    const auto blocks = static_cast<unsigned>(rows);
    if (per == 1) residual_norm<T, F, 1><<<blocks, threads, 0, stream>>>(a);
    if (per == 2) residual_norm<T, F, 2><<<blocks, threads, 0, stream>>>(a);
    if (per == kDeep) residual_norm<T, F, kDeep><<<blocks, threads, 0, stream>>>(a);
    return launched();
}
}  // namespace

// Everything but x and the form may be null: y (no sum), gate (1), out (form 0). Rows lie x_row, y_row, sum_row, out_row
// elements apart; gate, first and second are one row for all. Columns, distances and addresses are multiples of 16 bytes;
// at most 32,768 columns of 16 bits. sum may be x or y.
MARQUEE_EXPORT int marquee_residual_norm(const void* x, int64_t x_row, const void* y, int64_t y_row, const void* gate,
                                         void* sum, int64_t sum_row, void* out, int64_t out_row, const void* first,
                                         const void* second, int64_t rows, int64_t columns, float eps, int clip, int form,
                                         int format, cudaStream_t stream) {
    if (rows == 0 || columns == 0) return cudaSuccess;
    Rows a = {x, y, gate, sum, out, first, second, x_row, y_row, sum_row, out_row, 0, 0.0f, eps, clip != 0};
    MARQUEE_BY_FORMAT(format, switch (form) {
        case None: return launch<T, None>(a, rows, columns, stream);
        case Layer: return launch<T, Layer>(a, rows, columns, stream);
        case Modulate: return launch<T, Modulate>(a, rows, columns, stream);
        case Affine: return launch<T, Affine>(a, rows, columns, stream);
        case Rms: return launch<T, Rms>(a, rows, columns, stream);
        case T5: return launch<T, T5>(a, rows, columns, stream);
        default: return cudaErrorInvalidValue;
    });
    return cudaErrorInvalidValue;
}
