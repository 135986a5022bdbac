// What q and k go through before FLUX's attention, in place in the fused projection: RMS norm over each head, then
// rotation by position.
//
//   n = round(x / √(mean(x²) + eps) weight);  (a, b) -> (a cos - b sin, b cos + a sin) for each pair of neighbours, f32
//   inside, rounded once.
//
// The first `words` tokens of each batch take one pair of weights, the rest another: FLUX's text and image streams join
// without a copy. Source: diffusers' FluxAttnProcessor (torch.nn.RMSNorm, apply_rotary_emb on f32). Bytes moved: q and k
// read once and written once; the table (tokens, dim / 2) of f32 stays in the cache.
#include "numeric.cuh"

namespace {
using namespace marquee;

// LANES threads a head, one pack each.
template <typename T, int LANES>
__global__ void rms_norm_rope(T* x, int64_t batch_row, int64_t token_row, int64_t tokens, int heads, int64_t words,
                              const T* q_words, const T* k_words, const T* q_rest, const T* k_rest, const float* cos,
                              const float* sin, float eps, int64_t count) {
    constexpr int N = Pack<T>::N;
    constexpr int DIM = LANES * N;
    const int64_t thread = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    const int64_t at = thread / LANES;
    const int lane = static_cast<int>(thread % LANES);
    // Whole warps take part in the shuffles; those past the end compute on the last head and write nothing.
    const int64_t head_at = at < count ? at : count - 1;
    const int64_t token_at = head_at / (2 * heads);
    const int which = static_cast<int>(head_at - token_at * 2 * heads);  // heads of q, then heads of k
    const int64_t batch = token_at / tokens, token = token_at - batch * tokens;
    T* const mine = x + batch * batch_row + token * token_row + int64_t(which) * DIM + lane * N;
    const bool is_k = which >= heads;
    const T* const weights = token < words ? (is_k ? k_words : q_words) : (is_k ? k_rest : q_rest);
    Pack<T> pack = load(mine);
    const Pack<T> weight = load(weights + lane * N);
    float values[N];
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        values[j] = wide(pack.at[j]);
        squares += values[j] * values[j];
    }
#pragma unroll
    for (int other = LANES / 2; other > 0; other /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, other);
    const float inverse = rsqrtf(squares / DIM + eps);
    const int64_t row = token * (DIM / 2) + lane * (N / 2);
#pragma unroll
    for (int j = 0; j < N; j += 2) {
        const float a = rounded<T>(values[j] * inverse * wide(weight.at[j]));
        const float b = rounded<T>(values[j + 1] * inverse * wide(weight.at[j + 1]));
        const float c = __ldg(cos + row + j / 2), s = __ldg(sin + row + j / 2);
        pack.at[j] = narrow<T>(a * c - b * s);
        pack.at[j + 1] = narrow<T>(b * c + a * s);
    }
    if (at < count) store(mine, pack);
}
}  // namespace

// x: each token's q heads, then its k heads, dim channels each, adjacent; tokens `token_row` apart. dim is 32, 64 or 128
// (16-bit formats also 256). cos and sin: (tokens, dim / 2) f32.
MARQUEE_EXPORT int marquee_rms_norm_rope(void* x, int64_t batch_row, int64_t token_row, int64_t batch, int64_t tokens,
                                         int64_t heads, int64_t dim, int64_t words, const void* q_words,
                                         const void* k_words, const void* q_rest, const void* k_rest, const float* cos,
                                         const float* sin, float eps, int format, cudaStream_t stream) {
    const int64_t count = batch * tokens * heads * 2;
    if (count == 0) return cudaSuccess;
    MARQUEE_BY_FORMAT(format, {
        auto in = [](const void* address) { return static_cast<const T*>(address); };
        const int64_t lanes = dim / Pack<T>::N;
        const auto blocks = static_cast<unsigned>((count * lanes + 255) / 256);
        auto go = [&](auto kernel) {
            kernel<<<blocks, 256, 0, stream>>>(static_cast<T*>(x), batch_row, token_row, tokens,
                                               static_cast<int>(heads), words, in(q_words), in(k_words), in(q_rest),
                                               in(k_rest), cos, sin, eps, count);
        };
        if (dim % Pack<T>::N != 0) return cudaErrorInvalidValue;
        switch (lanes) {
            case 4: go(rms_norm_rope<T, 4>); break;
            case 8: go(rms_norm_rope<T, 8>); break;
            case 16: go(rms_norm_rope<T, 16>); break;
            case 32: go(rms_norm_rope<T, 32>); break;
            default: return cudaErrorInvalidValue;
        }
    });
    return launched();
}
