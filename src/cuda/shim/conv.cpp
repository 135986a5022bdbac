// Two-dimensional convolution, channels last, through cuDNN's graph API.
//
//   y[n, p, q, o] = sum over r, s, i of x[n, stride p + r - before, stride q + s - before, i] w[o, r, s, i] + bias[o]
//
// Rounding: products and sums are f32 (f32 tensors: no TF32), one rounding to the tensors' type at the end; the bias enters
// before it. Source: cuDNN 9 developer guide, "Graph API", convolution forward with pointwise epilogue.
// FLOPs: 2 n p q o r s i. Measured on an H100: 700 to 790 TFLOP/s on the autoencoder's large shapes in bf16.
//
// A plan with a bias comes ready made: 5 ms to choose, nothing to compile. One that also adds a residual is compiled at run
// time (0.5 s each) and no faster than a pass of its own afterwards, so there is none. 1 x 1 kernels take 100 ms to choose;
// they are matrix products and belong elsewhere. Plans live as long as the process, one for each shape. cuDNN is
// opened at run time (cudnn_loader.cpp); without it `marquee_conv_plan` fails and callers take another way.

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>

#include <cudnn_frontend.h>

#include "cudnn.hpp"

namespace {

namespace fe = cudnn_frontend;

enum Tensor : int64_t { X = 1, W, BIAS, Y };

// No plan may ask for more; the fastest plans for pictures ask for next to nothing.
constexpr int64_t kWorkspace = int64_t(256) << 20;

}  // namespace

// Mirrored by `Shape` in src/cuda/conv.rs.
extern "C" struct marquee_conv_shape {
    int32_t format;  // 0 f32, 1 f16, 2 bf16
    int32_t batch, height, width, inputs, outputs, kernel, stride;
    int32_t before, after;  // zeros above and left, below and right
    int32_t bias;  // 1: added
};

namespace {

using Key = std::tuple<int, int, int, int, int, int, int, int, int, int, int>;

Key key_of(const marquee_conv_shape& s) {
    return {s.format,  s.batch,  s.height, s.width, s.inputs, s.outputs,
            s.kernel, s.stride, s.before, s.after, s.bias};
}

struct Plan {
    fe::graph::Graph graph;
    int64_t workspace = 0;
};

// The operation graph, without plans.
fe::error_t describe(fe::graph::Graph& graph, const marquee_conv_shape& s) {
    const auto type = s.format == 0 ? fe::DataType_t::FLOAT : s.format == 1 ? fe::DataType_t::HALF : fe::DataType_t::BFLOAT16;
    graph.set_io_data_type(type)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const auto picture = [&](const char* name, int64_t uid, int64_t h, int64_t w, int64_t c) {
        return fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim({s.batch, c, h, w}).set_stride(
            {h * w * c, 1, w * c, c});
    };
    const int64_t kernel = s.kernel, inputs = s.inputs, outputs = s.outputs;
    const int64_t rows = (s.height + s.before + s.after - s.kernel) / s.stride + 1;
    const int64_t columns = (s.width + s.before + s.after - s.kernel) / s.stride + 1;
    auto x = graph.tensor(picture("x", X, s.height, s.width, inputs));
    auto w = graph.tensor(fe::graph::Tensor_attributes()
                              .set_name("w")
                              .set_uid(W)
                              .set_dim({outputs, inputs, kernel, kernel})
                              .set_stride({kernel * kernel * inputs, 1, kernel * inputs, inputs}));
    auto y = graph.conv_fprop(x, w,
                              fe::graph::Conv_fprop_attributes()
                                  .set_pre_padding({s.before, s.before})
                                  .set_post_padding({s.after, s.after})
                                  .set_stride({s.stride, s.stride})
                                  .set_dilation({1, 1}));
    const auto add = fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD);
    if (s.bias) {
        auto bias = graph.tensor(fe::graph::Tensor_attributes()
                                     .set_name("bias")
                                     .set_uid(BIAS)
                                     .set_dim({1, outputs, 1, 1})
                                     .set_stride({outputs, 1, outputs, outputs}));
        y = graph.pointwise(y, bias, add);
    }
    y->set_output(true)
        .set_uid(Y)
        .set_data_type(type)
        .set_dim({s.batch, outputs, rows, columns})
        .set_stride({rows * columns * outputs, 1, columns * outputs, outputs});
    return graph.validate();
}

fe::error_t build(Plan& plan, const marquee_conv_shape& s, cudnnHandle_t handle) {
    auto error = describe(plan.graph, s);
    if (error.is_good()) error = plan.graph.build_operation_graph(handle);
    if (error.is_good()) error = plan.graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
    if (error.is_good()) plan.graph.deselect_workspace_greater_than(kWorkspace);
    // Tensor cores multiply f32 in TF32.
    if (error.is_good() && s.format == 0) {
        plan.graph.deselect_numeric_notes(
            {fe::NumericalNote_t::TENSOR_CORE, fe::NumericalNote_t::DOWN_CONVERT_INPUTS});
    }
    if (error.is_good()) error = plan.graph.check_support();
    if (error.is_good()) error = plan.graph.build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE);
    if (error.is_good()) plan.workspace = plan.graph.get_workspace_size();
    return error;
}

std::mutex plans_mutex;
std::map<Key, std::unique_ptr<Plan>> plans;

}  // namespace

// Finds or builds the plan of a shape: `*plan`, which is never freed, and `*workspace` in bytes. Several threads may build
// plans at the same time.
MARQUEE_EXPORT int marquee_conv_plan(const marquee_conv_shape* shape, void** plan, size_t* workspace) {
    const auto give = [&](Plan& found) {
        *plan = &found;
        *workspace = static_cast<size_t>(found.workspace);
        return 0;
    };
    try {
        const auto key = key_of(*shape);
        {
            const std::lock_guard<std::mutex> lock(plans_mutex);
            const auto found = plans.find(key);
            if (found != plans.end()) return give(*found->second);
        }
        const cudnnHandle_t handle = marquee::cudnn_handle(nullptr);
        if (!handle) return -1;
        auto made = std::make_unique<Plan>();
        if (const int fault = marquee::cudnn_check(build(*made, *shape, handle), "planning a convolution")) return fault;
        const std::lock_guard<std::mutex> lock(plans_mutex);
        auto& kept = plans[key];
        if (!kept) kept = std::move(made);
        return give(*kept);
    } catch (const std::exception& error) {
        return marquee::fail(std::string("planning a convolution: ") + error.what());
    }
}

// Runs a plan. `bias` may be null where the shape has none.
MARQUEE_EXPORT int marquee_conv_run(void* plan, const void* x, const void* w, const void* bias, void* y,
                                    void* workspace, cudaStream_t stream) {
    try {
        const cudnnHandle_t handle = marquee::cudnn_handle(stream);
        if (!handle) return -1;
        std::unordered_map<int64_t, void*> pack{{X, const_cast<void*>(x)}, {W, const_cast<void*>(w)}, {Y, y}};
        if (bias) pack[BIAS] = const_cast<void*>(bias);
        return marquee::cudnn_check(static_cast<Plan*>(plan)->graph.execute(handle, pack, workspace),
                                    "running a convolution");
    } catch (const std::exception& error) {
        return marquee::fail(std::string("running a convolution: ") + error.what());
    }
}
