// How kernels read packed weights: what all block formats share. One format is one header in blocks/.
//
// A row of weights in GPU memory is a row of the file, its blocks taken apart into planes (kernels/src/cuda/layout.rs):
//
//     row: | plane 0 of all blocks | plane 1 of all blocks | ... | zeros up to a multiple of 16 bytes |
//
// A format tells, for 32 neighbouring weights (a group), how to load their bytes and how to turn them into
//
//     weight i of the group = d[i / 16] * (code i - OFFSET) + m[i / 16]
//
// 1. Planes keep what one thread loads together at its natural alignment: blocks of 34 or 210 bytes would allow only 2-byte
//    loads, planes of them allow 16. Not a byte is added but a row's last few.
// 2. Bits of codes lie in one order in all formats, so that a shift and a mask give four codes in four bytes, as the integer
//    products want them: byte j of a plane of B-bit codes holds, at shift B * s, the code of weight j + 4 * B * s of the group.
// 3. Loading and decoding are apart, so that a kernel has the next bytes under way while it works on the last.
// 4. Scales stay as packed as they are in the file: several threads load the same header at once, which costs one transaction.
#pragma once
#include "intrinsics.cuh"

// One of two types.
template <bool FIRST, class A, class B> struct Either { using Type = A; };
template <class A, class B> struct Either<false, A, B> { using Type = B; };
template <bool FIRST, class A, class B> using either = typename Either<FIRST, A, B>::Type;

// Weights that are decoded at a time.
static constexpr int GROUP = 32;

// A row of packed weights.
struct Row {
    const uint8_t* bytes;   // 16-byte aligned
    int blocks;             // blocks of the format in the row
};

// 32 decoded weights: 8 words of four codes (signed bytes, first in the lowest), scale and addend of each half.
// Formats with one scale for 32 set d[1] = d[0], m[1] = m[0]; formats without addend leave m alone.
struct Group {
    int q[8];
    float d[2], m[2];
};

// The planes of a format: bytes per block of each.
template <int... SIZES> struct Planes {
    static constexpr int BYTES = (SIZES + ...);

    // Where block `block` lies in plane P.
    template <int P> static __device__ __forceinline__ const uint8_t* at(Row row, int block) {
        constexpr int sizes[] = {SIZES...};
        int before = 0;
        for (int i = 0; i < P; ++i) before += sizes[i];
        return row.bytes + row.blocks * before + block * sizes[P];
    }
};

// Bytes of a row with its padding.
template <class F> static __device__ __forceinline__ size_t row_stride(int blocks) {
    return ((size_t)blocks * F::Layout::BYTES + 15) & ~(size_t)15;
}

// Row `row` of a matrix of `cols` columns.
template <class F> static __device__ __forceinline__ Row row_of(const uint8_t* matrix, int row, int cols) {
    const int blocks = cols / F::WEIGHTS;
    return Row{matrix + row * row_stride<F>(blocks), blocks};
}

// Loads that the read-only cache may serve. T is as aligned as it is large. What is loaded 16 bytes at a time is read once: it
// leaves the first-level cache to activations, headers and tables.
template <class T> static __device__ __forceinline__ T load(const uint8_t* p) {
    if constexpr (sizeof(T) == 16) return load_once(p);
    else return __ldg(reinterpret_cast<const T*>(p));
}

// Half precision from its bits.
static __device__ __forceinline__ float half_bits(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

static __device__ __forceinline__ float load_half(const uint8_t* p) { return half_bits(load<uint16_t>(p)); }

// Lower 16 bits of a word as a half-precision number.
static __device__ __forceinline__ float low_half(uint32_t word) { return half_bits((uint16_t)word); }
static __device__ __forceinline__ float high_half(uint32_t word) { return half_bits((uint16_t)(word >> 16)); }

// Sets the same scale (and addend) for both halves.
static __device__ __forceinline__ void both(Group& to, float d, float m = 0.0f) {
    to.d[0] = to.d[1] = d;
    to.m[0] = to.m[1] = m;
}

// 4-bit codes: 16 bytes of a plane.
static __device__ __forceinline__ void nibbles(const uint4& bits, int (&q)[8]) {
    const uint32_t w[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        q[k] = w[k] & 0x0f0f0f0f;
        q[k + 4] = w[k] >> 4 & 0x0f0f0f0f;
    }
}

// 2-bit codes, 8 bytes of a plane, added at `SHIFT` to what `q` holds.
template <int SHIFT> static __device__ __forceinline__ void add_pairs(const uint2& bits, int (&q)[8]) {
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k] |= ((k & 1 ? bits.y : bits.x) >> 2 * (k >> 1) & 0x03030303) << SHIFT;
}

// 1-bit codes, 4 bytes of a plane, added at `SHIFT` to what `q` holds.
template <int SHIFT> static __device__ __forceinline__ void add_bits(uint32_t bits, int (&q)[8]) {
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k] |= (bits >> k & 0x01010101) << SHIFT;
}

static __device__ __forceinline__ void zero(int (&q)[8]) {
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k] = 0;
}

// A table of 16 signed bytes, four to a word.
struct Table16 {
    uint32_t w[4];
};

// Looks eight nibbles up: `low` gets those of the low nibbles of four bytes, `high` those of the high ones.
static __device__ __forceinline__ void look_up(const Table16& table, uint32_t nibbles, int& low, int& high) {
    uint32_t found[2];   // nibbles 0-3 and 4-7, in their order in the word
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t four = nibbles >> 16 * i, within = four & 0x7777;
        const uint32_t lower = __byte_perm(table.w[0], table.w[1], within), upper = __byte_perm(table.w[2], table.w[3], within);
        found[i] = __byte_perm(lower, upper, 0x3210 | (four & 0x8888) >> 1);
    }
    low = __byte_perm(found[0], found[1], 0x6420);
    high = __byte_perm(found[0], found[1], 0x7531);
}

// 32 codes of a plane of nibbles, looked up.
static __device__ __forceinline__ void look_up(const Table16& table, const uint4& bits, int (&q)[8]) {
    const uint32_t w[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) look_up(table, w[k], q[k], q[k + 4]);
}

// The weight at position i of a decoded group, rounded as the CPU's reference does: no fused multiply-add.
template <class F> static __device__ __forceinline__ float value(const Group& g, int i) {
    const int code = (int8_t)(g.q[i / 4] >> 8 * (i % 4)) - F::OFFSET;
    const float product = __fmul_rn(g.d[i / 16], (float)code);
    return F::ADDEND ? __fadd_rn(product, g.m[i / 16]) : product;
}
