// Rounding activations to 8 bits, by whatever kernel makes them: activations.cuh says what comes out.
#pragma once
#include "activations.cuh"

// Rounds four activations and writes them. Eight neighbouring threads hold a group, and all lanes of the warp call; nothing is
// written where not `inside`, which is the same for all of a group.
//
// 1. Magnitudes are compared as integers: floats of one sign are in their order, and a NaN is larger than all. A group with an
//    infinity or a NaN so gets a scale that makes every product with it NaN or infinite, instead of losing it.
// 2. Groups whose largest magnitude is below 1e-36 count as zeros, as on the CPU: the inverse of their scale would be no number.
static __device__ __forceinline__ void round_four(
    float4 v, bool inside,
    int i,            // which four
    int8_t* codes,    // as above, both
    Scale* scales) {
    int bits = max(max(__float_as_int(fabsf(v.x)), __float_as_int(fabsf(v.y))), max(__float_as_int(fabsf(v.z)), __float_as_int(fabsf(v.w))));
#pragma unroll
    for (int mask = 1; mask < 8; mask <<= 1) bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, mask));
    const float largest = __int_as_float(bits);
    const bool tiny = largest < 1e-36f, finite = bits < 0x7f800000;
    const float inverse = tiny || !finite ? 0.0f : 127.0f / largest;
    if (!finite) v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);   // a NaN has no code
    const int a = __float2int_rn(v.x * inverse), b = __float2int_rn(v.y * inverse);
    const int c = __float2int_rn(v.z * inverse), d = __float2int_rn(v.w * inverse);
    int sum = a + b + c + d;
#pragma unroll
    for (int mask = 1; mask < 4; mask <<= 1) sum += __shfl_xor_sync(ALL_LANES, sum, mask);
    const int other = __shfl_xor_sync(ALL_LANES, sum, 4);
    if (!inside) return;
    reinterpret_cast<uint32_t*>(codes)[i] = (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (uint32_t)(d & 255) << 24;
    if (i % 8 == 0) {
        Scale s;
        s.d = tiny ? 0.0f : largest / 127.0f;
        s.sum[0] = (int16_t)sum;
        s.sum[1] = (int16_t)other;
        scales[i / 8] = s;
    }
}
