// IQ1_S, IQ1_M: digits -1, 0, 1 of eight weights as one of 2048 points, all shifted up or down by an eighth.
//
// A weight is d * (2 * scale + 1) * (digit + shift): codes are eight times digit + shift, scales an eighth.
// Bytes loaded for 32 weights: 4 + 2 + 2, 4 + 2 + 8 (the header serves 8 neighbours).
#pragma once
#include "codebook.cuh"

// The eight weights of a point into two words: -7, 1, 9 or -9, -1, 7.
static __device__ __forceinline__ void iq1_point(uint32_t point, bool down, int* q) {
    const uint32_t levels = down ? 0x0007fff7 : 0x000901f9;
    q[0] = __byte_perm(levels, 0, selectors2(point & 255));
    q[1] = __byte_perm(levels, 0, selectors2(point >> 8));
}

// Scale and shift for 32 weights: three high bits of four points, scale, shift.
struct IQ1_S {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<32, 16, 2>;   // low bytes; high bits, scale, shift; d

    struct Raw {
        uint32_t low;
        uint16_t bits, d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint32_t>(Layout::at<0>(row, 0) + 4 * g), ::load<uint16_t>(Layout::at<1>(row, 0) + 2 * g),
                   ::load<uint16_t>(Layout::at<2>(row, g / 8))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            iq1_point(point(IQ1_POINTS, (raw.low >> 8 * k & 255) | (raw.bits >> 3 * k & 7) << 8), raw.bits >> 15, to.q + 2 * k);
        both(to, __fmul_rn(half_bits(raw.d), (float)(2 * (raw.bits >> 12 & 7) + 1)) * 0.125f);
    }
};

// A scale for 16 weights, a shift for 8; d lies in the upper four bits of the four words of scales.
struct IQ1_M {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = true, ADDEND = false, SPLIT = false;
    using Layout = Planes<32, 16, 8>;   // low bytes; high bits and shifts; scales and d

    struct Raw {
        uint2 head;
        uint32_t low;
        uint16_t bits;   // of four points: three high bits, shift
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint2>(Layout::at<2>(row, g / 8)), ::load<uint32_t>(Layout::at<0>(row, 0) + 4 * g),
                   ::load<uint16_t>(Layout::at<1>(row, 0) + 2 * g)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int g, Group& to) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const uint32_t bits = raw.bits >> 4 * k;
            iq1_point(point(IQ1_POINTS, (raw.low >> 8 * k & 255) | (bits & 7) << 8), bits & 8, to.q + 2 * k);
        }
        const uint32_t x = raw.head.x, y = raw.head.y;
        const float d = half_bits((uint16_t)((x >> 12 & 0xf) | (x >> 24 & 0xf0) | (y >> 4 & 0xf00) | (y >> 16 & 0xf000)));
        // Twelve bits of a word are the scales of four groups of 16, that is, of two of ours.
        const int s = g & 7;
        const uint32_t scales = (s < 4 ? x : y) >> (16 * (s >> 1 & 1) + 6 * (s & 1));
        to.d[0] = __fmul_rn(d, (float)(2 * (scales & 7) + 1)) * 0.125f;
        to.d[1] = __fmul_rn(d, (float)(2 * (scales >> 3 & 7) + 1)) * 0.125f;
    }
};
