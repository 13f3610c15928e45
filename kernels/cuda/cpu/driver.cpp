// A libcuda.so whose device is this process: the calls of the driver that qconv makes (through cudarc), over run_grid.
//
// 1. Device memory is host memory, filled with 0xff: what was never written is NaN. Every copy, and every pointer that a kernel
//    is given, is checked against the allocations, with graphs against those that were there when they were recorded.
// 2. Streams do nothing before somebody waits for them: a result that is read too soon is not there, and host memory is read when
//    the copy comes to pass (up to 64 KiB are taken along with the call, as the driver promises). A stream that captures keeps
//    the calls in a graph.
// 3. As in CUDA, a kernel that failed leaves the context unusable: all later calls give the same error.
// 4. It refuses what a device refuses, with the driver's errors: calls without a current context; grids, blocks and shared memory
//    beyond the device's; images for other devices, and kernels that an image has not (it looks into them: kernels itself run from
//    the sources); while recording, what would wait, allocate or end the recording. It is stricter where a device would
//    take what nobody can want: recorded copies from and to the host's memory, and recorded allocations.
// 5. Environment: QCONV_STAND_IN_DEVICES (1), QCONV_STAND_IN_CAPABILITY (9.0), QCONV_STAND_IN_MEMORY (bytes; 8 GiB),
//    QCONV_STAND_IN_DRIVER (12040), QCONV_STAND_IN_INIT (0; another status of cuInit) make devices and drivers that qconv has to refuse.
//    A driver before 12040 loads functions with their first launch only, and refuses that while recording.
//    QCONV_STAND_IN_COUNTS=1: says on standard error in the end how many kernels and how many graphs were launched, and how often the host
//    took a copy of device memory.
//    QCONV_STAND_IN_MULTIPROCESSORS (132). QCONV_STAND_IN_POOLS=0: no memory pools. QCONV_STAND_IN_NVML=0: the management library
//    does not start.
#include "image.h"
#include "runtime.h"
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

// CUresult, as far as it is used here. Source: cuda.h 12.4.
enum Status {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701, LAUNCH_FAILED = 719, SYSTEM_NOT_READY = 802,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908
};
struct StatusName { Status status; const char *name, *sentence; };
constexpr StatusName STATUS_NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered (the stand-in told more on standard error)"},
    {SYSTEM_NOT_READY, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure (the stand-in told more on standard error)"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
};

using Step = std::function<Status()>;
using Clock = std::chrono::steady_clock;
struct Graph { std::vector<Step> steps; };
struct Stream {
    std::deque<Step> queue;               // asked for, not done
    Graph* capture = nullptr;
    bool broken = false;                  // the recording: something was called that cannot be recorded
    std::thread::id by;
};
// `done` counts those of its recordings that have come to pass: steps keep what they write, whatever becomes of the event.
struct Record { Clock::time_point time; unsigned done = 0; };
struct Event {
    bool timed, captured = false;
    unsigned recorded = 0;
    Stream* stream = nullptr;             // of the last recording
    std::shared_ptr<Record> record = std::make_shared<Record>();
};
// `number`: of all allocations ever made, so that one at the address of another is told from it.
struct Allocation { size_t bytes; uint64_t number; };

constexpr unsigned UNASKED = 48 << 10;    // shared memory that a block gets without asking
// `loaded`: drivers bring a function to the device when it is launched first, which may take what cannot be recorded.
struct Function { const stand_in::Kernel* kernel; unsigned own_shared, most_shared = UNASKED; bool loaded = false; };
struct Module { stand_in::Image image; std::map<std::string, Function> functions; };

// The context that this thread has made its own: nearly all calls need one.
thread_local void* current = nullptr;
#define NEED_CONTEXT if (!current) return refuse(INVALID_CONTEXT, __func__, "this thread has no current context")

struct Device {
    std::recursive_mutex mutex;           // tests run on several threads; one thing happens at a time
    std::map<uintptr_t, Allocation> memory;  // by address
    size_t used = 0;
    uint64_t allocations = 0;             // ever made
    Status broken = SUCCESS;
    Stream null_stream;
    std::set<Stream*> capturing;          // by any thread
    std::set<Stream*> streams{&null_stream};

    // Never destroyed: tests may still free memory while the process ends.
    static Device& get() { static Device& device = *new Device; return device; }
};

