// Q4_K, Q5_K, Q2_K: super-blocks of 256 weights, d * scale * code - dmin * minimum with small integers for each group.
//
// Bytes loaded for 32 weights: 16 + 16, 20 + 16, 8 + 2 + 4; of these, a header (16, 16, 4) serves the 8 groups of a block,
// that is, 8 neighbouring threads.
#pragma once
#include "../decode.cuh"

// 4 or 5 bits, 8 groups of 32.
template <bool FIFTH> struct FourFiveK {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = FIFTH ? 8 : 4;
    static constexpr bool HALVES = false, ADDEND = true, SPLIT = false;
    using Layout = either<FIFTH, Planes<128, 32, 16>, Planes<128, 16>>;   // nibbles; (fifth bits;) d, dmin, scales and minimums as `six_bits` has them
    static constexpr int HEAD = FIFTH ? 2 : 1;

    struct Raw {
        uint4 codes, head;
        uint32_t fifth;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        Raw raw;
        raw.codes = ::load<uint4>(Layout::template at<0>(row, 0) + 16 * g);
        raw.head = ::load<uint4>(Layout::template at<HEAD>(row, g / 8));
        if (FIFTH) raw.fifth = ::load<uint32_t>(Layout::template at<1>(row, 0) + 4 * g);
        return raw;
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int g, Group& to) {
        if (FIFTH) {
            nibbles(raw.codes, to.q);
            add_bits<4>(raw.fifth, to.q);
        } else {
            in_place(raw.codes, to.q);
        }
        const float2 factors = six_bits(g & 4 ? raw.head.z : raw.head.y, raw.head.w, g & 7, 1024.0f);   // scale, minimum
        both(to, __fmul_rn(low_half(raw.head.x), factors.x), -__fmul_rn(high_half(raw.head.x), factors.y));
    }
};
using Q4_K = FourFiveK<false>;
using Q5_K = FourFiveK<true>;

// 2 bits, 16 groups of 16, scale and minimum of four bits each.
struct Q2_K {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 2;
    static constexpr bool HALVES = true, ADDEND = true, SPLIT = false;
    using Layout = Planes<64, 16, 4>;   // codes; scales in low nibbles, minimums in high ones; d, dmin

    struct Raw {
        uint2 codes;
        uint32_t head;
        uint16_t scales;   // of both halves
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint2>(Layout::at<0>(row, 0) + 8 * g), ::load<uint32_t>(Layout::at<2>(row, g / 8)),
                   ::load<uint16_t>(Layout::at<1>(row, 0) + 2 * g)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        in_place(raw.codes, to.q);
        // Both halves' numbers as the last bits of halves, as in `six_bits`; minimums come 16 times too large, which dmin makes good.
        const uint32_t both = __byte_perm(raw.scales, 0, 0x4140);
        const float2 scales = less_1024((both & 0x000f000f) | 0x64006400), minimums = less_1024((both & 0x00f000f0) | 0x64006400);
        const float d = low_half(raw.head), dmin = -0.0625f * high_half(raw.head);
        to.d[0] = __fmul_rn(d, scales.x), to.d[1] = __fmul_rn(d, scales.y);
        to.m[0] = __fmul_rn(dmin, minimums.x), to.m[1] = __fmul_rn(dmin, minimums.y);
    }
};
