// Normalisation of rows: one pass, the row held in registers; statistics in f32 with the variance taken from the
// centred values.
//
//   layer_norm:  n = (x - mean) / √(var + eps), then either nothing, or n weight + bias in f32 (affine), or FLUX's
//                modulation: round(round(n) round(1 + scale)) + shift, rounded (torch rounds the norm, 1 + scale, the
//                product and the sum)
//   rms_norm:    x / √(mean(x²) + eps) weight: rounded once (torch.nn.RMSNorm) or before the weight as well (T5)
//
// Before the norm, both can first finish a residual: x := x + gate y, the product and the sum rounded as torch rounds
// them, and store the sum: the next sub-layer's input without reading it again.
//
// The modulated norm can leave as e4m3 with a scale a row (the largest magnitude over 448), for a product in 8 bits: the
// row is in registers anyway.
//
// Source: diffusers' FluxTransformerBlock and transformers' T5LayerNorm for the roundings. Bytes moved: x once, y once if
// there is one, the output once, the sum once if there is one.
#include "early.cuh"
#include "eight.cuh"
#include "numeric.cuh"

namespace {
using namespace marquee;

enum Kind : int { Plain = 0, Affine = 1, Modulate = 2, Rms = 3, RmsT5 = 4 };

template <typename T> struct Arguments {
    const T* x;
    int64_t x_row;
    // The residual: null, or y with its rows' distance and a gate a batch (null: 1).
    const T* y;
    int64_t y_row;
    const T* gate;
    int64_t gate_row;
    T* sum;
    int64_t sum_row;
    // Weight and bias (channels), or scale and shift with the distance between batches.
    const T* first;
    const T* second;
    int64_t batch_row;
    void* out;
    int64_t out_row;
    // e4m3 only.
    float* scales;
    // Rows of a batch; packs of a row.
    int64_t tokens;
    int packs;
    float eps;
};

// A block a row, PACKS packs a thread. A warp may span idle lanes at the row's end.
template <typename T, int K, bool RESIDUAL, bool EIGHT, int PACKS> __global__ void normalise(const Arguments<T> a) {
    constexpr int N = Pack<T>::N;
    __shared__ float scratch[3][32];
    in_order();
    const int64_t row = blockIdx.x, batch = row / a.tokens;
    float values[PACKS][N];
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int pack = p * blockDim.x + threadIdx.x;
        if (pack < a.packs) {
            const Pack<T> x = load(a.x + row * a.x_row + pack * N);
#pragma unroll
            for (int j = 0; j < N; j++) values[p][j] = wide(x.at[j]);
            if constexpr (RESIDUAL) {
                const Pack<T> y = load_once(a.y + row * a.y_row + pack * N);
                Pack<T> total;
                const Pack<T> gate = a.gate ? load(a.gate + batch * a.gate_row + pack * N) : y;
#pragma unroll
                for (int j = 0; j < N; j += 2) {
                    const auto addend = a.gate ? product_of(gate.pair(j), y.pair(j)) : y.pair(j);
                    total.pair(j) = sum_of(x.pair(j), addend);
                }
#pragma unroll
                for (int j = 0; j < N; j++) values[p][j] = wide(total.at[j]);
                store(a.sum + row * a.sum_row + pack * N, total);
            }
#pragma unroll
            for (int j = 0; j < N; j++) sum += K == Rms || K == RmsT5 ? values[p][j] * values[p][j] : values[p][j];
        } else {
#pragma unroll
            for (int j = 0; j < N; j++) values[p][j] = 0.0f;
        }
    }
    const float channels = static_cast<float>(a.packs * N);
    float mean = block_sum(sum, scratch[0]) / channels;
    float inverse;
    if constexpr (K == Rms || K == RmsT5) {
        inverse = rsqrtf(mean + a.eps);
        mean = 0.0f;
    } else {
        float squares = 0.0f;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            if (p * blockDim.x + threadIdx.x < a.packs) {
#pragma unroll
                for (int j = 0; j < N; j++) squares += (values[p][j] - mean) * (values[p][j] - mean);
            }
        }
        inverse = rsqrtf(block_sum(squares, scratch[1]) / channels + a.eps);
    }
    float largest = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int pack = p * blockDim.x + threadIdx.x;
        if (pack >= a.packs) continue;
        Pack<T> out;
        if constexpr (K == Plain) {
#pragma unroll
            for (int j = 0; j < N; j += 2) {
                out.pair(j) = narrow_pair<T>((values[p][j] - mean) * inverse, (values[p][j + 1] - mean) * inverse);
            }
        } else {
            const int64_t at = (K == Modulate ? batch * a.batch_row : 0) + pack * N;
            const Pack<T> first = load(a.first + at);
            Pack<T> second;
            if constexpr (K == Affine || K == Modulate) second = load(a.second + at);
#pragma unroll
            for (int j = 0; j < N; j += 2) {
                const float n0 = (values[p][j] - mean) * inverse, n1 = (values[p][j + 1] - mean) * inverse;
                const float2 w = wide(first.pair(j));
                if constexpr (K == Affine) {
                    const float2 bias = wide(second.pair(j));
                    out.pair(j) = narrow_pair<T>(n0 * w.x + bias.x, n1 * w.y + bias.y);
                }
                if constexpr (K == Modulate) {
                    const auto factor = sum_of(first.pair(j), narrow_pair<T>(1.0f, 1.0f));
                    out.pair(j) = sum_of(product_of(narrow_pair<T>(n0, n1), factor), second.pair(j));
                }
                if constexpr (K == Rms) out.pair(j) = narrow_pair<T>(n0 * w.x, n1 * w.y);
                if constexpr (K == RmsT5) out.pair(j) = product_of(narrow_pair<T>(n0, n1), first.pair(j));
            }
        }
        if constexpr (EIGHT) {
#pragma unroll
            for (int j = 0; j < N; j++) {
                values[p][j] = wide(out.at[j]);
                largest = fmaxf(largest, fabsf(values[p][j]));
            }
        } else {
            store(static_cast<T*>(a.out) + row * a.out_row + pack * N, out);
        }
    }
    if constexpr (EIGHT) {
        const float scale = row_scale(block_max(largest, scratch[2]));
        if (threadIdx.x == 0) a.scales[row] = scale;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const int pack = p * blockDim.x + threadIdx.x;
            if (pack < a.packs) {
                store_eight<N>(static_cast<uint8_t*>(a.out) + row * a.out_row + pack * N, values[p], 1.0f / scale);
            }
        }
    }
}

