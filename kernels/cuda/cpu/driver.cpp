// A libcuda.so whose device is this process: the calls of the driver that qconv makes (through cudarc), over run_grid.
//
// 1. Device memory is host memory, filled with 0xff: what was never written is NaN. Every copy is checked against the
//    allocations. Streams run at once, in the order of the calls; a stream that captures keeps the calls in a graph.
// 2. As in CUDA, a kernel that failed leaves the context unusable: all later calls give the same error.
// 3. Environment: QCONV_STAND_IN_DEVICES (1), QCONV_STAND_IN_CAPABILITY (9.0), QCONV_STAND_IN_MEMORY (bytes; 8 GiB) make
//    devices that qconv has to refuse. QCONV_STAND_IN_NVML=0: the management library does not start.
#include "runtime.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

// CUresult, as far as it is used here. Source: cuda.h 12.4.
enum Status {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_HANDLE = 400, NOT_FOUND = 500,
    LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901
};
struct StatusName { Status status; const char *name, *sentence; };
constexpr StatusName STATUS_NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure (the stand-in told more on standard error)"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};

using Step = std::function<Status()>;
using Clock = std::chrono::steady_clock;
struct Graph { std::vector<Step> steps; };
struct Stream { Graph* capture = nullptr; };

// Streams that this thread captures: recordings are thread-local, and other threads may allocate meanwhile.
thread_local unsigned capturing = 0;
struct Event { Clock::time_point time; bool timed; };
struct Function { const stand_in::Kernel* kernel; unsigned most_shared = 48 << 10; };

struct Device {
    std::recursive_mutex mutex;           // tests run on several threads; one thing happens at a time
    std::map<uintptr_t, size_t> memory;   // address -> bytes
    size_t used = 0;
    Status broken = SUCCESS;
    Stream null_stream;
    std::map<const stand_in::Kernel*, Function> functions;

    // Never destroyed: tests may still free memory while the process ends.
    static Device& get() { static Device& device = *new Device; return device; }
};

const char* setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}
size_t total_memory() { return strtoull(setting("QCONV_STAND_IN_MEMORY", "8589934592"), nullptr, 10); }
int devices() { return atoi(setting("QCONV_STAND_IN_DEVICES", "1")); }
void capability(int& major, int& minor) {
    if (sscanf(setting("QCONV_STAND_IN_CAPABILITY", "9.0"), "%d.%d", &major, &minor) != 2) major = minor = 0;
}

Stream& stream_of(void* stream) {  // 0, 1 and 2 name the default streams
    return reinterpret_cast<uintptr_t>(stream) > 2 ? *static_cast<Stream*>(stream) : Device::get().null_stream;
}

// Now, or when the graph is launched.
Status submit(void* stream, Step step) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    if (device.broken) return device.broken;
    if (Graph* graph = stream_of(stream).capture) {
        graph->steps.push_back(std::move(step));
        return SUCCESS;
    }
    return step();
}

bool allocated(uint64_t at, size_t bytes) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    auto after = device.memory.upper_bound(at);
    if (after == device.memory.begin()) return false;
    --after;
    return at + bytes <= after->first + after->second;
}

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

#define CUDA_API extern "C" __attribute__((visibility("default"))) Status

// ---- the device
CUDA_API cuInit(unsigned) { return devices() > 0 ? SUCCESS : NO_DEVICE; }
CUDA_API cuDriverGetVersion(int* version) { *version = 12040; return SUCCESS; }
CUDA_API cuDeviceGetCount(int* count) { *count = devices(); return SUCCESS; }
CUDA_API cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal < devices() ? SUCCESS : INVALID_DEVICE; }
CUDA_API cuDeviceGetName(char* name, int room, int) { snprintf(name, size_t(room), "stand-in on the CPU"); return SUCCESS; }
CUDA_API cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = total_memory(); return SUCCESS; }
CUDA_API cuDeviceGetAttribute(int* value, int attribute, int) {
    int major, minor;
    capability(major, minor);
    switch (attribute) {                  // CUdevice_attribute
        case 1: *value = 1024; break;     // threads of a block
        case 8: *value = 48 << 10; break; // shared memory of a block
        case 10: *value = 32; break;      // lanes of a warp
        case 13: *value = 1000; break;    // clock, kHz
        case 16: *value = 4; break;       // multiprocessors
        case 36: *value = 1000; break;    // memory clock, kHz
        case 37: *value = 64; break;      // width of the memory bus, bits
        case 38: *value = 4 << 20; break; // second-level cache
        case 75: *value = major; break;
        case 76: *value = minor; break;
        case 97: *value = 227 << 10; break; // shared memory of a block that asks for more
        default: *value = 0; break;       // 115, memory pools: none, so that cudarc calls cuMemAlloc_v2
    }
    return SUCCESS;
}

