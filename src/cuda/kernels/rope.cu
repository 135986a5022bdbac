// What q and k go through before FLUX's attention, in place in the fused projection: RMS norm over each head, then
// rotation by position.
//
//   n = round(x / √(mean(x²) + eps) weight);  (a, b) -> (a cos - b sin, b cos + a sin) for each pair of neighbours, f32
//   inside, rounded once.
//
// The first `words` tokens of each batch take one pair of weights, the rest another: FLUX's text and image streams join
// without a copy. Source: diffusers' FluxAttnProcessor (torch.nn.RMSNorm, apply_rotary_emb on f32). Bytes moved: q and k
// read once and written once; the table (tokens, dim / 2) of f32 stays in the cache.
//
// For attention in 8 bits all three leave instead, in e4m3 beside each other: q and k after that, v as it is. Bytes moved: 3 in,
// 1.5 out for each of q's.
#include "early.cuh"
#include "eight.cuh"
#include "numeric.cuh"

namespace {
using namespace marquee;

// LANES threads a head, one pack each; a row of blocks a token, so that no thread divides. With `EIGHT`, x is only read, and
// `eight` (batch, tokens, q then k then v) is written.
template <typename T, int LANES, bool EIGHT>
__global__ void rms_norm_rope(T* x, uint8_t* eight, int64_t batch_row, int64_t token_row, int heads, int words,
                              const T* q_words, const T* k_words, const T* q_rest, const T* k_rest, const float* cos,
                              const float* sin, float eps) {
    constexpr int N = Pack<T>::N;
    constexpr int DIM = LANES * N;
    in_order();
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    const int at = thread / LANES, lane = thread % LANES, token = blockIdx.y;
    // Whole warps take part in the shuffles; those past the end compute on the last head and write nothing.
    const int all = EIGHT ? 3 * heads : 2 * heads;
    const int which = at < all ? at : all - 1;  // heads of q, then heads of k, then of v
    T* const mine = x + blockIdx.z * batch_row + token * token_row + which * DIM + lane * N;
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
    const int64_t row = int64_t(token) * (DIM / 2) + lane * (N / 2);
    alignas(16) float turns[2][N / 2];
    static_assert(N / 2 == 2 || N / 2 == 4);
    if constexpr (N / 2 == 4) {
        *reinterpret_cast<float4*>(turns[0]) = __ldg(reinterpret_cast<const float4*>(cos + row));
        *reinterpret_cast<float4*>(turns[1]) = __ldg(reinterpret_cast<const float4*>(sin + row));
    } else {
        *reinterpret_cast<float2*>(turns[0]) = __ldg(reinterpret_cast<const float2*>(cos + row));
        *reinterpret_cast<float2*>(turns[1]) = __ldg(reinterpret_cast<const float2*>(sin + row));
    }
    // v's numbers stay.
    if (!EIGHT || which < 2 * heads) {
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            const float2 w = wide(weight.pair(j));
            const float2 n = wide(narrow_pair<T>(values[j] * inverse * w.x, values[j + 1] * inverse * w.y));
            const float c = turns[0][j / 2], s = turns[1][j / 2];
            pack.pair(j) = narrow_pair<T>(n.x * c - n.y * s, n.y * c + n.x * s);
        }
    }
    if (at >= all) return;
    if constexpr (EIGHT) {
#pragma unroll
        for (int j = 0; j < N; j++) values[j] = wide(pack.at[j]);
        const int64_t row = int64_t(blockIdx.z) * gridDim.y + token;
        store_eight<N>(eight + (row * all + which) * DIM + lane * N, values, 1.0f);
    } else {
        store(mine, pack);
    }
}
}  // namespace

// x: each token's q heads, then its k heads (then its v heads), dim channels each, adjacent; tokens `token_row` apart. dim is
// 32, 64 or 128 (16-bit formats also 256). cos and sin: (tokens, dim / 2) f32. `eight` null: in place; else (batch, tokens, 3
// heads dim) e4m3, of 16-bit formats.
MARQUEE_EXPORT int marquee_rms_norm_rope(void* x, void* eight, int64_t batch_row, int64_t token_row, int64_t batch,
                                         int64_t tokens, int64_t heads, int64_t dim, int64_t words, const void* q_words,
                                         const void* k_words, const void* q_rest, const void* k_rest, const float* cos,
                                         const float* sin, float eps, int format, cudaStream_t stream) {
    if (batch * tokens * heads == 0) return cudaSuccess;
    if (tokens > 65535 || batch > 65535) return cudaErrorInvalidValue;
    MARQUEE_BY_FORMAT(format, {
        auto in = [](const void* address) { return static_cast<const T*>(address); };
        const int64_t lanes = dim / Pack<T>::N;
        const int64_t threads = (eight ? 3 : 2) * heads * lanes;
        const dim3 blocks(static_cast<unsigned>((threads + 255) / 256), static_cast<unsigned>(tokens),
                          static_cast<unsigned>(batch));
        int code = 0;
        auto go = [&](auto kernel) {
            code = launch_early(kernel, blocks, 256, 0, stream, static_cast<T*>(x), static_cast<uint8_t*>(eight), batch_row,
                                token_row, static_cast<int>(heads), static_cast<int>(words), in(q_words), in(k_words),
                                in(q_rest), in(k_rest), cos, sin, eps);
        };
        if (dim % Pack<T>::N != 0) return cudaErrorInvalidValue;
        if (eight) {
            if constexpr (Pack<T>::N == 8) {
                switch (lanes) {
                    case 4: go(rms_norm_rope<T, 4, true>); break;
                    case 8: go(rms_norm_rope<T, 8, true>); break;
                    case 16: go(rms_norm_rope<T, 16, true>); break;
                    case 32: go(rms_norm_rope<T, 32, true>); break;
                    default: return cudaErrorInvalidValue;
                }
            } else {
                return cudaErrorInvalidValue;
            }
        } else {
            switch (lanes) {
                case 4: go(rms_norm_rope<T, 4, false>); break;
                case 8: go(rms_norm_rope<T, 8, false>); break;
                case 16: go(rms_norm_rope<T, 16, false>); break;
                case 32: go(rms_norm_rope<T, 32, false>); break;
                default: return cudaErrorInvalidValue;
            }
        }
        return code;
    });
    return cudaErrorInvalidValue;
}