// Rows of a block where a warp has one each.
constexpr int kRows = 4;

// What `block_sum` makes of a number a thread, those of up to four warps being with one warp: added in the same order, so
// that a row's sums do not depend on who takes them.
template <int WARPS> __device__ __forceinline__ float sum_as_block(float (&x)[WARPS]) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
#pragma unroll
        for (int w = 0; w < WARPS; w++) x[w] += __shfl_xor_sync(0xffffffffu, x[w], lane);
    }
    if constexpr (WARPS == 1) return x[0];
    if constexpr (WARPS == 2) return x[0] + x[1];
    if constexpr (WARPS == 3) return x[0] + x[2] + x[1];
    if constexpr (WARPS == 4) return (x[0] + x[2]) + (x[1] + x[3]);
}

// Affine norms of narrow rows without a gate, bit for bit those of `normalise`: a warp a row, which waits for no other, and
// does with ALL packs a lane what WARPS warps do there.
template <typename T, bool RESIDUAL, int ALL, int WARPS>
__global__ void __launch_bounds__(32 * kRows) normalise_narrow(const Arguments<T> a, int64_t rows) {
    in_order();
    constexpr int N = Pack<T>::N;
    const int64_t row = blockIdx.x * int64_t{kRows} + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    // Idle lanes at the row's end read its last pack, so that no load waits for a branch.
    const auto at = [&](int p) { return min(p * 32 + lane, a.packs - 1) * N; };
    const auto within = [&](int p) { return p * 32 + lane < a.packs; };
    Pack<T> x[ALL], y[ALL], first[ALL], second[ALL];
#pragma unroll
    for (int p = 0; p < ALL; p++) {
        x[p] = load(a.x + row * a.x_row + at(p));
        if constexpr (RESIDUAL) y[p] = load_once(a.y + row * a.y_row + at(p));
    }
    // Before anything is stored, which might be a weight for all that the compiler knows.
#pragma unroll
    for (int p = 0; p < ALL; p++) {
        first[p] = load(a.first + at(p));
        second[p] = load(a.second + at(p));
    }
    if constexpr (RESIDUAL) {
#pragma unroll
        for (int p = 0; p < ALL; p++) {
#pragma unroll
            for (int j = 0; j < N; j += 2) x[p].pair(j) = sum_of(x[p].pair(j), y[p].pair(j));
            if (within(p)) store(a.sum + row * a.sum_row + at(p), x[p]);
        }
    }
    // Pack p of a lane is number p / WARPS of thread `lane` of warp p % WARPS there.
    float sums[WARPS] = {}, squares[WARPS] = {};
#pragma unroll
    for (int p = 0; p < ALL; p++) {
#pragma unroll
        for (int j = 0; j < N; j++) sums[p % WARPS] += within(p) ? wide(x[p].at[j]) : 0.0f;
    }
    const float channels = static_cast<float>(a.packs * N);
    const float mean = sum_as_block(sums) / channels;
#pragma unroll
    for (int p = 0; p < ALL; p++) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float off = within(p) ? wide(x[p].at[j]) - mean : 0.0f;
            squares[p % WARPS] += off * off;
        }
    }
    const float inverse = rsqrtf(sum_as_block(squares) / channels + a.eps);
