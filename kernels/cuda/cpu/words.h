// The words of CUDA C++ that the kernels use, on the CPU. Same names, same meaning; what is undefined in CUDA fails here
// where it can be seen. Sources: CUDA C++ Programming Guide 12.4, chapters 7 and 13; CUDA Math API.
#pragma once
#include "runtime.h"
#include <cmath>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static
#if defined(__SANITIZE_ADDRESS__)  // which puts no red zones around what lies in a section of its own
#define __shared__ static
#else                              // filled with 0xff before each block (not inside templates, where g++ ignores it)
#define __shared__ static __attribute__((section("shared_memory")))
#endif

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(4) char4 { signed char x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static constexpr int warpSize = 32;
static constexpr unsigned ALL_LANES = 0xffffffffu;

// Every word that makes threads wait takes the place where it stands, so that failures can tell it.
#define STAND_IN_SITE const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()
#define STAND_IN_HERE(what) stand_in::Site{what, file, line}

// ---- waiting for each other
inline void __syncthreads(STAND_IN_SITE) { stand_in::barrier(STAND_IN_HERE("__syncthreads")); }
inline void __syncwarp(unsigned mask = ALL_LANES, STAND_IN_SITE) { stand_in::meet_in_memory(mask, STAND_IN_HERE("__syncwarp")); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline unsigned __activemask() { return ALL_LANES; }

// ---- lanes of a warp; `width` (a power of two) cuts it into parts that keep to themselves
namespace stand_in {
template <class T> inline T take(unsigned mask, T mine, unsigned from, Site site) {
    return brought<T>(meet_with(mask, mine, site), from, site);
}
inline unsigned part(int width) { return lane() & ~unsigned(width - 1); }  // the first lane of this lane's part
inline unsigned votes(unsigned mask, bool vote, Site site) {
    const Meeting meeting = meet_with(mask, uint64_t(vote), site);
    unsigned all = 0;
    for (unsigned i = 0; i < 32; ++i)
        if ((meeting.present >> i & 1) && meeting.values[i].word[0]) all |= 1u << i;
    return all;
}
}  // namespace stand_in
template <class T> inline T __shfl_sync(unsigned mask, T value, int from, int width = 32, STAND_IN_SITE) {
    return stand_in::take(mask, value, stand_in::part(width) + (unsigned(from) & unsigned(width - 1)), STAND_IN_HERE("__shfl_sync"));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, STAND_IN_SITE) {
    const unsigned from = stand_in::lane() ^ unsigned(bits);  // lanes of later parts cannot be read
    return stand_in::take(mask, value, from < stand_in::part(width) + unsigned(width) ? from : stand_in::lane(), STAND_IN_HERE("__shfl_xor_sync"));
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, STAND_IN_SITE) {
    const unsigned from = stand_in::lane() + by;
    return stand_in::take(mask, value, from < stand_in::part(width) + unsigned(width) ? from : stand_in::lane(), STAND_IN_HERE("__shfl_down_sync"));
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, STAND_IN_SITE) {
    const unsigned at = stand_in::lane() - stand_in::part(width);
    return stand_in::take(mask, value, at >= by ? stand_in::lane() - by : stand_in::lane(), STAND_IN_HERE("__shfl_up_sync"));
}
inline unsigned __ballot_sync(unsigned mask, int vote, STAND_IN_SITE) { return stand_in::votes(mask, vote != 0, STAND_IN_HERE("__ballot_sync")); }
inline int __any_sync(unsigned mask, int vote, STAND_IN_SITE) { return stand_in::votes(mask, vote != 0, STAND_IN_HERE("__any_sync")) != 0; }
inline int __all_sync(unsigned mask, int vote, STAND_IN_SITE) { return stand_in::votes(mask, vote == 0, STAND_IN_HERE("__all_sync")) == 0; }

// ---- atomics
namespace stand_in {
template <class T, class F> inline T change(T* at, F with) {
    T old, now;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do now = with(old);
    while (!__atomic_compare_exchange(at, &old, &now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
}  // namespace stand_in
template <class T> inline T atomicAdd(T* at, T by) { return stand_in::change(at, [=](T old) { return T(old + by); }); }
template <class T> inline T atomicMax(T* at, T by) { return stand_in::change(at, [=](T old) { return old > by ? old : by; }); }
template <class T> inline T atomicExch(T* at, T to) { return stand_in::change(at, [=](T) { return to; }); }

// ---- arithmetic
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
// With STAND_IN_ROUNDING kernels round where a device may: the compiler contracts products and sums (but not these, as there),
// fast functions are off by as much as they may be, tensor cores cut sums off (tensor_cores.h).
inline float stand_in_kept(float x) {
#if defined(STAND_IN_ROUNDING)
    asm("" : "+x"(x));  // a number of its own to the compiler
#endif
    return x;
}
#if defined(STAND_IN_ROUNDING)
// 2 + |1.173 x| units in the last place (CUDA C++ Programming Guide, 13.2), alternately above and below.
inline float __expf(float x) {
    const float y = exp2f(stand_in_kept(x * 1.4426950408889634f)), off = (2.0f + fabsf(1.173f * x)) * 5.9604645e-8f * y;
    return x == 0.0f || !(off < INFINITY) ? y : __builtin_bit_cast(unsigned, x) & 1 ? y + off : y - off;
}
#else
inline float __expf(float x) { return expf(x); }
#endif
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return stand_in_kept(a * b); }
inline float __fadd_rn(float a, float b) { return stand_in_kept(a) + stand_in_kept(b); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float_as_int(float x) { int i; __builtin_memcpy(&i, &x, 4); return i; }
inline unsigned __float_as_uint(float x) { unsigned i; __builtin_memcpy(&i, &x, 4); return i; }
inline float __int_as_float(int i) { float x; __builtin_memcpy(&x, &i, 4); return x; }
inline float __uint_as_float(unsigned i) { float x; __builtin_memcpy(&x, &i, 4); return x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T> inline T __ldg(const T* at, STAND_IN_SITE) {
    stand_in::aligned(at, sizeof(T), STAND_IN_HERE("__ldg"));
    return *at;
}

// Four bytes side by side in a word.
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += int(int8_t(a >> i)) * int(int8_t(b >> i));
    return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 255u) * (b >> i & 255u);
    return c;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t both = uint64_t(y) << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned s = selector >> 4 * i;
        const unsigned byte = unsigned(both >> 8 * (s & 7)) & 255u;
        out |= (s & 8 ? (byte & 128u ? 255u : 0u) : byte) << 8 * i;  // 8: the byte's sign, repeated
    }
    return out;
}
inline unsigned __vsub4(unsigned a, unsigned b) {
    unsigned out = 0;
    for (int i = 0; i < 32; i += 8) out |= (((a >> i) - (b >> i)) & 255u) << i;
    return out;
}
inline unsigned __vsubss4(unsigned a, unsigned b) {
    unsigned out = 0;
    for (int i = 0; i < 32; i += 8) {
        const int d = int(int8_t(a >> i)) - int(int8_t(b >> i));
        out |= (unsigned(max(-128, min(127, d))) & 255u) << i;
    }
    return out;
}
inline unsigned __vcmpne4(unsigned a, unsigned b) {
    unsigned out = 0;
    for (int i = 0; i < 32; i += 8) out |= ((a >> i & 255u) != (b >> i & 255u) ? 255u : 0u) << i;
    return out;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) { return unsigned(((uint64_t(high) << 32) | low) >> (by & 31)); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) { return unsigned((((uint64_t(high) << 32) | low) << (by & 31)) >> 32); }

#include "half.h"
