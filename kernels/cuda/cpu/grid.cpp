// Runs grids: one context for each thread of a block, blocks one after the other, in any order.
//
//   for each block:   fill shared memory with 0xff (NaN as a float)
//                     all threads are ready
//                     while some are ready: run each until it waits or ends
//                     nobody is ready and not all have ended: stuck, tell who waits where
//
// 1. A thread waits at barriers and in meetings of its warp; nothing else changes threads, so a block's result depends on the
//    order only where the kernel has a race. QCONV_CUDA_ORDER (forward, reverse, or a number: the seed of random orders)
//    chooses it, and likewise that of the blocks: none may wait for another, or care which came before.
// 2. Threads that have ended count neither at barriers nor in meetings (CUDA C++ guide, 7.6 and 7.22).
// 3. This file is never instrumented: the sanitizers watch the kernels. It allocates nothing while threads run.
#include "runtime.h"
#include "context.h"
#include <algorithm>
#include <cstdarg>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// All static shared memory (see `__shared__` in words.h), where the linker has put it.
extern "C" {
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
}

namespace stand_in {
namespace {

constexpr unsigned MOST_THREADS = 1024, MOST_SHARED = 227 << 10;
#if defined(STAND_IN_ADDRESS)
constexpr unsigned CANARY = 0;
#else
constexpr unsigned CANARY = 4096;
#endif

struct Thread {
    Context context;
    uint3 index;
    unsigned number, lane, warp;
    bool ended;
    Site waits{};                         // where, if it does
    std::vector<Copy> copies;             // asynchronous ones under way, from `next_copy` on
    size_t next_copy;
    uint64_t groups;                      // closed
};

// Lanes that wait for each other. Two sets of values: the first lanes may meet again before the last have read.
struct Gathering {
    unsigned mask, arrived;
    Site site;
    unsigned turn;
    unsigned present[2];
    Value values[2][32];
};

struct Warp {
    unsigned running;                     // lanes that have not ended
    std::vector<std::unique_ptr<Gathering>> gatherings;  // by mask
    char order;                           // its address stands for what __syncwarp orders
};

struct Grid {
    const Kernel* kernel;
    void** arguments;
    Context caller;
    std::vector<std::unique_ptr<Thread>> threads;  // as many as the largest block had
    std::vector<std::unique_ptr<Warp>> warps;
    std::vector<unsigned> ready;
    std::vector<unsigned> at_barrier;
    Site barrier_site;
    unsigned running;
    Thread* now;
    unsigned char* shared;
    bool failed;
    char message[2048];
    char began, ended, barrier;           // their addresses stand for what is ordered
};

Grid grid;

void wait(Site site) {
    grid.now->waits = site;
    grid.now->context.go(grid.caller);
}

void wake(unsigned number) { grid.ready.push_back(number); }

void open_barrier() {
    for (unsigned number : grid.at_barrier) wake(number);
    grid.at_barrier.clear();
}

// Whether all lanes that can come are there; if so, wakes those that wait.
bool complete(unsigned warp_number, Gathering& g, unsigned but) {
    Warp& warp = *grid.warps[warp_number];
    if (!g.arrived || g.arrived != (g.mask & (warp.running | g.arrived))) return false;
    g.present[g.turn & 1] = g.arrived;
    for (unsigned lane = 0; lane < 32; ++lane)
        if ((g.arrived >> lane & 1) && lane != but) wake(warp_number * 32 + lane);
    g.arrived = 0;
    ++g.turn;
    return true;
}

void thread_main() {
    grid.now->context.arrived();
    acquires(&grid.began);
    grid.kernel->call(grid.kernel->function, grid.arguments);
    {
        Unwatched unwatched;
        releases(&grid.ended);
        Thread& self = *grid.now;
        self.ended = true;
        --grid.running;
        if (!grid.at_barrier.empty() && grid.at_barrier.size() == grid.running) open_barrier();
        Warp& warp = *grid.warps[self.warp];
        warp.running &= ~(1u << self.lane);
        for (auto& gathering : warp.gatherings) complete(self.warp, *gathering, 32);
    }
    grid.now->context.go(grid.caller, true);
    abort();
}

// The order in which threads that are ready get their turn.
struct Order {
    enum { FORWARD, REVERSE, RANDOM } kind = FORWARD;
    std::mt19937 random;

