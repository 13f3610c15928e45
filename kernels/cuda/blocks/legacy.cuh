// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights with one scale d, and an addend m in the _1 ones.
//
// Bytes loaded for 32 weights: 18, 20, 22, 24, 34.
#pragma once
#include "../decode.cuh"

// 4 bits: d * (code - 8), or d * code + m.
template <bool WITH_ADDEND> struct Four {
    static constexpr int WEIGHTS = 32, OFFSET = WITH_ADDEND ? 0 : 8, IN_PLACE = 4;
    static constexpr bool HALVES = false, ADDEND = WITH_ADDEND, SPLIT = false;
    using Layout = Planes<16, WITH_ADDEND ? 4 : 2>;   // nibbles; d (and m)

    struct Raw {
        uint4 codes;
        uint32_t head;   // d, m
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        const uint8_t* head = Layout::template at<1>(row, g);
        return Raw{::load<uint4>(Layout::template at<0>(row, g)), WITH_ADDEND ? ::load<uint32_t>(head) : ::load<uint16_t>(head)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        in_place(raw.codes, to.q);
        both(to, low_half(raw.head), WITH_ADDEND ? high_half(raw.head) : 0.0f);
    }
};
using Q4_0 = Four<false>;
using Q4_1 = Four<true>;

// 5 bits: d * (code - 16), or d * code + m.
template <bool WITH_ADDEND> struct Five {
    static constexpr int WEIGHTS = 32, OFFSET = WITH_ADDEND ? 0 : 16, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = WITH_ADDEND, SPLIT = false;
    using Layout = Planes<16, 4, WITH_ADDEND ? 4 : 2>;   // nibbles; fifth bits; d (and m)

    struct Raw {
        uint4 codes;
        uint32_t fifth, head;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        const uint8_t* head = Layout::template at<2>(row, g);
        return Raw{::load<uint4>(Layout::template at<0>(row, g)), ::load<uint32_t>(Layout::template at<1>(row, g)),
                   WITH_ADDEND ? ::load<uint32_t>(head) : ::load<uint16_t>(head)};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        nibbles(raw.codes, to.q);
        add_bits<4>(raw.fifth, to.q);
        both(to, low_half(raw.head), WITH_ADDEND ? high_half(raw.head) : 0.0f);
    }
};
using Q5_0 = Five<false>;
using Q5_1 = Five<true>;

// 8 bits, signed: d * code.
struct Q8_0 {
    static constexpr int WEIGHTS = 32, OFFSET = 0, IN_PLACE = 8;
    static constexpr bool HALVES = false, ADDEND = false, SPLIT = false;
    using Layout = Planes<16, 16, 2>;   // codes 0-15; codes 16-31: neighbours load neighbouring bytes; d

    struct Raw {
        uint4 codes[2];
        uint16_t d;
    };
    static __device__ __forceinline__ Raw load(Row row, int g) {
        return Raw{{::load<uint4>(Layout::at<0>(row, g)), ::load<uint4>(Layout::at<1>(row, g))}, ::load<uint16_t>(Layout::at<2>(row, g))};
    }
    static __device__ __forceinline__ void decode(const Raw& raw, int, Group& to) {
        const uint4 a = raw.codes[0], b = raw.codes[1];
        const uint32_t w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int k = 0; k < 8; ++k) to.q[k] = w[k];
        both(to, half_bits(raw.d));
    }
};
