// Linear layers through cuBLASLt: y = f(x Wᵀ + b), or r + x Wᵀ + b, accumulated in f32 and rounded once, at the end.
//
// x (rows, inputs), W (outputs, inputs), y and r (rows, outputs), rows at any distance, so that x may be a slice of a wider
// buffer and y be written beside other columns. A residual r costs a read of its own instead of a pass of three. f is nothing or GELU in its tanh form.
//
// e4m3 inputs: y = f(x_scale w_scale (x Wᵀ) + b), scales in f32 on the card, one for all or one a row of x and of W.
//
// Source: the cuBLASLt documentation; cuBLAS counts columns first, so the product is computed as yᵀ = W xᵀ. FLOPs: 2 rows
// inputs outputs.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "fault.hpp"

// The interface's argument block; src/cuda/linear.rs has the same.
struct MarqueeLinear {
    int64_t rows, inputs, outputs;
    // Distances between rows, in elements.
    int64_t x_row, w_row, y_row;
    // Of x and W: 0 f32, 1 f16, 2 bf16, 3 e4m3; of y, bias.
    int32_t format, y_format;
    // 0 nothing, 1 GELU (tanh).
    int32_t activation;
    // e4m3 only: 0 one scale for all of x and one for W, 1 one a row of each.
    int32_t scales_by_row;
    // e4m3 only: let the tensor cores add in less than f32 between promotions.
    int32_t fast;
    // Which of the candidates that cuBLASLt proposes, best guess first.
    int32_t candidate;
    // Distance between rows of the residual, which is of y's format; 0 if there is none.
    int64_t residual_row;
};

namespace {
using marquee::fail;

constexpr size_t kWorkspace = size_t(32) << 20;

std::string text_of(cublasStatus_t status) { return cublasLtGetStatusString(status); }

#define TRY(call)                                                                                \
    do {                                                                                         \
        const cublasStatus_t status = call;                                                      \
        if (status != CUBLAS_STATUS_SUCCESS) return fail("cuBLASLt, " #call ": " + text_of(status)); \
    } while (0)

cudaDataType_t type_of(int format) {
    switch (format) {
        case 0: return CUDA_R_32F;
        case 1: return CUDA_R_16F;
        case 2: return CUDA_R_16BF;
        default: return CUDA_R_8F_E4M3;
    }
}

// cuBLASLt's descriptors; freed with the plan.
struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr, residual = nullptr;
    std::vector<cublasLtMatmulHeuristicResult_t> candidates;

    ~Plan() {
        if (residual) cublasLtMatrixLayoutDestroy(residual);
        if (y) cublasLtMatrixLayoutDestroy(y);
        if (x) cublasLtMatrixLayoutDestroy(x);
        if (w) cublasLtMatrixLayoutDestroy(w);
        if (operation) cublasLtMatmulDescDestroy(operation);
    }
};

using Key = std::array<int64_t, 14>;

struct Card {
    std::mutex lock;
    cublasLtHandle_t handle = nullptr;
    std::map<Key, std::unique_ptr<Plan>> plans;
};

// The current card's; nullptr with a fault if cuBLASLt does not start.
Card* card() {
    static std::mutex lock;
    static auto* const cards = new std::map<int, std::unique_ptr<Card>>;  // Outlives the context at exit.
    int number = 0;
    if (cudaGetDevice(&number) != cudaSuccess) {
        fail("cuBLASLt: this thread has no card");
        return nullptr;
    }
    std::lock_guard<std::mutex> guard(lock);
    auto& entry = (*cards)[number];
    if (!entry) {
        auto fresh = std::make_unique<Card>();
        const cublasStatus_t status = cublasLtCreate(&fresh->handle);
        if (status != CUBLAS_STATUS_SUCCESS) {
            fail("cuBLASLt does not start: " + text_of(status));
            return nullptr;
        }
        entry = std::move(fresh);
    }
    return entry.get();
}

// How far an address is a multiple of a power of two, up to 256: cuBLASLt chooses by it.
uint32_t alignment_of(const void* address) {
    const auto bits = reinterpret_cast<uintptr_t>(address);
    uint32_t alignment = 256;
    while (alignment > 1 && bits % alignment != 0) alignment /= 2;
    return alignment;
}

int build(const MarqueeLinear& a, bool biased, uint32_t alignment, cublasLtHandle_t handle, Plan& plan) {
    const bool eight = a.format == 3;
    TRY(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    auto set = [&](cublasLtMatmulDescAttributes_t name, const auto& value) {
        return cublasLtMatmulDescSetAttribute(plan.operation, name, &value, sizeof value);
    };
    TRY(set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
    TRY(set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N));
    const cublasLtEpilogue_t epilogue =
        a.activation ? (biased ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU)
                     : (biased ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
    TRY(set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue));
    if (biased) {
        TRY(set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(a.y_format)));
        // The heuristic asks whether there is an address, not what lies there; the real one is set before each launch.
        TRY(set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, reinterpret_cast<void*>(uintptr_t(256))));
    }
    if (eight) {
        TRY(set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t(a.fast)));
        const cublasLtMatmulMatrixScale_t mode =
            a.scales_by_row ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
        TRY(set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode));
        TRY(set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode));
        TRY(set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, reinterpret_cast<void*>(uintptr_t(256))));
        TRY(set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, reinterpret_cast<void*>(uintptr_t(256))));
    }
    TRY(cublasLtMatrixLayoutCreate(&plan.w, type_of(a.format), a.inputs, a.outputs, a.w_row));
    TRY(cublasLtMatrixLayoutCreate(&plan.x, type_of(a.format), a.inputs, a.rows, a.x_row));
    TRY(cublasLtMatrixLayoutCreate(&plan.y, type_of(a.y_format), a.outputs, a.rows, a.y_row));
    if (a.residual_row) {
        TRY(cublasLtMatrixLayoutCreate(&plan.residual, type_of(a.y_format), a.outputs, a.rows, a.residual_row));
    }
    cublasLtMatmulPreference_t preference = nullptr;
    TRY(cublasLtMatmulPreferenceCreate(&preference));
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
        cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
    plan.candidates.resize(16);
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, plan.operation, plan.w, plan.x, plan.residual ? plan.residual : plan.y, plan.y, preference,
                                       static_cast<int>(plan.candidates.size()), plan.candidates.data(), &found);
    cublasLtMatmulPreferenceDestroy(preference);
    plan.candidates.resize(status == CUBLAS_STATUS_SUCCESS ? found : 0);
    plan.candidates.erase(std::remove_if(plan.candidates.begin(), plan.candidates.end(),
                                         [](const auto& one) { return one.state != CUBLAS_STATUS_SUCCESS; }),
                          plan.candidates.end());
    if (plan.candidates.empty()) {
        return fail("cuBLASLt has no product of " + std::to_string(a.rows) + " x " + std::to_string(a.inputs) + " by " +
                    std::to_string(a.outputs) + " in format " + std::to_string(a.format) + ": " + text_of(status));
    }
    return 0;
}

