// Q6_K, Q3_K: super-blocks of 256 weights in 16 groups of 16, d * scale * (code - 2^(bits - 1)).
//
// Bytes loaded for 32 weights: 16 + 8 + 2 + 2, 8 + 4 + 12 + 2; of these, d and Q3_K's 12 bytes of scales serve 8 neighbours.
#pragma once
#include "../decode.cuh"

// 6 bits, scales are signed bytes.
struct Q6_K {
    static constexpr int WEIGHTS = 256, OFFSET = 32, IN_PLACE = 8;
    static constexpr bool HALVES = true, ADDEND = false, SPLIT = false;
    using Layout = Planes<128, 64, 16, 2>;   // lower four bits; upper two; scales; d

    struct Raw {
        uint4 low;
        uint2 high;
        uint16_t scales;
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint4>(Layout::at<0>(row, 0) + 16 * g), ::load<uint2>(Layout::at<1>(row, 0) + 8 * g),
                   ::load<uint16_t>(Layout::at<2>(row, 0) + 2 * g), ::load<uint16_t>(Layout::at<3>(row, g / 8))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        nibbles(raw.low, to.q);
        add_pairs<4>(raw.high, to.q);
        const float d = half_bits(raw.d);
        to.d[0] = __fmul_rn(d, (float)(int8_t)raw.scales);
        to.d[1] = __fmul_rn(d, (float)(int8_t)(raw.scales >> 8));
    }
};

// 3 bits, scales of six bits stored plus 32, as `six_bits` has them: those of both halves of a group together.
struct Q3_K {
    static constexpr int WEIGHTS = 256, OFFSET = 4, IN_PLACE = 8;
    static constexpr bool HALVES = true, ADDEND = false, SPLIT = false;
    using Layout = Planes<64, 32, 12, 2>;   // lower two bits; third bits; scales; d

    struct Raw {
        uint2 low;
        uint32_t high, scales[3];
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        const uint8_t* scales = Layout::at<2>(row, g / 8);
        return Raw{::load<uint2>(Layout::at<0>(row, 0) + 8 * g), ::load<uint32_t>(Layout::at<1>(row, 0) + 4 * g),
                   {::load<uint32_t>(scales), ::load<uint32_t>(scales + 4), ::load<uint32_t>(scales + 8)},
                   ::load<uint16_t>(Layout::at<3>(row, g / 8))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int g, Group& to) {
        zero(to.q);
        add_pairs<0>(raw.low, to.q);
        add_bits<2>(raw.high, to.q);
        const float d = half_bits(raw.d);
        const float2 scales = six_bits(g & 4 ? raw.scales[1] : raw.scales[0], raw.scales[2], g & 7, 1024.0f + 32.0f);
        to.d[0] = __fmul_rn(d, scales.x);
        to.d[1] = __fmul_rn(d, scales.y);
    }
};
