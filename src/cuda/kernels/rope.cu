// RMS norm of each head of q and k, then rotary positions on interleaved pairs, in place in a fused projection's rows.
//
//   n = round(x / sqrt(mean(x^2) + eps) weight);  (a, b) -> round(a cos - b sin), round(b cos + a sin)
//
// q is columns [0, heads dim) of a row, k the next heads dim. Tables are f32 (tokens, dim / 2).
// Source: diffusers' FluxAttnProcessor (torch.nn.RMSNorm, then apply_rotary_emb in f32), which rounds after each.
// A head is read by dim / (16 bytes) neighbouring lanes, one pack each. Ceiling: 2 x 2 x tokens x heads x dim x size over
// the card's memory bandwidth.
#include "numeric.cuh"

namespace {
using namespace marquee;

template <typename T>
__global__ void norm_rope(T* x, int64_t row, const T* q_weight, const T* k_weight, const float* cosines,
                          const float* sines, int64_t tokens, int heads, int dim, int lanes, float eps) {
    constexpr int N = Pack<T>::N;
    const int64_t count = tokens * 2 * heads * lanes;
    const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    // Whole groups of lanes stay, for the sum; `count` is a multiple of `lanes`.
    const bool alive = i < count;
    const int64_t head = alive ? i / lanes : 0;
    const int column = static_cast<int>(i % lanes) * N;
    const int64_t token = head / (2 * heads);
    const int which = static_cast<int>(head - token * (2 * heads));
    T* const at = x + token * row + int64_t(which) * dim + column;
    Pack<T> pack = load(at);
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) squares += wide(pack.at[j]) * wide(pack.at[j]);
    for (int lane = lanes / 2; lane > 0; lane /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, lane);
    if (!alive) return;
    const float inverse = 1.0f / sqrtf(squares / static_cast<float>(dim) + eps);
    const Pack<T> weight = load((which < heads ? q_weight : k_weight) + column);
    const int64_t pair = token * (dim / 2) + column / 2;
#pragma unroll
    for (int j = 0; j < N; j += 2) {
        const float a = rounded<T>(wide(pack.at[j]) * inverse * wide(weight.at[j]));
        const float b = rounded<T>(wide(pack.at[j + 1]) * inverse * wide(weight.at[j + 1]));
        const float c = __ldg(cosines + pair + j / 2), s = __ldg(sines + pair + j / 2);
        // torch multiplies and adds in separate kernels: no fused rounding.
        pack.at[j] = narrow<T>(__fadd_rn(__fmul_rn(a, c), __fmul_rn(-b, s)));
        pack.at[j + 1] = narrow<T>(__fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s)));
    }
    store(at, pack);
}
}  // namespace

// x: rows `row` elements apart. dim over the elements of 16 bytes is a power of two up to 32; addresses and `row` are
// multiples of 16 bytes.
MARQUEE_EXPORT int marquee_norm_rope(void* x, int64_t row, const void* q_weight, const void* k_weight,
                                     const float* cosines, const float* sines, int64_t tokens, int heads, int dim,
                                     float eps, int format, cudaStream_t stream) {
    if (tokens == 0 || heads == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(format, {
        const int lanes = dim / Pack<T>::N;
        if (lanes < 1 || lanes > 32 || (lanes & (lanes - 1)) || dim % Pack<T>::N) return cudaErrorInvalidValue;
        const int64_t blocks = (tokens * 2 * heads * lanes + 255) / 256;
        norm_rope<T><<<static_cast<unsigned>(blocks), 256, 0, stream>>>(
            static_cast<T*>(x), row, static_cast<const T*>(q_weight), static_cast<const T*>(k_weight), cosines, sines,
            tokens, heads, dim, lanes, eps);
    });
    return launched();
}
