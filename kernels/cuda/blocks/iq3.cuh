// IQ3_XXS, IQ3_S: magnitudes of four weights as a point, one scale for 32.
//
// Bytes loaded for 32 weights: 8 + 4 + 2, 8 + 4 + 1 + 1 + 2.
#pragma once
#include "codebook.cuh"

// 256 points of 4, 12, ... 52, 62; seven signs for eight; d * (scale + 1/2) / 2.
struct IQ3_XXS {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<64, 32, 2>;   // points; signs and scales; d

    struct Raw {
        uint2 points;
        uint32_t signs;
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint2>(Layout::at<0>(row, 0) + 8 * g), ::load<uint32_t>(Layout::at<1>(row, 0) + 4 * g),
                   ::load<uint16_t>(Layout::at<2>(row, g / 8))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
            const uint32_t digits = point(IQ3_XXS_POINTS, (k < 4 ? raw.points.x : raw.points.y) >> 8 * (k & 3) & 255);
            const uint32_t signs = all_signs(raw.signs >> 7 * (k / 2) & 127) >> 4 * (k & 1);
            to.q[k] = with_signs(__byte_perm(0x1c140c04, 0x3e342c24, selectors3(digits)), signs);
        }
        both(to, __fmul_rn(half_bits(raw.d), 0.5f + (float)(raw.signs >> 28)) * 0.5f);
    }
};

// 512 points of 1, 3, ... 15; d * (2 * scale + 1).
struct IQ3_S {
    static constexpr int WEIGHTS = 256, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<64, 32, 8, 4, 2>;   // low bytes; signs; high bits; scales; d

    struct Raw {
        uint2 low;
        uint32_t signs;
        uint16_t d;
        uint8_t high, scales;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint2>(Layout::at<0>(row, 0) + 8 * g), ::load<uint32_t>(Layout::at<1>(row, 0) + 4 * g),
                   ::load<uint16_t>(Layout::at<4>(row, g / 8)), ::load<uint8_t>(Layout::at<2>(row, 0) + g),
                   ::load<uint8_t>(Layout::at<3>(row, 0) + g / 2)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int g, Group& to) {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
            const uint32_t low = (k < 4 ? raw.low.x : raw.low.y) >> 8 * (k & 3) & 255;
            const uint32_t digits = point(IQ3_S_POINTS, low | (raw.high >> k & 1) << 8);
            to.q[k] = with_signs(__byte_perm(0x07050301, 0x0f0d0b09, selectors3(digits)), raw.signs >> 4 * k);
        }
        both(to, __fmul_rn(half_bits(raw.d), (float)(1 + 2 * (raw.scales >> 4 * (g & 1) & 15))));
    }
};
