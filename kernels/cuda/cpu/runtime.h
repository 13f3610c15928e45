// What the words of CUDA C++ (words.h) ask of the runtime (grid.cpp) that carries threads out.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

// The indices of the thread that runs now: the runtime writes them whenever it changes threads.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace stand_in {

// Where in the sources threads meet: told when they do not.
struct Site { const char* what; const char* file; unsigned line; };

// Ends the grid with a message: the kernel broke a rule.
[[noreturn]] [[gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

// A device refuses addresses that are not aligned to what is loaded. (The undefined-behaviour sanitizer sees the other loads.)
inline void aligned(const void* at, size_t bytes, Site site) {
    if (reinterpret_cast<uintptr_t>(at) % bytes) fail("%s (%s:%u): %zu bytes are loaded from where they are not aligned", site.what, site.file, site.line, bytes);
}

// ---- threads of a block
void barrier(Site site);                  // __syncthreads
void* dynamic_shared();                   // the block's dynamic shared memory

// ---- lanes of a warp
struct alignas(16) Value { uint64_t word[4]; };

unsigned lane();
// Waits until all lanes of `mask` that still run have come here; gives what each of them brought, (32). A lane that has
// ended brought nothing: `read` of it fails.
struct Meeting { const Value* values; unsigned present; };
Meeting meet(unsigned mask, const Value& mine, Site site);
void meet_in_memory(unsigned mask, Site site);  // __syncwarp: what was written before is seen after

template <class T> inline Meeting meet_with(unsigned mask, const T& mine, Site site) {
    static_assert(sizeof(T) <= sizeof(Value) && std::is_trivially_copyable_v<T>, "at most 32 bytes from each lane");
    Value value{};
    __builtin_memcpy(&value, &mine, sizeof mine);
    return meet(mask, value, site);
}
template <class T> inline T brought(const Meeting& meeting, unsigned from, Site site) {
    if (from >= 32 || !(meeting.present >> from & 1))
        fail("%s (%s:%u) reads lane %u, which is not there", site.what, site.file, site.line, from);
    T value;
    __builtin_memcpy(&value, &meeting.values[from], sizeof value);
    return value;
}

// ---- asynchronous copies: noted when asked for, done when waited for, so that a missing wait is seen
struct Copy { void* to; const void* from; unsigned bytes, given; uint64_t group; };  // `given` bytes come, the rest is 0
void copy_later(const Copy& copy);
void close_group();                       // all copies since the last one are one group
bool take_due(unsigned may_wait, Copy& copy);  // the next copy that is not of the newest `may_wait` closed groups

// ---- kernels, as their sources declare them
struct Kernel {
    const char* name;
    unsigned threads;                     // most threads of a block
    unsigned count;                       // of parameters
    const unsigned* sizes;                // bytes of each, (count)
    void (*function)();
    void (*call)(void (*function)(), void** arguments);
    Kernel* next;                         // all of them are a list

    template <class... P> Kernel(const char* name, unsigned threads, void (*f)(P...))
        : name(name), threads(threads), count(sizeof...(P)), sizes(Sizes<P...>::of),
          function(reinterpret_cast<void (*)()>(f)), call(caller<P...>), next(first) { first = this; }
    static inline Kernel* first = nullptr;

private:
    template <class... P> struct Sizes { static constexpr unsigned of[sizeof...(P) + 1] = {unsigned(sizeof(P))..., 0}; };
    template <class... P> static void caller(void (*f)(), void** arguments) {
        spread(reinterpret_cast<void (*)(P...)>(f), arguments, std::index_sequence_for<P...>{});
    }
    template <class... P, size_t... I> static void spread(void (*f)(P...), void** a, std::index_sequence<I...>) {
        f(*static_cast<std::remove_cv_t<P>*>(a[I])...);
    }
};

// Runs all blocks, one after the other. False: `message` tells what the kernel did wrong, and where.
bool run_grid(const Kernel& kernel, dim3 grid, dim3 block, unsigned shared_bytes, void** arguments, const char** message);

}  // namespace stand_in
