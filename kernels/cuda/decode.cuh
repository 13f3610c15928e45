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
// Codes come as words of four bytes for integer products, in whichever of three forms takes the fewest instructions:
//
//     IN_PLACE = 8   q[k] holds codes 4 k .. 4 k + 3 as signed bytes
//     IN_PLACE = B   bytes are unsigned and 2^(B * (k / B)) times the code: codes of B bits, masked where they lie in their plane
//     SPLIT          codes are q[k] - minus[k], of bytes between 0 and 127 both: values looked up in two halves of a table
//
// Products take them as they are (`dot` of activations.cuh); who wants plain bytes asks `code_bytes` below.
//
// 1. Planes keep what one thread loads together at its natural alignment: blocks of 34 or 210 bytes would allow only 2-byte
//    loads, planes of them allow 16. Not a byte is added but a row's last few.
// 2. Bits of codes lie in one order in all formats, so that a shift and a mask give four codes in four bytes, as the integer
//    products want them: byte j of a plane of B-bit codes holds, at shift B * s, the code of weight j + 4 * B * s of the group.
//    Codes that are looked up are nibbles in the order in which byte permutations take and give them: word k holds those of weights
//    4 k .. 4 k + 3 in its lower half and of 16 + 4 k .. in its upper.
// 3. Loading and decoding are apart, so that a kernel has the next bytes under way while it works on the last.
// 4. Scales stay as packed as they are in the file: several threads load the same header at once, which costs one transaction.
//    Those of six bits are put in another order (`six_bits`), which takes a thread 4 logical instructions for two of them.
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

// 32 decoded weights: 8 words of four codes (the first in the lowest byte), scale and addend of each half.
// Formats with one scale for 32 set d[1] = d[0], m[1] = m[0]; formats without addend leave m alone, formats that are not SPLIT minus.
struct Group {
    int q[8], minus[8];
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

// By how much word k of a group is shifted up.
template <class F> static __device__ __forceinline__ constexpr int shift_of(int k) { return k / F::IN_PLACE * F::IN_PLACE; }

// Codes where they lie: of 4 bits from 16 bytes of a plane, of 2 bits from 8 bytes.
static __device__ __forceinline__ void in_place(const uint4& bits, int (&q)[8]) {
    const uint32_t w[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k] = w[k & 3] & 0x0f0f0f0fu << 4 * (k >> 2);
}
static __device__ __forceinline__ void in_place(const uint2& bits, int (&q)[8]) {
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k] = (k & 1 ? bits.y : bits.x) & 0x03030303u << 2 * (k >> 1);
}

// 4-bit codes, 16 bytes of a plane.
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

// Two halves less `bias`, and less 1024.
static __device__ __forceinline__ float2 less(uint32_t halves, float bias) {
    const half2 both = __halves2half2(__ushort_as_half((uint16_t)halves), __ushort_as_half((uint16_t)(halves >> 16)));
    return __half22float2(__hsub2(both, __float2half2_rn(bias)));
}
static __device__ __forceinline__ float2 less_1024(uint32_t halves) { return less(halves, 1024.0f); }

// Two numbers of six bits of group s in 0..8 of a super-block. nibbles: word s / 4 of their lower four bits, (2, 4) nibbles:
// those of the first numbers of four groups, then of the second. tops: their upper two, (2, 8) pairs of bits, rotated up by four bits.
//
// 1. The numbers become the last bits of two halves, from which `bias` is taken off: 1024 and what the format takes off. All of
//    it is exact, and spares two conversions from integers.
static __device__ __forceinline__ float2 six_bits(uint32_t nibbles, uint32_t tops, int s, float bias) {
    const uint32_t low = nibbles >> 4 * (s & 3), high = __funnelshift_r(tops, tops, 2 * s);
    const uint32_t bits = (low & 0x000f000f) | 0x64006400 | (high & 0x00300030);
    return less(bits, bias);
}

// A table of 16 values between -127 and 127, four bytes to a word: magnitudes of those that count positive, and of those that
// count negative. Either half of the nibbles is one or the other: positive ones have the upper bit set, or not.
template <bool UPPER_POSITIVE> struct Levels {
    uint32_t plus[2], minus[2];
};

// 32 codes of a plane of nibbles, looked up.
//
// 1. A byte permutation takes eight bytes, and where its selector has the upper bit set it repeats the byte's sign: magnitudes
//    have none, so that it gives 0 for those nibbles that are of the other half. Putting the halves together would take two more
//    permutations for eight codes; a second product takes none, and other units of a multiprocessor.
template <bool UPPER_POSITIVE> static __device__ __forceinline__ void look_up(const Levels<UPPER_POSITIVE>& table, const uint4& bits, Group& to) {
    const uint32_t w[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const uint32_t flipped = w[k] ^ 0x88888888;
        const uint32_t plus = UPPER_POSITIVE ? flipped : w[k], minus = UPPER_POSITIVE ? w[k] : flipped;
        to.q[k] = permute_or_sign(table.plus[0], table.plus[1], plus);
        to.q[k + 4] = permute_or_sign(table.plus[0], table.plus[1], plus >> 16);
        to.minus[k] = permute_or_sign(table.minus[0], table.minus[1], minus);
        to.minus[k + 4] = permute_or_sign(table.minus[0], table.minus[1], minus >> 16);
    }
}

// Codes 4 k .. 4 k + 3 of a decoded group as signed bytes, whatever their form.
template <class F> static __device__ __forceinline__ uint32_t code_bytes(const Group& g, int k) {
    // The sum of positive bytes with the upper bit set and of negative magnitudes borrows from no other byte.
    if (F::SPLIT) return (((uint32_t)g.q[k] | 0x80808080u) - (uint32_t)g.minus[k]) ^ 0x80808080u;
    return (uint32_t)g.q[k] >> shift_of<F>(k);
}

// The weight at position i of a decoded group, rounded as the CPU's reference does: no fused multiply-add.
template <class F> static __device__ __forceinline__ float value(const Group& g, int i) {
    const int code = (int8_t)(code_bytes<F>(g, i / 4) >> 8 * (i % 4)) - F::OFFSET;
    const float product = __fmul_rn(g.d[i / 16], (float)code);
    return F::ADDEND ? __fadd_rn(product, g.m[i / 16]) : product;
}
