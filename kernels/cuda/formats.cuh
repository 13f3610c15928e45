// The list of block formats: a format is one header in blocks/, its name here, and its planes in kernels/src/cuda/layout.rs.
// Every kernel is instantiated over it.
#pragma once
#include "blocks/few_bits.cuh"
#include "blocks/floats.cuh"
#include "blocks/fp4.cuh"
#include "blocks/iq1.cuh"
#include "blocks/iq2.cuh"
#include "blocks/iq3.cuh"
#include "blocks/iq4.cuh"
#include "blocks/k_affine.cuh"
#include "blocks/k_symmetric.cuh"
#include "blocks/legacy.cuh"

// Formats with integer codes: products in 8-bit integers.
#define FOR_ALL_QUANTIZED(DO)                                          \
    DO(Q4_0) DO(Q4_1) DO(Q5_0) DO(Q5_1) DO(Q8_0)                       \
    DO(Q2_K) DO(Q3_K) DO(Q4_K) DO(Q5_K) DO(Q6_K)                       \
    DO(IQ1_S) DO(IQ1_M) DO(IQ2_XXS) DO(IQ2_XS) DO(IQ2_S)               \
    DO(IQ3_XXS) DO(IQ3_S) DO(IQ4_NL) DO(IQ4_XS)                        \
    DO(TQ1_0) DO(TQ2_0) DO(MXFP4) DO(NVFP4) DO(Q1_0) DO(Q2_0)

// Floats.
#define FOR_ALL_FLOATS(DO) DO(F32) DO(F16) DO(BF16)

// Formats that the usual mixtures give to queries, keys and values of one layer, so that they can be multiplied in one launch; in the
// order of their numbers in GGUF.
#define FOR_ALL_PAIRS(DO)                                              \
    DO(Q2_K, Q3_K) DO(Q2_K, Q4_K) DO(Q3_K, Q4_K) DO(Q3_K, Q5_K)        \
    DO(Q4_K, Q5_K) DO(Q4_K, Q6_K) DO(Q5_K, Q6_K) DO(Q5_K, IQ4_XS)
