// What products on tensor cores share: tiles in shared memory, fragments, the shape of a block's work.
//
// A tile holds, of each of its rows (of weights, or tokens), 64 bytes of k at a time: 64 codes or 32 floats of 16 bits. Tensor cores
// take 32 bytes of k at a time in either case, so that only the multiplication itself depends on the type.
#pragma once
#include "activations.cuh"
#include "formats.cuh"
#include "parts.cuh"

// Bytes of k in a stage, and from one row to the next in shared memory: 16 more, so that eight rows lie in different banks.
static constexpr int STAGE = 64, PITCH = STAGE + 16;

// The shape of a block's work: WARPS_M x WARPS_N warps of M x N tensor core tiles (16 rows x 8 tokens) each.
template <int M_, int N_, int WARPS_M, int WARPS_N> struct Shape {
    static constexpr int M = M_, N = N_;
    static constexpr int ROWS = 16 * M * WARPS_M, TOKENS = 8 * N * WARPS_N, THREADS = 32 * WARPS_M * WARPS_N;

    // The warp's first row and token in the tile.
    static __device__ __forceinline__ int row() { return threadIdx.x / 32 % WARPS_M * 16 * M; }
    static __device__ __forceinline__ int token() { return threadIdx.x / 32 / WARPS_M * 8 * N; }
};

// 16 rows x 32 bytes of k, from byte k of row `row` on, as the first operand.
static __device__ __forceinline__ void load_rows(uint32_t (&a)[4], const uint8_t* tile, int row, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4(a, tile + (row + (lane & 15)) * PITCH + k + (lane >> 4) * 16);
}

// 16 tokens x 32 bytes of k as two second operands.
static __device__ __forceinline__ void load_tokens(uint32_t (&first)[2], uint32_t (&second)[2], const uint8_t* tile, int token, int k) {
    const int lane = threadIdx.x & 31;
    uint32_t all[4];
    ldmatrix_x4(all, tile + (token + (lane & 7) + (lane >> 4) * 8) * PITCH + k + (lane >> 3 & 1) * 16);
    first[0] = all[0], first[1] = all[1], second[0] = all[2], second[1] = all[3];
}

// Starts copying a stage of COUNT rows of `tile` from rows `first ..` of a matrix whose rows are `stride` bytes, 64 bytes from
// byte k on. Zeros stand for what lies beyond row `end` or byte `stride`.
template <int COUNT, int THREADS>
static __device__ __forceinline__ void copy_stage(uint8_t* tile, const uint8_t* matrix, size_t stride, int first, int end, int k) {
    for (int i = threadIdx.x; i < COUNT * (STAGE / 16); i += THREADS) {
        const int row = i / (STAGE / 16), at = i % (STAGE / 16) * 16;
        const bool there = first + row < end && k + at < (int)stride;
        cp_async16(tile + row * PITCH + at, matrix + (there ? (size_t)(first + row) * stride + k + at : 0), there);
    }
}

// Writes a warp's sums: rows `row ..`, tokens `token ..`; factor(token) is multiplied on.
// Eight lanes write neighbouring rows of one token: whole sectors of 32 bytes.
template <int M, int N, class Factor>
static __device__ __forceinline__ void write_sums(const float (&sums)[M][N][4], const Part& part, int row, int token, int n, Factor factor) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int r = row + 16 * m + lane / 4 + (i >> 1) * 8;
            if (r >= part.rows) continue;
            const float bias = part.bias ? part.bias[r] : 0.0f;
#pragma unroll
            for (int t = 0; t < N; ++t) {
                const int c = token + 8 * t + lane % 4 * 2 + (i & 1);
                if (c < n) part.out[(size_t)c * part.rows + r] = sums[m][t][i] * factor(c) + bias;
            }
        }
}
