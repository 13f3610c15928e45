// IQ4_NL, IQ4_XS: 4-bit codes on a fixed uneven grid, looked up by byte permutations.
//
// Bytes loaded for 32 weights: 18, 16 + 8 (the header serves 8 neighbours).
#pragma once
#include "../decode.cuh"

// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
static __device__ __forceinline__ Levels<true> iq4_levels() { return {{0x26190d01, 0x71594535}, {0x4153687f, 0x0a162331}}; }

// One scale for 32.
struct IQ4_NL {
    static constexpr int WEIGHTS = 32, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = true;
    using Layout = Planes<16, 2>;   // nibbles; d

    struct Raw {
        uint4 codes;
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint4>(Layout::at<0>(row, g)), ::load<uint16_t>(Layout::at<1>(row, g))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        look_up(iq4_levels(), raw.codes, to);
        both(to, half_bits(raw.d));
    }
};

// Super-blocks of 256: d, upper two bits of the eight scales, their low nibbles; scales are stored plus 32.
struct IQ4_XS {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = true;
    using Layout = Planes<128, 8>;   // nibbles; header

    struct Raw {
        uint4 codes;
        uint2 head;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint4>(Layout::at<0>(row, 0) + 16 * g), ::load<uint2>(Layout::at<1>(row, g / 8))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int g, Group& to) {
        look_up(iq4_levels(), raw.codes, to);
        const int s = g & 7;
        const uint32_t low = raw.head.y >> 4 * s & 15, high = raw.head.x >> (16 + 2 * s) & 3;
        both(to, __fmul_rn(low_half(raw.head.x), (float)((int)(low | high << 4) - 32)));
    }
};
