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

// A group's product with 32 activations, without their scale.
template <class F> static __device__ __forceinline__ float dot(const Group& w, const int (&x)[8], const Scale& s) {
    int low = 0, high = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        low = __dp4a(w.q[k], x[k], low);
        high = __dp4a(w.q[k + 4], x[k + 4], high);
    }
    const int s0 = s.sum[0], s1 = s.sum[1];
    if (F::HALVES) {
        float sum = w.d[0] * (float)(low - F::OFFSET * s0) + w.d[1] * (float)(high - F::OFFSET * s1);
        if (F::ADDEND) sum += w.m[0] * (float)s0 + w.m[1] * (float)s1;
        return sum;
    }
    const float sum = w.d[0] * (float)(low + high - F::OFFSET * (s0 + s1));
    return F::ADDEND ? sum + w.m[0] * (float)(s0 + s1) : sum;
}