// ---- the context: there is one
CUDA_API cuDevicePrimaryCtxRetain(void** context, int) { *context = &Device::get(); return SUCCESS; }
CUDA_API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CUDA_API cuCtxSetCurrent(void*) { return SUCCESS; }
CUDA_API cuCtxGetCurrent(void** context) { *context = &Device::get(); return SUCCESS; }
CUDA_API cuCtxSynchronize() { return capturing ? CAPTURE_UNSUPPORTED : Device::get().broken; }

// ---- memory
CUDA_API cuMemGetInfo_v2(size_t* free, size_t* total) {
    std::lock_guard lock(Device::get().mutex);
    *total = total_memory();
    *free = *total - std::min(*total, Device::get().used);
    return SUCCESS;
}
CUDA_API cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    if (device.broken) return device.broken;
    if (capturing) return CAPTURE_UNSUPPORTED;
    if (!bytes) return INVALID_VALUE;
    if (bytes > total_memory() - std::min(total_memory(), device.used)) return OUT_OF_MEMORY;
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes)) return OUT_OF_MEMORY;  // as aligned as CUDA's
    memset(memory, 0xff, bytes);
    device.memory[reinterpret_cast<uintptr_t>(memory)] = bytes;
    device.used += bytes;
    *at = reinterpret_cast<uint64_t>(memory);
    return SUCCESS;
}
CUDA_API cuMemFree_v2(uint64_t at) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    auto found = device.memory.find(at);
    if (found == device.memory.end()) return INVALID_VALUE;
    device.used -= found->second;
    device.memory.erase(found);
    free(pointer(at));
    return SUCCESS;
}
CUDA_API cuMemHostAlloc(void** memory, size_t bytes, unsigned) { return (*memory = malloc(bytes)) ? SUCCESS : OUT_OF_MEMORY; }
CUDA_API cuMemFreeHost(void* memory) { free(memory); return SUCCESS; }
CUDA_API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    if (!allocated(to, bytes)) return INVALID_VALUE;
    return submit(stream, [=] { memcpy(pointer(to), from, bytes); return SUCCESS; });
}
CUDA_API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    if (!allocated(from, bytes)) return INVALID_VALUE;
    return submit(stream, [=] { memcpy(to, pointer(from), bytes); return SUCCESS; });
}
CUDA_API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    if (!allocated(from, bytes) || !allocated(to, bytes)) return INVALID_VALUE;
    return submit(stream, [=] { memmove(pointer(to), pointer(from), bytes); return SUCCESS; });
}
CUDA_API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
    if (!allocated(to, bytes)) return INVALID_VALUE;
    return submit(stream, [=] { memset(pointer(to), value, bytes); return SUCCESS; });
}

// ---- streams, events
CUDA_API cuStreamCreate(void** stream, unsigned) { *stream = new Stream; return SUCCESS; }
CUDA_API cuStreamDestroy_v2(void* stream) { delete static_cast<Stream*>(stream); return SUCCESS; }
CUDA_API cuStreamSynchronize(void* stream) { return stream_of(stream).capture ? CAPTURE_UNSUPPORTED : Device::get().broken; }
CUDA_API cuStreamWaitEvent(void*, void*, unsigned) { return Device::get().broken; }
CUDA_API cuEventCreate(void** event, unsigned flags) { *event = new Event{{}, !(flags & 2)}; return SUCCESS; }  // 2: not timed
CUDA_API cuEventDestroy_v2(void* event) { delete static_cast<Event*>(event); return SUCCESS; }
CUDA_API cuEventRecord(void* event, void* stream) {
    return submit(stream, [=] { static_cast<Event*>(event)->time = Clock::now(); return SUCCESS; });
}
CUDA_API cuEventSynchronize(void*) { return Device::get().broken; }
CUDA_API cuEventQuery(void*) { return Device::get().broken; }
CUDA_API cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    const Event *a = static_cast<Event*>(start), *b = static_cast<Event*>(end);
    if (!a->timed || !b->timed) return INVALID_HANDLE;
    *milliseconds = std::chrono::duration<float, std::milli>(b->time - a->time).count();
    return SUCCESS;
}

// ---- graphs
CUDA_API cuStreamBeginCapture_v2(void* stream, int) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    Stream& s = stream_of(stream);
    if (&s == &device.null_stream || s.capture) return CAPTURE_UNSUPPORTED;
    s.capture = new Graph;
    ++capturing;
    return SUCCESS;
}
CUDA_API cuStreamEndCapture(void* stream, void** graph) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    Stream& s = stream_of(stream);
    if (!s.capture) return INVALID_VALUE;
    *graph = s.capture;
    s.capture = nullptr;
    --capturing;
    return SUCCESS;
}
CUDA_API cuStreamIsCapturing(void* stream, int* status) { *status = stream_of(stream).capture ? 1 : 0; return SUCCESS; }
CUDA_API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    *executable = new Graph(*static_cast<Graph*>(graph));
    return SUCCESS;
}
CUDA_API cuGraphUpload(void*, void*) { return SUCCESS; }
CUDA_API cuGraphLaunch(void* executable, void* stream) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    if (stream_of(stream).capture) return CAPTURE_UNSUPPORTED;
    if (device.broken) return device.broken;
    for (Step& step : static_cast<Graph*>(executable)->steps)
        if (Status status = step()) return status;
    return SUCCESS;
}
CUDA_API cuGraphDestroy(void* graph) { delete static_cast<Graph*>(graph); return SUCCESS; }
CUDA_API cuGraphExecDestroy(void* executable) { delete static_cast<Graph*>(executable); return SUCCESS; }