const char* setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}
size_t total_memory() { return strtoull(setting("QCONV_STAND_IN_MEMORY", "8589934592"), nullptr, 10); }
int driver() { return atoi(setting("QCONV_STAND_IN_DRIVER", "12040")); }
int devices() { return atoi(setting("QCONV_STAND_IN_DEVICES", "1")); }
void capability(int& major, int& minor) {
    if (sscanf(setting("QCONV_STAND_IN_CAPABILITY", "9.0"), "%d.%d", &major, &minor) != 2) major = minor = 0;
}


// Bytes of shared memory that a block may have if it asks. Source: CUDA C++ Programming Guide, table of compute capabilities.
unsigned most_shared() {
    int major, minor;
    capability(major, minor);
    switch (10 * major + minor) {
        case 75: return 64 << 10;
        case 80: case 87: return 163 << 10;
        case 86: case 89: case 120: case 121: return 99 << 10;
        default: return 227 << 10;
    }
}

// Launches that were asked for, those in graphs apart: a graph counts once.
struct Counts {
    std::atomic<unsigned> kernels{0}, graphs{0}, copies{0};
    ~Counts() {
        if (!*setting("QCONV_STAND_IN_COUNTS", "")) return;
        fprintf(stderr, "stand-in libcuda: launched %u kernels, %u graphs, %u copies to the host\n", kernels.load(), graphs.load(), copies.load());
    }
} counts;

Status refuse(Status status, const char* call, const char* why) {
    fprintf(stderr, "stand-in libcuda: %s: %s\n", call, why);
    return status;
}

Stream& stream_of(void* stream) {  // 0, 1 and 2 name the default streams
    return reinterpret_cast<uintptr_t>(stream) > 2 ? *static_cast<Stream*>(stream) : Device::get().null_stream;
}

// Now, or when the graph is launched.
Status submit(void* stream, Step step) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    if (device.broken) return device.broken;
    Stream& s = stream_of(stream);
    if (s.capture && s.broken) return CAPTURE_INVALIDATED;
    (s.capture ? s.capture->steps.emplace_back() : s.queue.emplace_back()) = std::move(step);
    return SUCCESS;
}

// Does what a stream was asked for. What goes wrong is told by this and all calls after it.
Status finish(Stream* stream) {
    Device& device = Device::get();
    for (;;) {
        std::lock_guard lock(device.mutex);  // let go between steps: others look at the device meanwhile
        if (device.broken || !device.streams.count(stream) || stream->queue.empty()) return device.broken;
        const Step step = std::move(stream->queue.front());
        stream->queue.pop_front();
        if (Status status = step()) device.broken = status;
    }
}
Status finish_all() {
    Device& device = Device::get();
    std::vector<Stream*> streams;
    {
        std::lock_guard lock(device.mutex);
        streams.assign(device.streams.begin(), device.streams.end());
    }
    for (Stream* stream : streams) finish(stream);
    return device.broken;
}

// What cannot be recorded: it breaks the recordings of `whose` and is refused.
enum Whose { THREADS, EVERYBODYS };
Status unless_recording(Whose whose, const char* call) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    bool any = false;
    for (Stream* s : device.capturing)
        if (whose == EVERYBODYS || s->by == std::this_thread::get_id()) any = s->broken = true;
    return any ? refuse(CAPTURE_UNSUPPORTED, call, "not while a stream is recorded") : SUCCESS;
}
Status unless_recorded(void* stream, const char* call) {
    Stream& s = stream_of(stream);
    std::lock_guard lock(Device::get().mutex);
    if (!s.capture) return SUCCESS;
    s.broken = true;
    return refuse(CAPTURE_UNSUPPORTED, call, "not on a stream that is recorded");
}
#define NOT_RECORDING(whose) if (Status status = unless_recording(whose, __func__)) return status
#define NOT_RECORDED(stream) if (Status status = unless_recorded(stream, __func__)) return status

// The number of the allocation that all of this lies in; 0: there is none.
uint64_t allocation_of(uint64_t at, size_t bytes) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    auto after = device.memory.upper_bound(at);
    if (after == device.memory.begin()) return 0;
    --after;
    return at + bytes <= after->first + after->second.bytes ? after->second.number : 0;
}
bool allocated(uint64_t at, size_t bytes) { return allocation_of(at, bytes) != 0; }

// What was one allocation when a call was made is still the same one when it comes to pass.
Status still(uint64_t number, uint64_t at, size_t bytes, const char* call) {
    if (number && allocation_of(at, bytes) == number) return SUCCESS;
    return refuse(ILLEGAL_ADDRESS, call, "of memory that is not there, or not any more");
}

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

#define CUDA_API extern "C" __attribute__((visibility("default"))) Status

