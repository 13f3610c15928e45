// Q4_K, Q5_K, Q2_K: super-blocks of 256 weights, d * scale * code - dmin * minimum with small integers for each group.
//
// Bytes loaded for 32 weights: 16 + 16, 20 + 16, 8 + 2 + 4; of these, a header (16, 16, 4) serves the 8 groups of a block,
// that is, 8 neighbouring threads.
#pragma once
#include "../decode.cuh"

// Scale (low 16 bits) and minimum (high) of group s in 0..8, from the 12 bytes behind d and dmin of Q4_K and Q5_K:
// bytes 0-3 and 4-7 hold six bits of the first four groups' scales and minimums and the upper two of the last four's;
// bytes 8-11 hold the last four's lower four, scales in the low nibbles.
static __device__ __forceinline__ void six_bits(const uint4& head, int s, int& scale, int& minimum) {
    const int at = 8 * (s & 3);
    const uint32_t a = head.y >> at, b = head.z >> at, c = head.w >> at;
    if (s < 4) {
        scale = a & 63;
        minimum = b & 63;
    } else {
        scale = (c & 15) | (a >> 2 & 0x30);
        minimum = (c >> 4 & 15) | (b >> 2 & 0x30);
    }
}

// 4 or 5 bits, 8 groups of 32.
template <bool FIFTH> struct FourFiveK {
    static constexpr int WEIGHTS = 256, OFFSET = 0;
    static constexpr bool HALVES = false, ADDEND = true;
    using Layout = either<FIFTH, Planes<128, 32, 16>, Planes<128, 16>>;   // nibbles; (fifth bits;) d, dmin, scales and minimums
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
        nibbles(raw.codes, to.q);
        if (FIFTH) add_bits<4>(raw.fifth, to.q);
        int scale, minimum;
        six_bits(raw.head, g & 7, scale, minimum);
        both(to, __fmul_rn(low_half(raw.head.x), (float)scale), -__fmul_rn(high_half(raw.head.x), (float)minimum));
    }
};
using Q4_K = FourFiveK<false>;
using Q5_K = FourFiveK<true>;

// 2 bits, 16 groups of 16, scale and minimum of four bits each.
struct Q2_K {
    static constexpr int WEIGHTS = 256, OFFSET = 0;
    static constexpr bool HALVES = true, ADDEND = true;
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
        zero(to.q);
        add_pairs<0>(raw.codes, to.q);
        const float d = low_half(raw.head), dmin = high_half(raw.head);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            to.d[h] = __fmul_rn(d, (float)(raw.scales >> 8 * h & 15));
            to.m[h] = -__fmul_rn(dmin, (float)(raw.scales >> (8 * h + 4) & 15));
        }
    }
};
