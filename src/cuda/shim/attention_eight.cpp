// Attention in 8 bits through cuDNN's graph API, from Hopper on: o = softmax(q kᵀ scale) v, all four e4m3 with no scale (a
// number stands for itself), scores and softmax in f32. What softmax gives is rounded to e4m3 too, times 256 so that shares
// down to 2^-17 are not lost; o is rounded once.
//
// qkv (batch, tokens, q then k then v of all heads; contiguous), o (batch, tokens, heads dim; contiguous). Plans are kept by
// shape, refusals too: building the first takes cuDNN 0.8 s, another 0.06.
//
// Source: cuDNN's scaled dot product attention in FP8, see its documentation of the graph API; its o is e4m3 on Hopper. FLOPs:
// 4 batch heads tokens² dim. Measured on an H100 at FLUX's shape, under sustained load: 293 us, where bf16 takes 430.
#include <cuda_runtime_api.h>
#include <cudnn_frontend.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cudnn.hpp"

// The interface's argument block; src/cuda/attention_eight.rs has the same.
struct MarqueeAttentionEight {
    int64_t batch, heads, tokens, dim;
    float scale;
};

namespace {
namespace fe = cudnn_frontend;

enum Uid : int64_t { Q = 1, K, V, O, One, Shares, OverShares, LargestShare, LargestOutput };

// What softmax's shares are multiplied by; a power of two, so that dividing by it again is exact.
constexpr float kShares = 256.0f;

struct Plan {
    std::shared_ptr<fe::graph::Graph> graph;
    int64_t workspace = 0;
    std::string refusal;
};

// A card's plans, and the numbers in its memory that every plan reads or leaves.
struct Card {
    // 1, kShares, 1 / kShares, and two that cuDNN insists on writing: the largest share and output.
    float* numbers = nullptr;
    std::map<std::array<int64_t, 5>, std::shared_ptr<const Plan>> plans;
};

struct Cache {
    std::mutex lock;
    std::map<int, Card> cards;
};

Cache& cache() {
    static Cache* const kept = new Cache;  // Plans outlive the context at exit, where destroying them would fail.
    return *kept;
}

std::shared_ptr<const Plan> build(const MarqueeAttentionEight& a, cudnnHandle_t handle) {
    auto plan = std::make_shared<Plan>();
    plan->graph = std::make_shared<fe::graph::Graph>();
    auto& graph = *plan->graph;
    graph.set_io_data_type(fe::DataType_t::FP8_E4M3)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const std::vector<int64_t> dims = {a.batch, a.heads, a.tokens, a.dim};
    const auto strides = [&](int64_t columns) { return std::vector<int64_t>{a.tokens * columns, a.dim, columns, 1}; };
    const auto operand = [&](Uid uid, const char* name) {
        return graph.tensor(fe::graph::Tensor_attributes().set_uid(uid).set_name(name).set_dim(dims).set_stride(
            strides(3 * a.heads * a.dim)));
    };
    const auto number = [&](Uid uid, const char* name) {
        return graph.tensor(fe::graph::Tensor_attributes()
                                .set_uid(uid)
                                .set_name(name)
                                .set_dim({1, 1, 1, 1})
                                .set_stride({1, 1, 1, 1})
                                .set_data_type(fe::DataType_t::FLOAT));
    };
    auto q = operand(Q, "q"), k = operand(K, "k"), v = operand(V, "v");
    auto one = number(One, "one");
    auto options = fe::graph::SDPA_fp8_attributes().set_name("attention").set_generate_stats(false).set_attn_scale(a.scale);
    auto [o, statistics, share, output] = graph.sdpa_fp8(q, k, v, one, one, one, number(OverShares, "over shares"),
                                                         number(Shares, "shares"), one, options);
    o->set_output(true).set_uid(O).set_dim(dims).set_stride(strides(a.heads * a.dim));
    for (auto [largest, uid] : {std::pair{share, LargestShare}, std::pair{output, LargestOutput}}) {
        largest->set_output(true).set_uid(uid).set_dim({1, 1, 1, 1}).set_stride({1, 1, 1, 1}).set_data_type(fe::DataType_t::FLOAT);
    }
    auto error = graph.build(handle, {fe::HeurMode_t::A});
    if (error.is_good()) error = graph.get_workspace_size(plan->workspace);
    if (error.is_bad()) {
        plan->refusal = error.get_message();
        plan->graph = nullptr;
    }
    return plan;
}

// The current card with its numbers; nullptr with a fault if it has no room for them. The cache is locked.
Card* card(Cache& kept) {
    int number = 0;
    if (cudaGetDevice(&number) != cudaSuccess) {
        marquee::fail("cuDNN, attention in 8 bits: this thread has no card");
        return nullptr;
    }
    Card& on = kept.cards[number];
    if (!on.numbers) {
        const float values[5] = {1.0f, kShares, 1.0f / kShares, 0.0f, 0.0f};
        float* room = nullptr;
        cudaError_t error = cudaMalloc(&room, sizeof values);
        if (error == cudaSuccess) error = cudaMemcpy(room, values, sizeof values, cudaMemcpyHostToDevice);
        if (error != cudaSuccess) {
            if (room) cudaFree(room);
            marquee::fail(std::string("cuDNN, attention in 8 bits: ") + cudaGetErrorString(error));
            return nullptr;
        }
        on.numbers = room;
    }
    return &on;
}

// The plan for `a`, built if this is the first time, and the card's numbers; nullptr with a fault if there is none.
std::shared_ptr<const Plan> plan_for(const MarqueeAttentionEight& a, cudnnHandle_t handle, float*& numbers) {
    Cache& kept = cache();
    std::lock_guard<std::mutex> guard(kept.lock);
    Card* const on = card(kept);
    if (!on) return nullptr;
    numbers = on->numbers;
    int32_t scale;
    static_assert(sizeof scale == sizeof a.scale);
    std::memcpy(&scale, &a.scale, sizeof scale);
    auto& plan = on->plans[{a.batch, a.heads, a.tokens, a.dim, scale}];
    if (!plan) plan = build(a, handle);
    if (!plan->graph) {
        marquee::fail("cuDNN has no attention in 8 bits for this shape: " + plan->refusal);
        return nullptr;
    }
    return plan;
}
}  // namespace

