// F16, BF16, F32: no codes; how 16 bytes of a row become floats.
//
// Rows are padded with zeros to 16 bytes, so that a row of any length is read in whole loads.
#pragma once
#include "../decode.cuh"

// `bits` to floats for 16-bit formats.
struct F16 {
    static constexpr int WEIGHTS = 1, BYTES = 2, IN_16_BYTES = 8;
    using Layout = Planes<2>;
    static __device__ __forceinline__ void unpack(const uint4& raw, float (&to)[8]) {
        const uint32_t w[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) to[2 * k] = low_half(w[k]), to[2 * k + 1] = high_half(w[k]);
    }
};

struct BF16 {
    static constexpr int WEIGHTS = 1, BYTES = 2, IN_16_BYTES = 8;
    using Layout = Planes<2>;
    static __device__ __forceinline__ void unpack(const uint4& raw, float (&to)[8]) {
        const uint32_t w[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) to[2 * k] = __int_as_float(w[k] << 16), to[2 * k + 1] = __int_as_float(w[k] & 0xffff0000);
    }
};

struct F32 {
    static constexpr int WEIGHTS = 1, BYTES = 4, IN_16_BYTES = 4;
    using Layout = Planes<4>;
    static __device__ __forceinline__ void unpack(const uint4& raw, float (&to)[4]) {
        to[0] = __int_as_float(raw.x), to[1] = __int_as_float(raw.y), to[2] = __int_as_float(raw.z), to[3] = __int_as_float(raw.w);
    }
};
