// Activations rounded to 8 bits for products with quantized weights, where what made them has not done it (norm.cu, elements.cu).
//
//     one thread for four activations, eight threads for a group of 32: round.cuh
//
// Bound: memory; reads 4 bytes and writes 1.25 for each activation.
#include "round.cuh"

// grid (len / 4 in blocks), block (256)
KERNEL(256, quantize,
       const float* x,   // (n, cols), cols a multiple of 32
       int8_t* codes,    // (n, cols)
       Scale* scales,    // (n, cols / 32)
       int len) {        // n * cols
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const bool inside = 4 * i < len;
    const float4 v = inside ? reinterpret_cast<const float4*>(x)[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    round_four(v, inside, i, codes, scales);
}
