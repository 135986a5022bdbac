// Which attention: cuDNN's for long sequences, where it is three times as fast on Hopper (439 against 1541 us for FLUX);
// our own kernel for short ones, where a plan of cuDNN's (0.3 to 1.8 s to build) would cost more than it saves, and
// wherever cuDNN is missing or refuses the shape.
#include <cuda_runtime_api.h>

#include "../kernels/attention.h"
#include "fault.hpp"

MARQUEE_EXPORT int marquee_attention_own(const MarqueeAttention*, const void*, const void*, const void*, const void*,
                                         void*, cudaStream_t);
MARQUEE_EXPORT int marquee_attention_cudnn(const MarqueeAttention*, const void*, const void*, const void*, const void*,
                                           void*, cudaStream_t);
MARQUEE_EXPORT int marquee_attention_cudnn_prepare(const MarqueeAttention*, int, cudaStream_t);

namespace {
// Keys up to which our own kernel is taken.
constexpr int64_t kShort = 512;

bool own_takes(const MarqueeAttention& a) {
    return (a.format == 1 || a.format == 2) && a.dim % 8 == 0 && a.dim <= 128 && a.batch <= 65535 && a.heads <= 65535;
}

bool prefers_own(const MarqueeAttention& a) {
    return own_takes(a) && a.keys <= kShort;
}
}  // namespace

// Does now what the first call for this shape would otherwise do: 0 if there is an attention for it.
MARQUEE_EXPORT int marquee_attention_prepare(const MarqueeAttention* a, int biased, cudaStream_t stream) {
    if (prefers_own(*a)) return 0;
    const int code = marquee_attention_cudnn_prepare(a, biased, stream);
    return code && own_takes(*a) ? 0 : code;
}

// `bias` may be null. Addresses and distances are multiples of 16 bytes.
MARQUEE_EXPORT int marquee_attention(const MarqueeAttention* a, const void* q, const void* k, const void* v,
                                     const void* bias, void* o, cudaStream_t stream) {
    if (prefers_own(*a)) return marquee_attention_own(a, q, k, v, bias, o, stream);
    const int code = marquee_attention_cudnn(a, q, k, v, bias, o, stream);
    return code && own_takes(*a) ? marquee_attention_own(a, q, k, v, bias, o, stream) : code;
}
