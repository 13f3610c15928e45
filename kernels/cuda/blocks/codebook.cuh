// What the codebook formats (IQ1, IQ2, IQ3) share: points of a fixed set, four or eight weights each, signs apart.
//
// 1. Points are kept as packed digits (codebooks.cuh): 16 bits instead of 32 or 64, so that a table stays in the first-level
//    cache; digits become bytes by four shifts and one byte permutation.
// 2. Threads look different points up, which constant memory would serve one after another: tables are read through the
//    read-only cache.
#pragma once
#include "../decode.cuh"
#include "codebooks.cuh"

static __device__ __forceinline__ uint32_t point(const uint16_t* table, uint32_t index) { return __ldg(table + index); }

// Four digits of two bits, as the selectors of a byte permutation.
static __device__ __forceinline__ uint32_t selectors2(uint32_t digits) {
    const uint32_t pairs = (digits | digits << 4) & 0x0f0f;
    return (pairs | pairs << 2) & 0x3333;
}

// Four digits of three bits.
static __device__ __forceinline__ uint32_t selectors3(uint32_t digits) {
    return (digits & 7) | (digits << 1 & 0x70) | (digits << 2 & 0x700) | (digits << 3 & 0x7000);
}

// Four magnitudes with the signs of four bits: the opposite of a byte is its complement plus one, and magnitudes are not 0, so that
// nothing is carried over.
static __device__ __forceinline__ int with_signs(uint32_t magnitudes, uint32_t four) {
    const uint32_t ones = (four & 15) * 0x00204081 & 0x01010101;
    return (magnitudes ^ ones * 255) + ones;
}

// The eighth sign that seven even ones imply.
static __device__ __forceinline__ uint32_t all_signs(uint32_t seven) { return seven | (__popc(seven) & 1) << 7; }