// ---- the device
CUDA_API cuInit(unsigned) {
    const int status = atoi(setting("QCONV_STAND_IN_INIT", "0"));
    return status ? Status(status) : devices() > 0 ? SUCCESS : NO_DEVICE;
}
CUDA_API cuDriverGetVersion(int* version) { *version = driver(); return SUCCESS; }
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
        case 16: *value = atoi(setting("QCONV_STAND_IN_MULTIPROCESSORS", "132")); break;
        case 36: *value = 1000; break;    // memory clock, kHz
        case 37: *value = 64; break;      // width of the memory bus, bits
        case 38: *value = 4 << 20; break; // second-level cache
        case 75: *value = major; break;
        case 76: *value = minor; break;
        case 97: *value = int(most_shared()); break;
        case 115: *value = atoi(setting("QCONV_STAND_IN_POOLS", "1")); break; // memory pools: cudarc then calls cuMemAllocAsync
        default: *value = 0; break;
    }
    return SUCCESS;
}

// ---- the context: there is one
CUDA_API cuDevicePrimaryCtxRetain(void** context, int) { *context = &Device::get(); return SUCCESS; }
CUDA_API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CUDA_API cuCtxSetCurrent(void* context) { current = context; return SUCCESS; }
CUDA_API cuCtxGetCurrent(void** context) { *context = current; return SUCCESS; }
// "It is invalid to synchronize a broader handle which encompasses active stream capture": CUDA C++ Programming Guide, graphs.
CUDA_API cuCtxSynchronize() {
    NEED_CONTEXT;
    NOT_RECORDING(EVERYBODYS);
    return finish_all();
}

// ---- memory
CUDA_API cuMemGetInfo_v2(size_t* free, size_t* total) {
    NEED_CONTEXT;
    std::lock_guard lock(Device::get().mutex);
    *total = total_memory();
    *free = *total - std::min(*total, Device::get().used);
    return SUCCESS;
}

namespace {
Status allocate(uint64_t* at, size_t bytes) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    if (device.broken) return device.broken;
    if (!bytes) return INVALID_VALUE;
    auto fits = [&] { return bytes <= total_memory() - std::min(total_memory(), device.used); };
    if (!fits() && finish_all() == SUCCESS && !fits()) return OUT_OF_MEMORY;  // with what is freed once all is done
    if (device.broken) return device.broken;
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes)) return OUT_OF_MEMORY;  // as aligned as CUDA's
    memset(memory, 0xff, bytes);
    device.memory[reinterpret_cast<uintptr_t>(memory)] = {bytes, ++device.allocations};
    device.used += bytes;
    *at = reinterpret_cast<uint64_t>(memory);
    return SUCCESS;
}
Status release(uint64_t at) {
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    auto found = device.memory.find(at);
    if (found == device.memory.end()) return refuse(INVALID_VALUE, "cuMemFree", "no allocation begins there");
    device.used -= found->second.bytes;
    device.memory.erase(found);
    free(pointer(at));
    return SUCCESS;
}
}  // namespace