int find(Card& on, const MarqueeLinear& a, bool biased, uint32_t alignment, Plan*& plan) {
    const Key key = {a.rows,     a.inputs, a.outputs,    a.x_row,         a.w_row, a.y_row,        a.format,
                     a.y_format, biased,   a.activation, a.scales_by_row, a.fast,  int64_t(alignment), a.residual_row};
    auto& entry = on.plans[key];
    if (!entry) {
        auto fresh = std::make_unique<Plan>();
        if (const int code = build(a, biased, alignment, on.handle, *fresh)) return code;
        entry = std::move(fresh);
    }
    plan = entry.get();
    return 0;
}
}  // namespace

// How many candidates there are for these arguments, or -1.
MARQUEE_EXPORT int marquee_linear_candidates(const MarqueeLinear* a, int biased, int alignment) {
    Card* const on = card();
    if (!on) return -1;
    std::lock_guard<std::mutex> guard(on->lock);
    Plan* plan = nullptr;
    if (find(*on, *a, biased != 0, alignment, plan)) return -1;
    return static_cast<int>(plan->candidates.size());
}

// `bias` may be null; the scales are looked at for e4m3 only, the residual where it has a distance. y must not overlap x or
// the residual.
MARQUEE_EXPORT int marquee_linear(const MarqueeLinear* a, const void* x, const void* w, const void* bias,
                                  const void* residual, const float* x_scale, const float* w_scale, void* y,
                                  cudaStream_t stream) {
    if (a->rows == 0 || a->outputs == 0) return 0;
    Card* const on = card();
    if (!on) return -1;
    // Alignments below 16 bytes are the exception; above, finer keys would only multiply the plans.
    const bool onto = a->residual_row != 0;
    const uint32_t alignment = std::min(
        {alignment_of(x), alignment_of(w), alignment_of(y), onto ? alignment_of(residual) : 16u, uint32_t(16)});
    std::lock_guard<std::mutex> guard(on->lock);
    Plan* plan = nullptr;
    if (const int code = find(*on, *a, bias != nullptr, alignment, plan)) return code;
    auto set = [&](cublasLtMatmulDescAttributes_t name, const void* address) {
        return cublasLtMatmulDescSetAttribute(plan->operation, name, &address, sizeof address);
    };
    if (bias) TRY(set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
    if (a->format == 3) {
        TRY(set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w_scale));
        TRY(set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scale));
    }
    const size_t last = plan->candidates.size() - 1;
    const auto& chosen = plan->candidates[std::min(last, static_cast<size_t>(std::max(a->candidate, 0)))];
    void* workspace = nullptr;
    if (chosen.workspaceSize > 0) {
        const cudaError_t error = cudaMallocAsync(&workspace, chosen.workspaceSize, stream);
        if (error != cudaSuccess) return error;
    }
    const float one = 1.0f, share = onto ? 1.0f : 0.0f;
    const void* const from = onto ? residual : y;
    cublasLtMatrixLayout_t const lies = onto ? plan->residual : plan->y;
    const cublasStatus_t status =
        cublasLtMatmul(on->handle, plan->operation, &one, w, plan->w, x, plan->x, &share, from, lies, y, plan->y,
                       &chosen.algo, workspace, chosen.workspaceSize, stream);
    if (workspace) cudaFreeAsync(workspace, stream);
    if (status != CUBLAS_STATUS_SUCCESS) return fail("cuBLASLt, product: " + text_of(status));
    return 0;
}
