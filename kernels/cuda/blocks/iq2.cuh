// IQ2_XXS, IQ2_XS, IQ2_S: magnitudes 8, 25, 43 of eight weights as a point, d * (scale + 1/2) / 4.
//
// Bytes loaded for 32 weights: 8 + 2, 8 + 1 + 2, 4 + 4 + 1 + 1 + 2.
#pragma once
#include "codebook.cuh"

// The eight weights of a point into two words.
static __device__ __forceinline__ void iq2_point(uint32_t point, uint32_t signs, int* q) {
    q[0] = with_signs(__byte_perm(0x002b1908, 0, selectors2(point & 255)), signs);
    q[1] = with_signs(__byte_perm(0x002b1908, 0, selectors2(point >> 8)), signs >> 4);
}

static __device__ __forceinline__ float iq2_scale(float d, uint32_t four) { return __fmul_rn(d, 0.5f + (float)(four & 15)) * 0.25f; }

// 256 points; one scale for 32, in the upper four bits of the signs' word.
struct IQ2_XXS {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<64, 2>;   // (4 points, signs and scale) of each group; d

    struct Raw {
        uint2 codes;
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint2>(Layout::at<0>(row, 0) + 8 * g), ::load<uint16_t>(Layout::at<1>(row, g / 8))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            iq2_point(point(IQ2_XXS_POINTS, raw.codes.x >> 8 * k & 255), all_signs(raw.codes.y >> 7 * k & 127), to.q + 2 * k);
        both(to, iq2_scale(half_bits(raw.d), raw.codes.y >> 28));
    }
};

// 512 points; codes of 16 bits: 9 of the point, 7 signs.
struct IQ2_XS {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = true, ADDEND = false, SPLIT = false;
    using Layout = Planes<64, 8, 2>;   // codes; scales; d

    struct Raw {
        uint2 codes;
        uint16_t d;
        uint8_t scales;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint2>(Layout::at<0>(row, 0) + 8 * g), ::load<uint16_t>(Layout::at<2>(row, g / 8)),
                   ::load<uint8_t>(Layout::at<1>(row, 0) + g)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const uint32_t code = (k < 2 ? raw.codes.x : raw.codes.y) >> 16 * (k & 1) & 0xffff;
            iq2_point(point(IQ2_XS_POINTS, code & 511), all_signs(code >> 9), to.q + 2 * k);
        }
        to.d[0] = iq2_scale(half_bits(raw.d), raw.scales);
        to.d[1] = iq2_scale(half_bits(raw.d), raw.scales >> 4);
    }
};

// 1024 points: low bytes, and two bits each apart; eight signs.
struct IQ2_S {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = true, ADDEND = false, SPLIT = false;
    using Layout = Planes<32, 32, 8, 8, 2>;   // low bytes; signs; high bits; scales; d

    struct Raw {
        uint32_t low, signs;
        uint16_t d;
        uint8_t high, scales;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint32_t>(Layout::at<0>(row, 0) + 4 * g), ::load<uint32_t>(Layout::at<1>(row, 0) + 4 * g),
                   ::load<uint16_t>(Layout::at<4>(row, g / 8)), ::load<uint8_t>(Layout::at<2>(row, 0) + g),
                   ::load<uint8_t>(Layout::at<3>(row, 0) + g)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            iq2_point(point(IQ2_S_POINTS, (raw.low >> 8 * k & 255) | (raw.high >> 2 * k & 3) << 8), raw.signs >> 8 * k, to.q + 2 * k);
        to.d[0] = iq2_scale(half_bits(raw.d), raw.scales);
        to.d[1] = iq2_scale(half_bits(raw.d), raw.scales >> 4);
    }
};
