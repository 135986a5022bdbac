// Attention through cuDNN's graph API: o = softmax(q kᵀ scale + bias) v, scores and softmax in f32, one rounding to o.
//
// q (batch, queries, heads, dim), k and v (batch, keys, heads, dim), o as q: each with its own distances between batches,
// tokens and heads, channels adjacent; so all three may be read out of one fused projection, and o written beside other
// columns. Plans are kept by shape and distances, refusals too: building one takes cuDNN 0.3 to 1.8 s.
//
// Source: cuDNN's scaled dot product attention, see its documentation of the graph API. FLOPs: 4 batch heads queries keys
// dim.
#include <cudnn_frontend.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "../kernels/attention.h"
#include "cudnn.hpp"

namespace {
namespace fe = cudnn_frontend;

enum Uid : int64_t { Q = 1, K, V, O, Bias };

// Everything that a plan depends on, in a form that compares.
using Key = std::array<int64_t, 26>;

struct Plan {
    std::shared_ptr<fe::graph::Graph> graph;
    int64_t workspace = 0;
    std::string refusal;
};

struct Cache {
    std::mutex lock;
    std::map<Key, std::shared_ptr<const Plan>> plans;
};

Cache& cache() {
    static Cache* const kept = new Cache;  // Plans outlive the context at exit, where destroying them would fail.
    return *kept;
}

fe::DataType_t type_of(int format) {
    return format == 0 ? fe::DataType_t::FLOAT : format == 1 ? fe::DataType_t::HALF : fe::DataType_t::BFLOAT16;
}

Key key_of(const MarqueeAttention& a, bool biased, int card) {
    Key key{};
    size_t at = 0;
    auto add = [&](int64_t value) { key[at++] = value; };
    for (int64_t value : {a.batch, a.heads, a.queries, a.keys, a.dim}) add(value);
    for (auto* strides : {a.q_stride, a.k_stride, a.v_stride, a.o_stride})
        for (int i = 0; i < 3; i++) add(strides[i]);
    if (biased) {
        add(a.bias_batch), add(a.bias_heads);
        for (int64_t stride : a.bias_stride) add(stride);
    } else {
        at += 5;
    }
    int32_t scale;
    static_assert(sizeof scale == sizeof a.scale);
    std::memcpy(&scale, &a.scale, sizeof scale);
    add(a.format + 16 * a.bias_format + 256 * a.causal + 512 * biased), add(scale), add(card);
    return key;
}

std::shared_ptr<const Plan> build(const MarqueeAttention& a, bool biased, cudnnHandle_t handle) {
    auto plan = std::make_shared<Plan>();
    if (a.format == 0) {
        // 9.19 builds a plan and then reads memory that is not there.
        plan->refusal = "f32";
        return plan;
    }
    plan->graph = std::make_shared<fe::graph::Graph>();
    auto& graph = *plan->graph;
    graph.set_io_data_type(type_of(a.format))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    auto tensor = [&](Uid uid, const char* name, int64_t tokens, const int64_t* stride) {
        return graph.tensor(fe::graph::Tensor_attributes()
                                .set_uid(uid)
                                .set_name(name)
                                .set_dim({a.batch, a.heads, tokens, a.dim})
                                .set_stride({stride[0], stride[2], stride[1], 1}));
    };
    auto q = tensor(Q, "q", a.queries, a.q_stride);
    auto k = tensor(K, "k", a.keys, a.k_stride);
    auto v = tensor(V, "v", a.keys, a.v_stride);
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(false).set_attn_scale(a.scale);
    if (a.causal) {
        options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
    }
    if (biased) {
        options.set_bias(graph.tensor(fe::graph::Tensor_attributes()
                                          .set_uid(Bias)
                                          .set_name("bias")
                                          .set_data_type(type_of(a.bias_format))
                                          .set_dim({a.bias_batch, a.bias_heads, a.queries, a.keys})
                                          .set_stride({a.bias_stride[0], a.bias_stride[1], a.bias_stride[2], 1})));
    }
    auto [o, statistics] = graph.sdpa(q, k, v, options);
    o->set_output(true)
        .set_uid(O)
        .set_dim({a.batch, a.heads, a.queries, a.dim})
        .set_stride({a.o_stride[0], a.o_stride[2], a.o_stride[1], 1});
    auto error = graph.build(handle, {fe::HeurMode_t::A});
    if (error.is_good()) error = graph.get_workspace_size(plan->workspace);
    if (error.is_bad()) {
        plan->refusal = error.get_message();
        plan->graph = nullptr;
    }
    return plan;
}

// The plan for `a`, built if this is the first time; nullptr with a fault if there is none.
std::shared_ptr<const Plan> plan_for(const MarqueeAttention& a, bool biased, cudnnHandle_t handle) {
    int card = 0;
    cudaGetDevice(&card);
    Cache& kept = cache();
    std::lock_guard<std::mutex> guard(kept.lock);
    auto& plan = kept.plans[key_of(a, biased, card)];
    if (!plan) plan = build(a, biased, handle);
    if (!plan->graph) {
        marquee::fail("cuDNN has no attention for this shape: " + plan->refusal);
        return nullptr;
    }
    return plan;
}
}  // namespace

// Builds the plan and runs nothing: 0 if cuDNN takes the shape.
MARQUEE_EXPORT int marquee_attention_cudnn_prepare(const MarqueeAttention* a, int biased, cudaStream_t stream) try {
    cudnnHandle_t handle = marquee::cudnn_handle(stream);
    return handle && plan_for(*a, biased != 0, handle) ? 0 : -1;
} catch (const std::exception& error) {
    return marquee::fail(std::string("cuDNN, attention: ") + error.what());
}

// `bias` may be null. Addresses are multiples of 16 bytes.
MARQUEE_EXPORT int marquee_attention_cudnn(const MarqueeAttention* a, const void* q, const void* k, const void* v,
                                           const void* bias, void* o, cudaStream_t stream) try {
    cudnnHandle_t handle = marquee::cudnn_handle(stream);
    if (!handle) return -1;
    const auto plan = plan_for(*a, bias != nullptr, handle);
    if (!plan) return -1;
    std::unordered_map<int64_t, void*> pack = {
        {Q, const_cast<void*>(q)}, {K, const_cast<void*>(k)}, {V, const_cast<void*>(v)}, {O, o}};
    if (bias) pack[Bias] = const_cast<void*>(bias);
    void* workspace = nullptr;
    if (plan->workspace > 0) {
        const cudaError_t error = cudaMallocAsync(&workspace, plan->workspace, stream);
        if (error != cudaSuccess) return error;
    }
    const int code = marquee::cudnn_check(plan->graph->execute(handle, pack, workspace), "attention");
    if (workspace) cudaFreeAsync(workspace, stream);
    return code;
} catch (const std::exception& error) {
    return marquee::fail(std::string("cuDNN, attention: ") + error.what());
}
