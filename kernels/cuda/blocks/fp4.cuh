// MXFP4, NVFP4: 4-bit floats (E2M1), looked up as twice their values by byte permutations, with a small float as scale.
//
// Bytes loaded for 32 weights: 17, 18.
#pragma once
#include "../decode.cuh"

// 0, 1, 2, 3, 4, 6, 8, 12 and their opposites.
static __device__ __forceinline__ Levels<false> fp4_levels() { return {{0x03020100, 0x0c080604}, {0x03020100, 0x0c080604}}; }

// One power of two (E8M0) for 32.
struct MXFP4 {
    static constexpr int WEIGHTS = 32, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = true;
    using Layout = Planes<16, 1>;   // nibbles; exponent

    struct Raw {
        uint4 codes;
        uint8_t exponent;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint4>(Layout::at<0>(row, g)), ::load<uint8_t>(Layout::at<1>(row, g))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        look_up(fp4_levels(), raw.codes, to);
        // Half of 2^(exponent - 127), since levels are doubled; the two lowest are subnormal.
        const uint32_t e = raw.exponent;
        both(to, __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23));
    }
};

// Half of what a UE4M3 byte stands for: bias 7, subnormals; 127 is 0, bit 7 is ignored otherwise.
static __device__ __forceinline__ float half_of_ue4m3(uint32_t byte) {
    const uint32_t exponent = byte >> 3 & 15, mantissa = byte & 7;
    const float subnormal = (float)mantissa * 0.0009765625f;   // 2^-10
    const float normal = __uint_as_float((exponent + 119) << 23 | mantissa << 20);
    return byte == 127 ? 0.0f : exponent ? normal : subnormal;
}

// Blocks of 64 with a scale for each 16.
struct NVFP4 {
    static constexpr int WEIGHTS = 64, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = true, ADDEND = false, SPLIT = true;
    using Layout = Planes<32, 4>;   // nibbles; scales

    struct Raw {
        uint4 codes;
        uint16_t scales;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint4>(Layout::at<0>(row, 0) + 16 * g), ::load<uint16_t>(Layout::at<1>(row, 0) + 2 * g)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        look_up(fp4_levels(), raw.codes, to);
        to.d[0] = half_of_ue4m3(raw.scales & 255);
        to.d[1] = half_of_ue4m3(raw.scales >> 8);
    }
};