CUDA_API cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    NEED_CONTEXT;
    NOT_RECORDING(THREADS);
    return allocate(at, bytes);
}
CUDA_API cuMemFree_v2(uint64_t at) {
    NEED_CONTEXT;
    NOT_RECORDING(THREADS);
    if (Status status = finish_all()) return status;
    return release(at);
}
// A device records both, as memory that belongs to the graph: not what anybody means who keeps the address.
CUDA_API cuMemAllocAsync(uint64_t* at, size_t bytes, void* stream) {
    NEED_CONTEXT;
    NOT_RECORDED(stream);
    return allocate(at, bytes);
}
CUDA_API cuMemFreeAsync(uint64_t at, void* stream) {  // needs no current context, since the stream has one
    NOT_RECORDED(stream);
    if (!allocated(at, 1)) return refuse(INVALID_VALUE, __func__, "no allocation begins there");
    return submit(stream, [=] { return release(at); });
}
CUDA_API cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    NEED_CONTEXT;
    NOT_RECORDING(THREADS);
    return (*memory = malloc(bytes)) ? SUCCESS : OUT_OF_MEMORY;
}
CUDA_API cuMemFreeHost(void* memory) { free(memory); return SUCCESS; }
// A device records copies from and to the host with the host's address, where something else may lie at the time of a launch.
constexpr size_t TAKEN_ALONG = 64 << 10;  // bytes from the host: CUDA driver API, "API synchronization behavior"
CUDA_API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    NEED_CONTEXT;
    NOT_RECORDED(stream);
    const uint64_t number = allocation_of(to, bytes);
    if (!number) return INVALID_VALUE;
    const char* const first = static_cast<const char*>(from);
    const std::vector<char> taken(first, first + (bytes <= TAKEN_ALONG ? bytes : 0));
    return submit(stream, [=] {
        if (Status status = still(number, to, bytes, "cuMemcpyHtoDAsync")) return status;
        memcpy(pointer(to), bytes <= TAKEN_ALONG ? taken.data() : from, bytes);
        return SUCCESS;
    });
}
// The driver has written memory that is not pinned when it returns; nothing here relies on it.
CUDA_API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    NEED_CONTEXT;
    NOT_RECORDED(stream);
    const uint64_t number = allocation_of(from, bytes);
    if (!number) return INVALID_VALUE;
    ++counts.copies;
    return submit(stream, [=] {
        if (Status status = still(number, from, bytes, "cuMemcpyDtoHAsync")) return status;
        memcpy(to, pointer(from), bytes);
        return SUCCESS;
    });
}
CUDA_API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    NEED_CONTEXT;
    const uint64_t source = allocation_of(from, bytes), target = allocation_of(to, bytes);
    if (!source || !target) return INVALID_VALUE;
    return submit(stream, [=] {
        if (Status status = still(source, from, bytes, "cuMemcpyDtoDAsync")) return status;
        if (Status status = still(target, to, bytes, "cuMemcpyDtoDAsync")) return status;
        memmove(pointer(to), pointer(from), bytes);
        return SUCCESS;
    });
}
CUDA_API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
    NEED_CONTEXT;
    const uint64_t number = allocation_of(to, bytes);
    if (!number) return INVALID_VALUE;
    return submit(stream, [=] {
        if (Status status = still(number, to, bytes, "cuMemsetD8Async")) return status;
        memset(pointer(to), value, bytes);
        return SUCCESS;
    });
}

// ---- streams, events
CUDA_API cuStreamCreate(void** stream, unsigned) {
    NEED_CONTEXT;
    std::lock_guard lock(Device::get().mutex);
    Stream* const made = new Stream;
    Device::get().streams.insert(made);
    *stream = made;
    return SUCCESS;
}
CUDA_API cuStreamDestroy_v2(void* stream) {  // which ends when all is done that it was asked for
    Stream* const s = static_cast<Stream*>(stream);
    finish(s);
    std::lock_guard lock(Device::get().mutex);
    Device::get().capturing.erase(s);
    Device::get().streams.erase(s);
    delete s;
    return SUCCESS;
}
CUDA_API cuStreamSynchronize(void* stream) {
    NEED_CONTEXT;
    NOT_RECORDED(stream);
    return finish(&stream_of(stream));
}
CUDA_API cuStreamWaitEvent(void*, void* event, unsigned) {
    NEED_CONTEXT;
    return finish(static_cast<Event*>(event)->stream);
}
CUDA_API cuEventCreate(void** event, unsigned flags) { NEED_CONTEXT; *event = new Event{!(flags & 2)}; return SUCCESS; }  // 2: not timed
CUDA_API cuEventDestroy_v2(void* event) { delete static_cast<Event*>(event); return SUCCESS; }
CUDA_API cuEventRecord(void* event, void* stream) {
    NEED_CONTEXT;
    Event* const e = static_cast<Event*>(event);
    Stream& s = stream_of(stream);
    e->captured = s.capture != nullptr;
    e->stream = &s;
    if (!e->captured) ++e->recorded;
    return submit(stream, [record = e->record] {
        record->time = Clock::now();
        ++record->done;
        return SUCCESS;
    });
}

namespace {
// An event that is recorded in a graph tells nothing.
Status wait_for(void* event, const char* call) {
    const Event& e = *static_cast<Event*>(event);
    if (!e.captured) return finish(e.stream);
    unless_recording(THREADS, call);
    return refuse(CAPTURED_EVENT, call, "the event was recorded in a graph");
}
bool pending(const Event& e) { return e.record->done != e.recorded; }
}  // namespace

