// Rounding activations to 8 bits, by whatever kernel makes them: activations.cuh says what comes out.
#pragma once
#include "activations.cuh"

// How a group is rounded, from the bits of its largest magnitude.
//
// 1. Magnitudes are compared as integers: floats of one sign are in their order, and a NaN is larger than all. A group with an
//    infinity or a NaN so gets a scale that makes every product with it NaN or infinite, instead of losing it.
// 2. Groups whose largest magnitude is below 1e-36 count as zeros, as on the CPU: the inverse of their scale would be no number.
struct Rounding {
    float inverse, d;
    bool finite;   // if not, all codes are 0: a NaN has none

    static __device__ __forceinline__ Rounding of(int bits) {
        const float largest = __int_as_float(bits);
        const bool tiny = largest < 1e-36f, finite = bits < 0x7f800000;
        return Rounding{tiny || !finite ? 0.0f : 127.0f / largest, tiny ? 0.0f : largest / 127.0f, finite};
    }
    __device__ __forceinline__ int code(float x) const { return finite ? __float2int_rn(x * inverse) : 0; }
};
static __device__ __forceinline__ int magnitude(float x) { return __float_as_int(fabsf(x)); }

static __device__ __forceinline__ Scale scale_of(float d, int first_sum, int second_sum) {
    Scale s;
    s.d = d;
    s.sum[0] = (int16_t)first_sum;
    s.sum[1] = (int16_t)second_sum;
    return s;
}

// Rounds four activations and writes them. Eight neighbouring threads hold a group, and all lanes of the warp call; nothing is
// written where not `inside`, which is the same for all of a group.
static __device__ __forceinline__ void round_four(
    float4 v, bool inside,
    int i,            // which four
    int8_t* codes,    // as above, both
    Scale* scales) {
    int bits = max(max(magnitude(v.x), magnitude(v.y)), max(magnitude(v.z), magnitude(v.w)));
#pragma unroll
    for (int mask = 1; mask < 8; mask <<= 1) bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, mask));
    const Rounding rounding = Rounding::of(bits);
    const int a = rounding.code(v.x), b = rounding.code(v.y), c = rounding.code(v.z), d = rounding.code(v.w);
    int sum = a + b + c + d;
#pragma unroll
    for (int mask = 1; mask < 4; mask <<= 1) sum += __shfl_xor_sync(ALL_LANES, sum, mask);
    const int other = __shfl_xor_sync(ALL_LANES, sum, 4);
    if (!inside) return;
    reinterpret_cast<uint32_t*>(codes)[i] = (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (uint32_t)(d & 255) << 24;
    if (i % 8 == 0) scales[i / 8] = scale_of(rounding.d, sum, other);
}
