// Opens libcudnn.so.9 at first use and answers for the few of its functions that the C++ frontend calls.
//
// The frontend has a mode of its own for this, which also looks for a shared libcudart; ours is linked statically. These
// functions stay inside the program (hidden), so the library's own references to the same names are untouched.
#include <dlfcn.h>

#include <mutex>
#include <string>
#include <unordered_map>

#include "cudnn.hpp"

namespace {
constexpr const char* kLibrary = "libcudnn.so.9";

struct Library {
    void* handle = nullptr;
    std::string fault;

    Library() {
        handle = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
        if (!handle) {
            const char* reason = dlerror();
            fault = std::string(kLibrary) + " cannot be opened (" + (reason ? reason : "no reason given") +
                    "): install cuDNN 9.14 or newer for CUDA 13, or name its folder in LD_LIBRARY_PATH";
        }
    }
};

Library& library() {
    static Library opened;
    return opened;
}

template <typename Function>
Function* symbol(const char* name) {
    return library().handle ? reinterpret_cast<Function*>(dlsym(library().handle, name)) : nullptr;
}
}  // namespace

// The status stands for "no library": the reason is in cudnn_handle's fault, which every user meets first.
#define FORWARD(name, parameters, arguments)                               \
    extern "C" cudnnStatus_t name parameters {                             \
        static auto* const function = symbol<cudnnStatus_t parameters>(#name); \
        return function ? function arguments : CUDNN_STATUS_NOT_INITIALIZED;   \
    }

FORWARD(cudnnCreate, (cudnnHandle_t * handle), (handle))
FORWARD(cudnnDestroy, (cudnnHandle_t handle), (handle))
FORWARD(cudnnSetStream, (cudnnHandle_t handle, cudaStream_t stream), (handle, stream))
FORWARD(cudnnGetStream, (cudnnHandle_t handle, cudaStream_t* stream), (handle, stream))
FORWARD(cudnnBackendCreateDescriptor, (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor),
        (type, descriptor))
FORWARD(cudnnBackendDestroyDescriptor, (cudnnBackendDescriptor_t descriptor), (descriptor))
FORWARD(cudnnBackendFinalize, (cudnnBackendDescriptor_t descriptor), (descriptor))
FORWARD(cudnnBackendSetAttribute,
        (cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         int64_t count, const void* elements),
        (descriptor, name, type, count, elements))
FORWARD(cudnnBackendGetAttribute,
        (cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         int64_t wanted, int64_t* count, void* elements),
        (descriptor, name, type, wanted, count, elements))
FORWARD(cudnnBackendExecute,
        (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack), (handle, plan, pack))
FORWARD(cudnnBackendPopulateCudaGraph,
        (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack, cudaGraph_t graph),
        (handle, plan, pack, graph))
FORWARD(cudnnBackendUpdateCudaGraph,
        (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack, cudaGraph_t graph),
        (handle, plan, pack, graph))
FORWARD(cudnnCreateFilterDescriptor, (cudnnFilterDescriptor_t * filter), (filter))
FORWARD(cudnnDestroyFilterDescriptor, (cudnnFilterDescriptor_t filter), (filter))
FORWARD(cudnnSetFilterNdDescriptor,
        (cudnnFilterDescriptor_t filter, cudnnDataType_t type, cudnnTensorFormat_t format, int count, const int dims[]),
        (filter, type, format, count, dims))

extern "C" size_t cudnnGetVersion() {
    static auto* const function = symbol<size_t()>("cudnnGetVersion");
    return function ? function() : 0;
}

extern "C" const char* cudnnGetErrorString(cudnnStatus_t status) {
    static auto* const function = symbol<const char*(cudnnStatus_t)>("cudnnGetErrorString");
    return function ? function(status) : "cuDNN is missing";
}

extern "C" void cudnnGetLastErrorString(char* message, size_t size) {
    static auto* const function = symbol<void(char*, size_t)>("cudnnGetLastErrorString");
    if (function) {
        function(message, size);
    } else if (size) {
        message[0] = '\0';
    }
}

cudnnHandle_t marquee::cudnn_handle(cudaStream_t stream) {
    if (!library().handle) {
        fail(library().fault);
        return nullptr;
    }
    // Never destroyed: at a thread's end the card's context may be gone already.
    thread_local std::unordered_map<int, cudnnHandle_t> handles;
    int card = 0;
    if (cudaGetDevice(&card) != cudaSuccess) {
        fail("cuDNN: this thread has no card");
        return nullptr;
    }
    cudnnHandle_t& handle = handles[card];
    if (!handle) {
        const cudnnStatus_t status = cudnnCreate(&handle);
        if (status != CUDNN_STATUS_SUCCESS) {
            handle = nullptr;
            fail(std::string("cuDNN does not start: ") + cudnnGetErrorString(status));
            return nullptr;
        }
    }
    const cudnnStatus_t status = cudnnSetStream(handle, stream);
    if (status != CUDNN_STATUS_SUCCESS) {
        fail(std::string("cuDNN does not take the stream: ") + cudnnGetErrorString(status));
        return nullptr;
    }
    return handle;
}

// cuDNN's version as it counts (91400 for 9.14.0), or 0 without it.
MARQUEE_EXPORT size_t marquee_cudnn_version() { return cudnnGetVersion(); }