CUDA_API cuEventSynchronize(void* event) { NEED_CONTEXT; return wait_for(event, __func__); }
CUDA_API cuEventQuery(void* event) {
    NEED_CONTEXT;
    const bool early = pending(*static_cast<Event*>(event));
    if (Status status = wait_for(event, __func__)) return status;
    return early ? NOT_READY : SUCCESS;   // the next time it is
}
CUDA_API cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    NEED_CONTEXT;
    const Event &a = *static_cast<Event*>(start), &b = *static_cast<Event*>(end);
    if (!a.timed || !b.timed || !a.recorded || !b.recorded || a.captured || b.captured) return INVALID_HANDLE;
    if (pending(a) || pending(b)) return refuse(NOT_READY, __func__, "nobody has waited for the event");
    *milliseconds = std::chrono::duration<float, std::milli>(b.record->time - a.record->time).count();
    return SUCCESS;
}

// ---- graphs
using Executable = std::shared_ptr<const Graph>;  // a launch that has not come to pass keeps it
CUDA_API cuStreamBeginCapture_v2(void* stream, int) {
    NEED_CONTEXT;
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    Stream& s = stream_of(stream);
    if (&s == &device.null_stream || s.capture) return CAPTURE_UNSUPPORTED;
    s.capture = new Graph;
    s.broken = false;
    s.by = std::this_thread::get_id();
    device.capturing.insert(&s);
    return SUCCESS;
}
CUDA_API cuStreamEndCapture(void* stream, void** graph) {
    NEED_CONTEXT;
    Device& device = Device::get();
    std::lock_guard lock(device.mutex);
    Stream& s = stream_of(stream);
    if (!s.capture) return INVALID_VALUE;
    if (s.by != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
    Graph* const recorded = s.capture;
    s.capture = nullptr;
    device.capturing.erase(&s);
    if (s.broken) {
        delete recorded;
        *graph = nullptr;
        return CAPTURE_INVALIDATED;
    }
    *graph = recorded;
    return SUCCESS;
}
CUDA_API cuStreamIsCapturing(void* stream, int* status) { *status = stream_of(stream).capture ? 1 : 0; return SUCCESS; }
CUDA_API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    NEED_CONTEXT;
    *executable = new Executable(std::make_shared<Graph>(*static_cast<Graph*>(graph)));
    return SUCCESS;
}
CUDA_API cuGraphUpload(void*, void*) { return SUCCESS; }
CUDA_API cuGraphLaunch(void* executable, void* stream) {
    NEED_CONTEXT;
    NOT_RECORDED(stream);  // a device takes it as a graph within the graph
    ++counts.graphs;
    return submit(stream, [graph = *static_cast<Executable*>(executable)] {
        for (const Step& step : graph->steps)
            if (Status status = step()) return status;
        return SUCCESS;
    });
}
CUDA_API cuGraphDestroy(void* graph) { delete static_cast<Graph*>(graph); return SUCCESS; }
CUDA_API cuGraphExecDestroy(void* executable) { delete static_cast<Executable*>(executable); return SUCCESS; }