// ---- modules: whatever is loaded, it has the kernels of this library
CUDA_API cuModuleLoadData(void** module, const void*) { *module = &Device::get(); return SUCCESS; }
CUDA_API cuModuleUnload(void*) { return SUCCESS; }
CUDA_API cuModuleGetFunction(void** function, void*, const char* name) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    for (const stand_in::Kernel* k = stand_in::Kernel::first; k; k = k->next)
        if (!strcmp(k->name, name)) {
            Function& known = device.functions[k];
            known.kernel = k;
            *function = &known;
            return SUCCESS;
        }
    return NOT_FOUND;
}
CUDA_API cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* bytes) {
    const stand_in::Kernel& kernel = *static_cast<Function*>(function)->kernel;
    if (index >= kernel.count) return INVALID_VALUE;
    *offset = 0;
    for (size_t i = 0; i <= index; ++i) {
        const size_t align = std::min<size_t>(kernel.sizes[i] & -kernel.sizes[i], 16);
        *offset = (*offset + align - 1) / align * align;
        if (i < index) *offset += kernel.sizes[i];
    }
    if (bytes) *bytes = kernel.sizes[index];
    return SUCCESS;
}
CUDA_API cuFuncSetAttribute(void* function, int attribute, int value) {
    if (attribute != 8) return SUCCESS;   // 8: the most dynamic shared memory
    if (value < 0 || value > 227 << 10) return INVALID_VALUE;
    static_cast<Function*>(function)->most_shared = unsigned(value);
    return SUCCESS;
}
CUDA_API cuFuncGetAttribute(int* value, int attribute, void* function) {
    *value = attribute == 0 ? int(static_cast<Function*>(function)->kernel->threads) : 0;  // 0: threads of a block
    return SUCCESS;
}
CUDA_API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                        void* stream, void** parameters, void**) {
    const Function& f = *static_cast<Function*>(function);
    const stand_in::Kernel& kernel = *f.kernel;
    if (shared > f.most_shared) return INVALID_VALUE;
    struct alignas(16) Room { char bytes[16]; };
    std::vector<std::vector<Room>> kept(kernel.count);  // a graph outlives the caller's variables
    for (unsigned i = 0; i < kernel.count; ++i) {
        kept[i].resize((kernel.sizes[i] + 15) / 16);
        memcpy(kept[i].data(), parameters[i], kernel.sizes[i]);
    }
    return submit(stream, [=, &kernel]() mutable {
        std::vector<void*> arguments;
        for (auto& parameter : kept) arguments.push_back(parameter.data());
        const char* message;
        if (stand_in::run_grid(kernel, {gx, gy, gz}, {bx, by, bz}, shared, arguments.data(), &message)) return SUCCESS;
        fprintf(stderr, "stand-in libcuda: %s\n", message);
        return Device::get().broken = LAUNCH_FAILED;
    });
}

// ---- NVML, as far as qconv asks it: the same library under the name libnvidia-ml.so.1. Source: nvml.h 12.4.
CUDA_API cuDeviceGetPCIBusId(char* text, int room, int) { snprintf(text, size_t(room), "0000:00:00.0"); return SUCCESS; }
CUDA_API nvmlInit_v2() { return atoi(setting("QCONV_STAND_IN_NVML", "1")) ? SUCCESS : Status(9); }  // 9: driver not loaded
CUDA_API nvmlShutdown() { return SUCCESS; }
CUDA_API nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** device) {
    *device = &Device::get();
    return strcmp(bus, "0000:00:00.0") ? Status(6) : SUCCESS;  // 6: not found
}
CUDA_API nvmlDeviceGetMemoryInfo(void* device, unsigned long long* total_free_used) {
    std::lock_guard lock(static_cast<Device*>(device)->mutex);
    total_free_used[0] = total_memory();
    total_free_used[2] = static_cast<Device*>(device)->used;
    total_free_used[1] = total_free_used[0] - total_free_used[2];
    return SUCCESS;
}
CUDA_API nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) { *milliwatts = 12345; return SUCCESS; }
CUDA_API nvmlDeviceGetUtilizationRates(void*, unsigned* gpu_memory) { gpu_memory[0] = 50, gpu_memory[1] = 25; return SUCCESS; }

// ---- errors
CUDA_API cuGetErrorName(int status, const char** name) {
    for (const StatusName& known : STATUS_NAMES)
        if (known.status == status) { *name = known.name; return SUCCESS; }
    return INVALID_VALUE;
}
CUDA_API cuGetErrorString(int status, const char** sentence) {
    for (const StatusName& known : STATUS_NAMES)
        if (known.status == status) { *sentence = known.sentence; return SUCCESS; }
    return INVALID_VALUE;
}
