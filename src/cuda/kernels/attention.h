// The argument block of attention, for cuDNN's shim and for our own kernel; src/cuda/attention.rs has the same.
#pragma once
#include <stdint.h>

// o = softmax(q kᵀ scale + bias) v. Channels are adjacent, everything else at any distance (a multiple of 16 bytes).
struct MarqueeAttention {
    int64_t batch, heads, queries, keys, dim;
    // Distances in elements: batch, token, head.
    int64_t q_stride[3], k_stride[3], v_stride[3], o_stride[3];
    // Batches and heads of the bias (1 or all), and its distances: batch, head, query; keys are adjacent.
    int64_t bias_batch, bias_heads, bias_stride[3];
    // Number formats (numeric.cuh) of q, k, v, o, and of the bias.
    int32_t format, bias_format;
    // Query i sees keys 0 to i.
    int32_t causal;
    float scale;
};
