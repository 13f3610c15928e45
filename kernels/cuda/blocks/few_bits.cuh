// TQ1_0, TQ2_0, Q1_0, Q2_0: one and two bits, one scale d for a block.
//
// Bytes loaded for 32 weights: 32 + 2 (five groups share the 32), 8 + 2, 4 + 2, 8 + 2.
#pragma once
#include "../decode.cuh"

// Digit k to base 3 of four bytes that hold fractions of 256, most significant digit first; power = 3^k.
static __device__ __forceinline__ int digits(uint32_t bytes, uint32_t power) {
    const uint32_t even = (bytes & 0x00ff00ff) * power & 0x00ff00ff, odd = (bytes >> 8 & 0x00ff00ff) * power & 0x00ff00ff;
    return (even * 3 >> 8 & 0x00030003) | (odd * 3 & 0x03000300);
}

// Ternary, five digits in a byte: weights 0-159 are the digits of 32 bytes, 160-239 those of 16, 240-255 four digits of 4.
struct TQ1_0 {
    static constexpr int WEIGHTS = 256, OFFSET = 1, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<32, 16, 4, 2>;   // the three ranges of bytes; d

    struct Raw {
        uint4 first, second;   // the bytes of weights 0-15 and 16-31 of the group
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        const int block = g / 8, s = g & 7;
        Raw raw;
        if (s < 5) {
            raw.first = ::load<uint4>(Layout::at<0>(row, block));
            raw.second = ::load<uint4>(Layout::at<0>(row, block) + 16);
        } else {
            raw.first = raw.second = ::load<uint4>(Layout::at<1>(row, block));
            if (s == 7) raw.second.x = ::load<uint32_t>(Layout::at<2>(row, block));
        }
        raw.d = ::load<uint16_t>(Layout::at<3>(row, block));
        return raw;
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int g, Group& to) {
        const int s = g & 7;
        // 3^s for groups 0-4; 1 and 3, 9 and 27 for 5 and 6; 81 for the first half of 7.
        const uint32_t a = s < 5 ? (s == 0 ? 1 : s == 1 ? 3 : s == 2 ? 9 : s == 3 ? 27 : 81) : s == 5 ? 1 : s == 6 ? 9 : 81;
        const uint32_t b = s < 5 ? a : 3 * a;
        const uint32_t x[4] = {raw.first.x, raw.first.y, raw.first.z, raw.first.w};
        const uint32_t y[4] = {raw.second.x, raw.second.y, raw.second.z, raw.second.w};
        uint32_t power = 1;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            to.q[k] = digits(x[k], a);
            to.q[k + 4] = s == 7 ? digits(y[0], power) : digits(y[k], b);
            power *= 3;
        }
        both(to, half_bits(raw.d));
    }
};

// Two bits: d * (code - 1), in blocks of SIZE weights.
template <int SIZE> struct TwoBits {
    static constexpr int WEIGHTS = SIZE, OFFSET = 1, IN_PLACE = 2;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<SIZE / 4, 2>;   // codes; d

    struct Raw {
        uint2 codes;
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint2>(Layout::template at<0>(row, 0) + 8 * g), ::load<uint16_t>(Layout::template at<1>(row, g / (SIZE / 32)))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        in_place(raw.codes, to.q);
        both(to, half_bits(raw.d));
    }
};
using TQ2_0 = TwoBits<256>;
using Q2_0 = TwoBits<64>;

// Signs: d * (2 * bit - 1).
struct Q1_0 {
    static constexpr int WEIGHTS = 128, OFFSET = 1, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<16, 2>;   // bits; d

    struct Raw {
        uint32_t bits;
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{::load<uint32_t>(Layout::at<0>(row, 0) + 4 * g), ::load<uint16_t>(Layout::at<1>(row, g / 4))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        zero(to.q);
        add_bits<1>(raw.bits, to.q);
        both(to, half_bits(raw.d));
    }
};
