// What a function with a C interface returns when it fails, and where the reason waits.
//
// 0 is success, a positive number a cudaError_t, -1 a failure in words that this thread can read with
// marquee_fault(-1) until its next failure. Included by every shim; the Rust side is src/cuda/launch.rs.
#pragma once
#include <string>

#define MARQUEE_EXPORT extern "C" __attribute__((visibility("default")))

namespace marquee {
// Keeps `reason` for marquee_fault and returns -1.
int fail(const std::string& reason);
}  // namespace marquee