    Order() {
        const char* word = getenv("QCONV_CUDA_ORDER");
        if (!word || !strcmp(word, "forward")) return;
        kind = strcmp(word, "reverse") ? RANDOM : REVERSE;
        random.seed(unsigned(atoi(word)));
    }
    void apply(std::vector<unsigned>& turn) {
        if (kind == RANDOM) return std::shuffle(turn.begin(), turn.end(), random);
        std::sort(turn.begin(), turn.end());
        if (kind == REVERSE) std::reverse(turn.begin(), turn.end());
    }

    // Which of `count` blocks are taken one after the other: all of them, in steps of a number without a common divisor.
    struct Blocks { uint64_t first, step; };
    Blocks blocks(uint64_t count) {
        if (kind == FORWARD) return {0, 1};
        if (kind == REVERSE) return {count - 1, count - 1};
        Blocks blocks{random() % count, 1 + random() % count};
        while (std::gcd(blocks.step, count) != 1) ++blocks.step;
        return blocks;
    }
};

void tell_stuck(unsigned count) {
    size_t at = size_t(snprintf(grid.message, sizeof grid.message, "%s: block (%u,%u,%u) is stuck:", grid.kernel->name,
                                blockIdx.x, blockIdx.y, blockIdx.z));
    const Site* last = nullptr;
    for (unsigned i = 0; i < count && at < sizeof grid.message; ++i) {
        const Thread& t = *grid.threads[i];
        if (t.ended || (last && last->line == t.waits.line && last->what == t.waits.what)) continue;
        last = &t.waits;
        at += size_t(snprintf(grid.message + at, sizeof grid.message - at, " thread %u waits in %s (%s:%u);", i,
                              t.waits.what, t.waits.file, t.waits.line));
    }
}

void run_block(unsigned count, unsigned shared_bytes, Order& order, std::vector<unsigned>& turn) {
    // An allocation of its own, so that the address sanitizer sees both ends; a canary for those without.
    grid.shared = static_cast<unsigned char*>(malloc(shared_bytes + CANARY + 1));
    memset(grid.shared, 0xff, shared_bytes);
    memset(grid.shared + shared_bytes, 0xa5, CANARY);
    if (__start_shared_memory) memset(__start_shared_memory, 0xff, size_t(__stop_shared_memory - __start_shared_memory));
    grid.running = count;
    grid.at_barrier.clear();
    grid.ready.clear();
    for (unsigned i = 0; i < count; ++i) {
        Thread& t = *grid.threads[i];
        t.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        t.number = i;
        t.lane = i % 32;
        t.warp = i / 32;
        t.ended = false;
        t.copies.clear();
        t.next_copy = 0;
        t.groups = 0;
        t.context.prepare(thread_main);
        grid.ready.push_back(i);
    }
    for (unsigned w = 0; w * 32 < count; ++w) {
        const unsigned lanes = std::min(32u, count - w * 32);
        grid.warps[w]->running = lanes == 32 ? ~0u : (1u << lanes) - 1;
        for (auto& gathering : grid.warps[w]->gatherings) gathering->arrived = 0;
    }
    releases(&grid.began);
    while (!grid.ready.empty() && !grid.failed) {
        turn.swap(grid.ready);
        grid.ready.clear();
        order.apply(turn);
        for (unsigned number : turn) {
            grid.now = grid.threads[number].get();
            threadIdx = grid.now->index;
            grid.caller.go(grid.now->context);
            if (grid.failed) break;
        }
    }
    acquires(&grid.ended);  // a block comes before the next: static shared memory is the same
    if (!grid.failed && grid.running) {
        grid.failed = true;
        tell_stuck(count);
    }
    for (unsigned i = 0; i < CANARY && !grid.failed; ++i)
        if (grid.shared[shared_bytes + i] != 0xa5) {
            grid.failed = true;
            snprintf(grid.message, sizeof grid.message, "%s: block (%u,%u,%u) wrote %u bytes behind its %u bytes of dynamic shared memory",
                     grid.kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, i + 1, shared_bytes);
        }
    free(grid.shared);
}

}  // namespace

void fail(const char* format, ...) {
    const uint3 t = grid.now->index;
    const int n = snprintf(grid.message, sizeof grid.message, "%s: block (%u,%u,%u) thread (%u,%u,%u): ", grid.kernel->name,
                           blockIdx.x, blockIdx.y, blockIdx.z, t.x, t.y, t.z);
    va_list values;
    va_start(values, format);
    vsnprintf(grid.message + n, sizeof grid.message - size_t(n), format, values);
    va_end(values);
    grid.failed = true;
    grid.now->context.go(grid.caller);
    abort();
}

void* dynamic_shared() { return grid.shared; }

unsigned lane() { return grid.now->lane; }

void barrier(Site site) {
    Unwatched unwatched;
    if (!grid.at_barrier.empty() && (grid.barrier_site.line != site.line || strcmp(grid.barrier_site.file, site.file)))
        fail("__syncthreads at %s:%u, while others wait at %s:%u", site.file, site.line, grid.barrier_site.file,
             grid.barrier_site.line);
    grid.barrier_site = site;
    releases(&grid.barrier);
    grid.at_barrier.push_back(grid.now->number);
    if (grid.at_barrier.size() == grid.running) {
        grid.at_barrier.pop_back();
        open_barrier();
    } else {
        wait(site);
    }
    acquires(&grid.barrier);
}

Meeting meet(unsigned mask, const Value& mine, Site site) {
    Unwatched unwatched;
    Thread& self = *grid.now;
    Warp& warp = *grid.warps[self.warp];
    if (!(mask >> self.lane & 1)) fail("%s (%s:%u): lane %u is not in its own mask %08x", site.what, site.file, site.line, self.lane, mask);
    Gathering* g = nullptr;
    for (auto& known : warp.gatherings)
        if (known->mask == mask) g = known.get();
    if (!g) {
        warp.gatherings.push_back(std::make_unique<Gathering>());
        g = warp.gatherings.back().get();
        g->mask = mask;
    }
    if (g->arrived && (g->site.line != site.line || strcmp(g->site.what, site.what)))
        fail("%s (%s:%u), while other lanes of mask %08x wait in %s (%s:%u)", site.what, site.file, site.line, mask,
             g->site.what, g->site.file, g->site.line);
    g->site = site;
    const unsigned turn = g->turn & 1;
    g->values[turn][self.lane] = mine;
    g->arrived |= 1u << self.lane;
    if (!complete(self.warp, *g, self.lane)) wait(site);
    return {g->values[turn], g->present[turn]};
}

void meet_in_memory(unsigned mask, Site site) {
    char* order = &grid.warps[grid.now->warp]->order;
    releases(order);
    meet(mask, Value{}, site);
    acquires(order);
}

void copy_later(const Copy& copy) {
    Unwatched unwatched;
    if ((reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from)) % copy.bytes)
        fail("an asynchronous copy of %u bytes is not aligned to them", copy.bytes);
    grid.now->copies.push_back(copy);
    grid.now->copies.back().group = grid.now->groups;
}

