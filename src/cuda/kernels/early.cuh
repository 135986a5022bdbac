// Kernels that are set up while the one before them ends, on cards that can (Hopper and later): a launch is a microsecond
// that nothing else has to wait for.
//
// Such a kernel begins with `in_order()`, before it touches memory: what came before is then done and seen. Every kernel
// that is launched by `launch_early` must, or it reads what is not there yet.
#pragma once
#include <atomic>

#include "numeric.cuh"

namespace marquee {

// Waits for the kernels before, and lets the next one be set up.
__device__ __forceinline__ void in_order() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Compiled as all kernels of its file are.
static __global__ void probe() {}

// Whether this file's kernels wait in `in_order`: they do not where they were compiled for older cards, whatever the card is.
static bool waits() {
    constexpr int kDevices = 64;
    static std::atomic<int> known[kDevices];
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
    int answer = known[device].load(std::memory_order_relaxed);
    if (answer == 0) {
        cudaFuncAttributes of{};
        answer = cudaFuncGetAttributes(&of, probe) == cudaSuccess && of.ptxVersion >= 90 ? 1 : -1;
        known[device].store(answer, std::memory_order_relaxed);
    }
    return answer > 0;
}

template <typename... Parameters, typename... Values>
static int launch_early(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, cudaStream_t stream, Values... values) {
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = waits() ? 1 : 0;
    return static_cast<int>(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...));
}
}  // namespace marquee