#pragma unroll
    for (int p = 0; p < ALL; p++) {
        Pack<T> out;
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            const float2 v = wide(x[p].pair(j)), w = wide(first[p].pair(j)), bias = wide(second[p].pair(j));
            out.pair(j) = narrow_pair<T>((v.x - mean) * inverse * w.x + bias.x, (v.y - mean) * inverse * w.y + bias.y);
        }
        if (within(p)) store(static_cast<T*>(a.out) + row * a.out_row + at(p), out);
    }
}

// A code of launch; `kTooWide` for rows that want more registers than a warp has.
constexpr int kTooWide = -1;

template <typename T, bool RESIDUAL>
int launch_narrow(const Arguments<T>& a, int64_t rows, int warps, cudaStream_t stream) {
    const auto run = [&](auto kernel) {
        const auto blocks = static_cast<unsigned>((rows + kRows - 1) / kRows);
        return launch_early(kernel, dim3(blocks), 32 * kRows, 0, stream, a, rows);
    };
    switch (8 * ((a.packs + 31) / 32) + warps) {
        case 8 * 1 + 1: return run(normalise_narrow<T, RESIDUAL, 1, 1>);
        case 8 * 2 + 2: return run(normalise_narrow<T, RESIDUAL, 2, 2>);
        case 8 * 3 + 3: return run(normalise_narrow<T, RESIDUAL, 3, 3>);
        case 8 * 4 + 4: return run(normalise_narrow<T, RESIDUAL, 4, 4>);
        case 8 * 5 + 3: return run(normalise_narrow<T, RESIDUAL, 5, 3>);
        case 8 * 6 + 3: return run(normalise_narrow<T, RESIDUAL, 6, 3>);
        default: return kTooWide;
    }
}

template <typename T, int K, bool RESIDUAL, bool EIGHT>
int launch(const Arguments<T>& a, int64_t rows, cudaStream_t stream) {
    // 128 threads with a few packs each keep many rows in flight; wide rows take more threads.
    int per_thread = (a.packs + 127) / 128;
    if (per_thread > 4) per_thread = 4;
    const int threads = ((a.packs + per_thread - 1) / per_thread + 31) / 32 * 32;
    if (threads > 1024) return cudaErrorInvalidValue;
    if constexpr (K == Affine && !EIGHT) {
        const int code = a.gate ? kTooWide : launch_narrow<T, RESIDUAL>(a, rows, threads / 32, stream);
        if (code != kTooWide) return code;
    }
    const dim3 blocks(static_cast<unsigned>(rows));
    switch (per_thread) {
        case 1: return launch_early(normalise<T, K, RESIDUAL, EIGHT, 1>, blocks, threads, 0, stream, a);
        case 2: return launch_early(normalise<T, K, RESIDUAL, EIGHT, 2>, blocks, threads, 0, stream, a);
        case 3: return launch_early(normalise<T, K, RESIDUAL, EIGHT, 3>, blocks, threads, 0, stream, a);
        default: return launch_early(normalise<T, K, RESIDUAL, EIGHT, 4>, blocks, threads, 0, stream, a);
    }
}

template <typename T, int K, bool EIGHT = false>
int launch(const Arguments<T>& a, int64_t rows, cudaStream_t stream) {
    return a.y ? launch<T, K, true, EIGHT>(a, rows, stream) : launch<T, K, false, EIGHT>(a, rows, stream);
}

