// cuDNN's graph API for the shims: the handle and errors. The frontend's own header takes a minute to compile, so the
// shims that build graphs include <cudnn_frontend.h> themselves.
//
// The library is opened when it is first asked for (cudnn_loader.cpp), so a machine without it gets a named error from
// the function that needed it, and a program that never needs it starts without.
#pragma once
#include <cudnn.h>

#include "fault.hpp"

namespace marquee {
// This thread's handle, set to `stream`; nullptr (and a fault) if cuDNN is missing or refuses the card. Handles belong to
// the thread and the current card, as cuDNN asks, and live as long as the thread.
cudnnHandle_t cudnn_handle(cudaStream_t stream);

// 0, or the fault with what was being done. `Error` is the frontend's error_t.
template <typename Error>
int cudnn_check(Error error, const char* doing) {
    return error.is_good() ? 0 : fail(std::string("cuDNN, ") + doing + ": " + error.get_message());
}
}  // namespace marquee
