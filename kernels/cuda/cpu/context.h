// A context is a stack and a place in the code. Contexts change places on one thread of the system; the sanitizers are
// told of it, so that they follow.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(STAND_IN_ADDRESS)
extern "C" {
void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
void __asan_unpoison_memory_region(const volatile void* at, size_t size);
}
#elif defined(STAND_IN_THREAD)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* at);
void __tsan_release(void* at);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

#if defined(__x86_64__)
// Pushes what a function must preserve, changes stacks, pops it again. Source: System V ABI, AMD64, 3.2.1.
extern "C" void stand_in_change_stacks(void** save, void* to);
asm(R"(
.text
.globl stand_in_change_stacks
.hidden stand_in_change_stacks
.type stand_in_change_stacks,@function
stand_in_change_stacks:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov  %rsp, (%rdi)
    mov  %rsi, %rsp
    pop  %r15
    pop  %r14
    pop  %r13
    pop  %r12
    pop  %rbx
    pop  %rbp
    ret
.size stand_in_change_stacks, .-stand_in_change_stacks
)");
#endif

namespace stand_in {

// Happens-before edges, for the race detector.
inline void releases([[maybe_unused]] void* object) {
#if defined(STAND_IN_THREAD)
    __tsan_release(object);
#endif
}
inline void acquires([[maybe_unused]] void* object) {
#if defined(STAND_IN_THREAD)
    __tsan_acquire(object);
#endif
}

// While one lives, what the runtime itself reads and writes is no business of the race detector.
struct Unwatched {
#if defined(STAND_IN_THREAD)
    Unwatched() { AnnotateIgnoreReadsBegin("", 0); AnnotateIgnoreWritesBegin("", 0); }
    ~Unwatched() { AnnotateIgnoreWritesEnd("", 0); AnnotateIgnoreReadsEnd("", 0); }
#else
    ~Unwatched() {}
#endif
    Unwatched(const Unwatched&) = delete;
#if !defined(STAND_IN_THREAD)
    Unwatched() {}
#endif
};

class Context {
public:
    static constexpr size_t STACK = 256 << 10, GUARD = 4096;

    // The one of the caller, on the stack that the system gave.
    Context() = default;

    // Will run `entry` when entered for the first time; may be called again after `entry` has left for good.
    void prepare(void (*entry)()) {
        if (!stack) allocate();
#if defined(STAND_IN_ADDRESS)
        __asan_unpoison_memory_region(stack, STACK);
        fake = nullptr;
#elif defined(STAND_IN_THREAD)
        if (!fiber) fiber = __tsan_create_fiber(0);  // 0.3 ms each: kept for good
#endif
#if defined(__x86_64__)
        // As if `entry` had just been called: a return address above it, and six registers below.
        void** top = reinterpret_cast<void**>(stack + STACK);
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(entry);
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        place = top;
#else
        getcontext(&place);
        place.uc_stack.ss_sp = stack;
        place.uc_stack.ss_size = STACK;
        place.uc_link = nullptr;
        makecontext(&place, entry, 0);
#endif
    }

    // From `this` to `to`. With `for_good` nobody comes back.
    void go(Context& to, [[maybe_unused]] bool for_good = false) {
#if defined(STAND_IN_ADDRESS)
        __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, to.stack, STACK_OF(to));
        came_from = this;
#elif defined(STAND_IN_THREAD)
        if (!fiber) fiber = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(to.fiber, 1);  // 1: changing places orders nothing
#endif
#if defined(__x86_64__)
        stand_in_change_stacks(&place, to.place);
#else
        swapcontext(&place, &to.place);
#endif
        arrived();
    }

    // First thing to be called on a stack that was entered; `go` does it for those that come back.
    void arrived() {
#if defined(STAND_IN_ADDRESS)
        const void* bottom;
        size_t size;
        __sanitizer_finish_switch_fiber(fake, &bottom, &size);
        if (!came_from->stack) { came_from->stack = static_cast<char*>(const_cast<void*>(bottom)); came_from->size = size; }
#endif
    }

    // The caller's context may be another thread's the next time.
    void forget_caller() {
#if defined(STAND_IN_ADDRESS)
        stack = nullptr;
        size = 0;
#elif defined(STAND_IN_THREAD)
        fiber = nullptr;
#endif
    }

private:
    void allocate() {
        // Below the stack lies a page that cannot be touched: deep recursion and large arrays end there, loudly.
        void* at = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED || mprotect(at, GUARD, PROT_NONE) != 0) {
            perror("stand-in libcuda: stacks of threads");
            abort();
        }
        stack = static_cast<char*>(at) + GUARD;
    }

    char* stack = nullptr;
#if defined(__x86_64__)
    void* place = nullptr;
#else
    ucontext_t place;
#endif
#if defined(STAND_IN_ADDRESS)
    static inline Context* came_from = nullptr;
    static size_t STACK_OF(const Context& c) { return c.size ? c.size : STACK; }
    size_t size = 0;
    void* fake = nullptr;
#elif defined(STAND_IN_THREAD)
    void* fiber = nullptr;
#endif
};

}  // namespace stand_in