void close_group() { ++grid.now->groups; }

bool take_due(unsigned may_wait, Copy& copy) {
    Unwatched unwatched;
    Thread& self = *grid.now;
    if (self.next_copy == self.copies.size() || self.copies[self.next_copy].group + may_wait >= self.groups) return false;
    copy = self.copies[self.next_copy++];
    return true;
}

bool run_grid(const Kernel& kernel, dim3 size, dim3 block, unsigned shared_bytes, void** arguments, const char** message) {
    *message = grid.message;
    const unsigned count = block.x * block.y * block.z;
    if (!count || count > std::min(kernel.threads, MOST_THREADS) || shared_bytes > MOST_SHARED || !size.x || !size.y || !size.z ||
        size.y > 65535 || size.z > 65535) {
        snprintf(grid.message, sizeof grid.message, "%s: no device has grids of (%u,%u,%u) blocks of (%u,%u,%u) threads (declared: %u) with %u bytes of shared memory",
                 kernel.name, size.x, size.y, size.z, block.x, block.y, block.z, kernel.threads, shared_bytes);
        return false;
    }
    while (grid.threads.size() < count) {
        grid.threads.push_back(std::make_unique<Thread>());
        grid.threads.back()->copies.reserve(64);
    }
    while (grid.warps.size() * 32 < count) grid.warps.push_back(std::make_unique<Warp>());
    grid.kernel = &kernel;
    grid.arguments = arguments;
    grid.failed = false;
    grid.message[0] = 0;
    grid.ready.reserve(MOST_THREADS);
    grid.at_barrier.reserve(MOST_THREADS);
    grid.caller.forget_caller();
    std::vector<unsigned> turn;
    turn.reserve(MOST_THREADS);
    static Order order;
    gridDim = size;
    blockDim = block;
    const uint64_t all = uint64_t(size.x) * size.y * size.z;
    const Order::Blocks blocks = order.blocks(all);
    for (uint64_t i = 0, at = blocks.first; i < all; ++i, at = (at + blocks.step) % all) {
        blockIdx = {unsigned(at % size.x), unsigned(at / size.x % size.y), unsigned(at / size.x / size.y)};
        run_block(count, shared_bytes, order, turn);
        if (grid.failed) return false;
    }
    return true;
}

}  // namespace stand_in