// ---- modules: an image says which kernels there are, and for which devices; what runs are those of this library
CUDA_API cuModuleLoadData(void** module, const void* data) {
    NEED_CONTEXT;
    NOT_RECORDING(THREADS);
    auto loaded = std::make_unique<Module>();
    if (!stand_in::read_image(data, loaded->image)) return refuse(INVALID_IMAGE, __func__, "neither a cubin nor PTX");
    int major, minor;
    capability(major, minor);
    if (!loaded->image.runs_on(major, minor)) return refuse(NO_BINARY, __func__, "the image is for other devices");
    *module = loaded.release();
    return SUCCESS;
}
CUDA_API cuModuleUnload(void* module) {
    NEED_CONTEXT;
    NOT_RECORDING(THREADS);
    finish_all();
    delete static_cast<Module*>(module);
    return SUCCESS;
}
CUDA_API cuModuleGetFunction(void** function, void* in, const char* name) {
    NEED_CONTEXT;
    Module& module = *static_cast<Module*>(in);
    std::lock_guard lock(Device::get().mutex);
    const auto known = module.image.kernels.find(name);
    if (known == module.image.kernels.end()) return NOT_FOUND;
    for (const stand_in::Kernel* k = stand_in::Kernel::first; k; k = k->next)
        if (!strcmp(k->name, name)) {
            *function = &module.functions.try_emplace(name, Function{k, known->second}).first->second;
            return SUCCESS;
        }
    return refuse(NOT_FOUND, __func__, "an image has a kernel that the sources have not: run kernels/cuda/build.py");
}
// Drivers before 12.4 have neither of the next two; here they do not answer.
CUDA_API cuFuncLoad(void* function) {
    NEED_CONTEXT;
    if (driver() < 12040) return NOT_FOUND;
    NOT_RECORDING(THREADS);
    static_cast<Function*>(function)->loaded = true;
    return SUCCESS;
}
CUDA_API cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* bytes) {
    if (driver() < 12040) return NOT_FOUND;
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
    NEED_CONTEXT;
    if (attribute != 8) return SUCCESS;   // 8: the most dynamic shared memory
    Function& f = *static_cast<Function*>(function);
    if (value < 0 || unsigned(value) + f.own_shared > most_shared()) return refuse(INVALID_VALUE, __func__, "more shared memory than a block can have");
    f.most_shared = unsigned(value);
    return SUCCESS;
}
CUDA_API cuFuncGetAttribute(int* value, int attribute, void* function) {
    *value = attribute == 0 ? int(static_cast<Function*>(function)->kernel->threads) : 0;  // 0: threads of a block
    return SUCCESS;
}
CUDA_API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                        void* stream, void** parameters, void**) {
    NEED_CONTEXT;
    Function& f = *static_cast<Function*>(function);
    const stand_in::Kernel& kernel = *f.kernel;
    if (!f.loaded) {
        NOT_RECORDED(stream);
        f.loaded = true;
    }
    // What the driver says at once; nothing is broken by it.
    const uint64_t threads = uint64_t(bx) * by * bz;
    char what[256];
    snprintf(what, sizeof what, "%s: (%u,%u,%u) blocks of (%u,%u,%u) threads (declared: %u), %u + %u bytes of shared memory", kernel.name,
             gx, gy, gz, bx, by, bz, kernel.threads, f.own_shared, shared);
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535 || !threads || bx > 1024 || by > 1024 || bz > 64 || threads > 1024)
        return refuse(INVALID_VALUE, __func__, what);
    if (shared > f.most_shared || (f.most_shared == UNASKED && shared + f.own_shared > UNASKED)) return refuse(INVALID_VALUE, __func__, what);
    if (threads > kernel.threads) return refuse(OUT_OF_RESOURCES, __func__, what);
    struct alignas(16) Room { char bytes[16]; };
    std::vector<std::vector<Room>> kept(kernel.count);  // a graph outlives the caller's variables
    for (unsigned i = 0; i < kernel.count; ++i) {
        kept[i].resize((kernel.sizes[i] + 15) / 16);
        memcpy(kept[i].data(), parameters[i], kernel.sizes[i]);
    }
    // Parameters of eight bytes are pointers; of those that are not null each leads into an allocation (or just behind).
    std::vector<uint64_t> numbers(kernel.count);
    auto number_of = [](const Room& room) {
        uint64_t at;
        memcpy(&at, room.bytes, sizeof at);
        return allocation_of(at, 0);
    };
    for (unsigned i = 0; i < kernel.count; ++i)
        if (kernel.sizes[i] == 8) numbers[i] = number_of(kept[i][0]);
    if (!stream_of(stream).capture) ++counts.kernels;
    return submit(stream, [=, &kernel] {
        std::vector<void*> arguments;
        for (unsigned i = 0; i < kernel.count; ++i) {
            arguments.push_back(const_cast<Room*>(kept[i].data()));
            constexpr Room null{};
            if (kernel.sizes[i] == 8 && memcmp(&kept[i][0], &null, 8) && (!numbers[i] || number_of(kept[i][0]) != numbers[i])) {
                fprintf(stderr, "stand-in libcuda: %s: parameter %u is the address of memory that is not there, or not any more\n", kernel.name, i);
                return ILLEGAL_ADDRESS;
            }
        }
        const char* message;
        if (stand_in::run_grid(kernel, {gx, gy, gz}, {bx, by, bz}, shared, arguments.data(), &message)) return SUCCESS;
        fprintf(stderr, "stand-in libcuda: %s\n", message);
        return LAUNCH_FAILED;
    });
}

// ---- for tests of the stand-in itself: runs one block of a kernel of refusals.cu with 256 bytes of dynamic shared memory. What
// it broke, or null; nothing is left broken.
extern "C" __attribute__((visibility("default"))) const char* stand_in_refusal(const char* name, unsigned threads) {
    std::lock_guard lock(Device::get().mutex);
    int bytes = 256;
    void* arguments[] = {&bytes};
    for (const stand_in::Kernel* k = stand_in::Kernel::first; k; k = k->next)
        if (!strcmp(k->name, name)) {
            const char* message;
            return stand_in::run_grid(*k, {1, 1, 1}, {threads, 1, 1}, unsigned(bytes), arguments, &message) ? nullptr : message;
        }
    return "there is no such kernel";
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