// gate (batch, columns) may be null.
template <typename T>
__global__ void residual(const T* x, int64_t x_row, const T* gate, int64_t gate_row, const T* y, int64_t y_row, T* out,
                         int64_t out_row, int64_t rows, int64_t tokens, int packs, float limit) {
    constexpr int N = Pack<T>::N;
    in_order();
    const int64_t count = rows * packs;
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = i / packs, column = (i - row * packs) * N;
        Pack<T> a = load(x + row * x_row + column);
        const Pack<T> b = load_once(y + row * y_row + column);
        const Pack<T> g = gate ? load(gate + row / tokens * gate_row + column) : b;
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            a.pair(j) = sum_of(a.pair(j), gate ? product_of(g.pair(j), b.pair(j)) : b.pair(j));
        }
        if (limit < INFINITY) {
#pragma unroll
            for (int j = 0; j < N; j++) {
                // A comparison that NaN fails leaves it as it is, as torch's clip does.
                const float s = wide(a.at[j]);
                a.at[j] = narrow<T>(s > limit ? limit : s < -limit ? -limit : s);
            }
        }
        store(out + row * out_row + column, a);
    }
}
}  // namespace

// src/cuda/norm.rs has the same block. Distances in elements; addresses, channels and distances are multiples of 16 bytes.
struct MarqueeNorm {
    const void* x;
    const void* y;       // null: no residual
    const void* gate;    // (batch, channels); null: 1
    void* sum;           // x + gate y; null without a residual; may be x
    const void* first;   // weight (Affine, Rms), or scale (Modulate)
    const void* second;  // bias, or shift
    void* out;
    int64_t x_row, y_row, gate_row, sum_row, batch_row, out_row;
    int64_t rows, tokens, channels;
    float eps;
    int32_t kind, format;
};

namespace {
template <typename T> Arguments<T> arguments(const MarqueeNorm& a, float* scales) {
    auto in = [](const void* address) { return static_cast<const T*>(address); };
    return {in(a.x),      a.x_row,     in(a.y), a.y_row,   in(a.gate), a.gate_row,
            static_cast<T*>(a.sum),    a.sum_row,          in(a.first), in(a.second),
            a.batch_row,  a.out,       a.out_row, scales,  a.tokens,
            static_cast<int>(a.channels / Pack<T>::N),     a.eps};
}
}  // namespace

MARQUEE_EXPORT int marquee_norm(const MarqueeNorm* a, cudaStream_t stream) {
    if (a->rows == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(a->format, {
        const Arguments<T> of = arguments<T>(*a, nullptr);
        switch (a->kind) {
            case Plain: return launch<T, Plain>(of, a->rows, stream);
            case Affine: return launch<T, Affine>(of, a->rows, stream);
            case Modulate: return launch<T, Modulate>(of, a->rows, stream);
            case Rms: return launch<T, Rms>(of, a->rows, stream);
            case RmsT5: return launch<T, RmsT5>(of, a->rows, stream);
            default: return cudaErrorInvalidValue;
        }
    });
    return cudaErrorInvalidValue;
}

// The modulated norm with `out` in e4m3 (out_row in bytes) and `scales` (rows): out scale is the norm.
MARQUEE_EXPORT int marquee_norm_e4m3(const MarqueeNorm* a, float* scales, cudaStream_t stream) {
    if (a->rows == 0) return cudaSuccess;
    if (a->kind != Modulate) return cudaErrorInvalidValue;
    if (a->format == F16) return launch<__half, Modulate, true>(arguments<__half>(*a, scales), a->rows, stream);
    if (a->format != BF16) return cudaErrorInvalidValue;
    return launch<__nv_bfloat16, Modulate, true>(arguments<__nv_bfloat16>(*a, scales), a->rows, stream);
}

// out = x + gate y, clipped to ±limit (infinity: not); out may be x or y. Uses of `a`: x, y, gate, out, their rows'
// distances, rows, tokens, channels, format; `eps` is the limit.
MARQUEE_EXPORT int marquee_residual(const MarqueeNorm* a, cudaStream_t stream) {
    if (a->rows == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(a->format, {
        auto in = [](const void* address) { return static_cast<const T*>(address); };
        const int packs = static_cast<int>(a->channels / Pack<T>::N);
        const int64_t wanted = (a->rows * packs + 255) / 256;
        const dim3 blocks(static_cast<unsigned>(wanted > 4096 ? 4096 : wanted));
        return launch_early(residual<T>, blocks, 256, 0, stream, in(a->x), a->x_row, in(a->gate), a->gate_row, in(a->y),
                            a->y_row, static_cast<T*>(a->out), a->out_row, a->rows, a->tokens, packs, a->eps);
    });
    return cudaErrorInvalidValue;
}
