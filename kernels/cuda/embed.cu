// Rows of a packed table, dequantized: token and position embeddings.
//
//     one thread for 32 weights (16 bytes of floats) of a row: load, decode, write
//
// Bound: memory; reads n rows as they are packed and writes 4 * n * cols bytes. Too little work for anything cleverer.
//
// 1. Bit for bit what the CPU gives: products and sums are rounded one by one (`value` of decode.cuh).
#include "formats.cuh"

// out[i] = table[rows[i]]. rows: (n); out: (n, cols). Grid: (ceil(cols / 32 / threads), n).
template <class F> static __device__ __forceinline__ void embed(const uint8_t* table, const uint32_t* rows, float* out, int cols) {
    const int g = blockIdx.x * blockDim.x + threadIdx.x;
    if (g >= cols / GROUP) return;
    const Row row = row_of<F>(table, rows[blockIdx.y], cols);
    Group w;
    F::decode(F::load(row, g), g, w);
    float4* to = reinterpret_cast<float4*>(out + (size_t)blockIdx.y * cols + g * GROUP);
#pragma unroll
    for (int i = 0; i < GROUP; i += 4)
        to[i / 4] = make_float4(value<F>(w, i), value<F>(w, i + 1), value<F>(w, i + 2), value<F>(w, i + 3));
}

// The same for floats, with a loop: a thread for every 16 bytes would need another grid.
template <class F> static __device__ __forceinline__ void embed_floats(const uint8_t* table, const uint32_t* rows, float* out, int cols) {
    constexpr int STEP = F::IN_16_BYTES;
    const Row row = row_of<F>(table, rows[blockIdx.y], cols);
    for (int i = STEP * (blockIdx.x * blockDim.x + threadIdx.x); i < cols; i += STEP * gridDim.x * blockDim.x) {
        float w[STEP];
        F::unpack(load<uint4>(row.bytes + i * F::BYTES), w);
#pragma unroll
        for (int k = 0; k < STEP; ++k)
            if (i + k < cols) out[(size_t)blockIdx.y * cols + i + k] = w[k];
    }
}

#define EMBED(F) \
    KERNEL(256, embed_##F, const uint8_t* table, const uint32_t* rows, float* out, int cols) { embed<F>(table, rows, out, cols); }
#define EMBED_FLOATS(F) \
    KERNEL(256, embed_##F, const uint8_t* table, const uint32_t* rows, float* out, int cols) { embed_floats<F>(table, rows, out, cols); }

FOR_ALL_QUANTIZED(EMBED)
FOR_ALL_FLOATS(EMBED_FLOATS)
