// The only file with PTX, and the only one that knows whether kernels are compiled for a GPU or for the CPU (cpu/words.h).
//
// Every kernel source includes it first. What stands here has a twin of the same name in cpu/tensor_cores.h.
#pragma once

#ifdef QCONV_ON_CPU
#include "cpu/words.h"
#include "cpu/tensor_cores.h"

// A kernel: at most `threads` threads in a block, a name, and its parameters.
#define KERNEL(threads, name, ...)                              \
    static void name(__VA_ARGS__);                              \
    static stand_in::Kernel name##_listed(#name, threads, name); \
    static void name(__VA_ARGS__)
// One of which a multiprocessor should hold so many blocks: the assembler may then use the registers that they leave.
#define KERNEL_RESIDENT(threads, blocks, name, ...) KERNEL(threads, name, __VA_ARGS__)
// The block's dynamic shared memory, as many bytes as the launch gave, aligned to 16.
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(stand_in::dynamic_shared())

#else
#include <cuda_fp16.h>
#include <cuda_bf16.h>
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
using size_t = decltype(sizeof(0));
static constexpr unsigned ALL_LANES = 0xffffffffu;
#ifndef INFINITY   // NVRTC has no <math.h>
#define INFINITY __int_as_float(0x7f800000)
#endif

#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
#define KERNEL_RESIDENT(threads, blocks, name, ...) extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name)                                     \
    extern __shared__ __align__(16) unsigned char dynamic_shared_[];   \
    type* const name = reinterpret_cast<type*>(dynamic_shared_)

static __device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// ---- cp.async: 16 bytes from global to shared memory behind the kernel's back; zeroes where they are not `there`.
// Turing has none and copies at once.
#if __CUDA_ARCH__ >= 800
static __device__ __forceinline__ void cp_async16(void* to, const void* from, bool there = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
// What was asked for since the last commit is one group.
static __device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all groups but the NEWEST have come; other threads see them after a barrier.
template <int NEWEST> static __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
}
#else
static __device__ __forceinline__ void cp_async16(void* to, const void* from, bool there = true) {
    *static_cast<uint4*>(to) = there ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
}
static __device__ __forceinline__ void cp_async_commit() {}
template <int NEWEST> static __device__ __forceinline__ void cp_async_wait() {}
#endif

// ---- 16 bytes of memory that nobody writes and that are not needed again: they take no room in the first-level cache. Without
// side effects to the compiler, which may move it.
static __device__ __forceinline__ uint4 load_once(const void* from) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// ---- d = c + the product of four unsigned bytes with four signed ones.
static __device__ __forceinline__ int dp4a_unsigned_signed(uint32_t a, int b, int c) {
    int d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// ---- Byte i of the result is that of the eight bytes (y, x) which bits 4 i .. 4 i + 2 of the selector name; if its bit 4 i + 3 is
// set, that byte's sign instead, eight times. Bits of the selector from 16 on count for nothing.
static __device__ __forceinline__ uint32_t permute_or_sign(uint32_t x, uint32_t y, uint32_t selector) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(x), "r"(y), "r"(selector));
    return d;
}

// ---- ldmatrix: four (two) 8 x 8 matrices of 16 bits from shared memory into fragments; lane 8 i + r gives the address of
// row r of matrix i, aligned to 16 bytes.
static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(shared_address(row)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x2(uint32_t (&out)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1]) : "r"(shared_address(row)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(shared_address(row)) : "memory");
}

// ---- mma.sync: D += A B of a warp, A (16, K) by rows, B (K, 8) by columns, D (16, 8); fragments as in the PTX ISA, 9.7.14.
// Turing has smaller products: two or four of them make one.
static __device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int i = 0; i < 2; ++i)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
#endif
}
#if __CUDA_ARCH__ >= 800  // Turing's tensor cores do not know bfloat16
static __device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
// The host launches other kernels there.
static __device__ __forceinline__ void mma_m16n8k16_bf16(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]) { __trap(); }
#endif
// Integers: D = A B + c, with c in every place; sums that all begin alike take no instructions to be set.
// Half of the next, k = 16: a0 and a1 are registers i and i + 1 of its A, b is register i / 2 of its B, for i = 0 or 2.
static __device__ __forceinline__ void mma_m16n8k16_s8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, int c) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(a0), "r"(a1), "r"(b), "r"(c));
#else
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%4,%4};" : "=r"(d[0]), "=r"(d[1]) : "r"(a0), "r"(b), "r"(c));
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%4,%4};" : "=r"(d[2]), "=r"(d[3]) : "r"(a1), "r"(b), "r"(c));
#endif
}
static __device__ __forceinline__ void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int c) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c));
#else
    mma_m16n8k16_s8(d, a[0], a[1], b[0], c);
#pragma unroll
    for (int rows = 0; rows < 2; ++rows)
        asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+r"(d[2 * rows]), "+r"(d[2 * rows + 1]) : "r"(a[2 + rows]), "r"(b[1]));
#endif
}
#endif  // QCONV_ON_CPU

// ---- sums over the 32 lanes of a warp; every lane has the result
static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x += __shfl_xor_sync(ALL_LANES, x, bits);
    return x;
}
static __device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, bits));
    return x;
}