// Builds the plan and runs nothing: 0 if cuDNN takes the shape.
MARQUEE_EXPORT int marquee_attention_eight_prepare(const MarqueeAttentionEight* a, cudaStream_t stream) try {
    const cudnnHandle_t handle = marquee::cudnn_handle(stream);
    float* numbers = nullptr;
    return handle && plan_for(*a, handle, numbers) ? 0 : -1;
} catch (const std::exception& error) {
    return marquee::fail(std::string("cuDNN, attention in 8 bits: ") + error.what());
}

// Addresses are multiples of 16 bytes.
MARQUEE_EXPORT int marquee_attention_eight(const MarqueeAttentionEight* a, const void* qkv, void* o, cudaStream_t stream) try {
    const cudnnHandle_t handle = marquee::cudnn_handle(stream);
    if (!handle) return -1;
    float* numbers = nullptr;
    const auto plan = plan_for(*a, handle, numbers);
    if (!plan) return -1;
    auto* const first = static_cast<uint8_t*>(const_cast<void*>(qkv));
    const int64_t inner = a->heads * a->dim;
    std::unordered_map<int64_t, void*> pack = {{Q, first},
                                               {K, first + inner},
                                               {V, first + 2 * inner},
                                               {O, o},
                                               {One, numbers},
                                               {Shares, numbers + 1},
                                               {OverShares, numbers + 2},
                                               {LargestShare, numbers + 3},
                                               {LargestOutput, numbers + 4}};
    void* workspace = nullptr;
    if (plan->workspace > 0) {
        const cudaError_t error = cudaMallocAsync(&workspace, plan->workspace, stream);
        if (error != cudaSuccess) return error;
    }
    const int code = marquee::cudnn_check(plan->graph->execute(handle, pack, workspace), "attention in 8 bits");
    if (workspace) cudaFreeAsync(workspace, stream);
    return code;
} catch (const std::exception& error) {
    return marquee::fail(std::string("cuDNN, attention in 8 bits: ") + error.what());
}
