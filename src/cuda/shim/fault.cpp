#include "fault.hpp"

#include <cuda_runtime_api.h>

namespace {
thread_local std::string last;
}

int marquee::fail(const std::string& reason) {
    last = reason;
    return -1;
}

// The reason behind a returned code; valid until this thread's next failure.
MARQUEE_EXPORT const char* marquee_fault(int code) {
    return code < 0 ? last.c_str() : cudaGetErrorString(static_cast<cudaError_t>(code));
}

// The card's compute capability times ten (90 for Hopper), or 0 if it cannot be asked.
MARQUEE_EXPORT int marquee_capability(int card) {
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, card) != cudaSuccess) return 0;
    if (cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, card) != cudaSuccess) return 0;
    return 10 * major + minor;
}
