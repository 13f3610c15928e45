// Activations as products with quantized weights take them: rounded to 8 bits, one scale for 32 neighbours.
//
//     codes:  (n, cols) signed bytes           round(x / d), ties to even
//     scales: (n, cols / 32) of Scale          d = largest magnitude / 127, and sums of codes
//
// The sums are exact integers: what a format's OFFSET and addend contribute to a product needs nothing else of the
// activations. The CPU backend rounds in the same way, so that both give the same products but for the order of sums.
#pragma once
#include "decode.cuh"

struct __align__(8) Scale {   // loaded at once
    float d;
    int16_t sum[2];   // of codes 0-15 and 16-31: at most 16 * 127
};

// Integers below 2^22 become floats by adding: a sum that starts at the bits of 1.5 * 2^23 counts units in its last bits, and the
// float is had by subtraction, on units that have less to do than those that convert.
static constexpr int MAGIC = 0x4b400000;
static __device__ __forceinline__ float from_magic(int sum) { return __int_as_float(sum) - 12582912.0f; }

// Adds products of words `first .. last` of a group, in whatever form its codes are, to `sum`.
template <class F> static __device__ __forceinline__ int add_products(const Group& w, const int (&x)[8], int first, int last, int sum) {
    if (F::SPLIT) {
        int minus = 0;
#pragma unroll
        for (int k = first; k < last; ++k) minus = __dp4a(w.minus[k], x[k], minus);
        sum -= minus;
    }
    if (F::IN_PLACE == 8) {
#pragma unroll
        for (int k = first; k < last; ++k) sum = __dp4a(w.q[k], x[k], sum);
        return sum;
    }
    // From those that are shifted furthest on: what is summed up is a multiple of what comes off before the next.
    int shifted = 0;
#pragma unroll
    for (int k = last - 1; k >= first; --k) {
        const int off = k == last - 1 ? 0 : shift_of<F>(k + 1) - shift_of<F>(k);
        shifted = shift_of<F>(k) == 0 && off ? sum + (shifted >> off) : shifted >> off;
        shifted = dp4a_unsigned_signed(w.q[k], x[k], shifted);
    }
    return shift_of<F>(last - 1) == 0 || shift_of<F>(first) ? sum + (shifted >> shift_of<F>(first)) : shifted;
}

// A group's product with 32 activations, without their scale. Sums are below 32 * 127 * 128.
template <class F> static __device__ __forceinline__ float dot(const Group& w, const int (&x)[8], const Scale& s) {
    const int s0 = s.sum[0], s1 = s.sum[1];
    if (F::HALVES) {
        const float low = from_magic(add_products<F>(w, x, 0, 4, MAGIC - F::OFFSET * s0));
        const float high = from_magic(add_products<F>(w, x, 4, 8, MAGIC - F::OFFSET * s1));
        float sum = w.d[0] * low + w.d[1] * high;
        if (F::ADDEND) sum += w.m[0] * (float)s0 + w.m[1] * (float)s1;
        return sum;
    }
    const float sum = w.d[0] * from_magic(add_products<F>(w, x, 0, 8, MAGIC - F::OFFSET * (s0 + s1)));
    return F::ADDEND ? sum + w.m[0] * (float)(s0 + s1) : sum;
}
