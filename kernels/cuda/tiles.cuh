// What products on tensor cores share: tiles in shared memory, fragments, the shape of a block's work.
//
// A tile holds, of each of its rows (of weights, or tokens), 64 bytes of k at a time: 64 codes or 32 floats of 16 bits. Tensor cores
// take 32 bytes of k at a time in either case, so that only the multiplication itself depends on the type.
#pragma once
#include "activations.cuh"
#include "formats.cuh"
#include "parts.cuh"

// Bytes of k in a stage: of a row in shared memory.
static constexpr int STAGE = 64;

// Where piece `piece` of 16 bytes (0..4) of row `row` lies in a tile. The pieces of a row change places every two rows: one piece of eight
// neighbouring rows, which ldmatrix reads at once, and all pieces of two, which eight threads write at once, so lie in the 32 banks without
// two in one.
static __device__ __forceinline__ int place(int row, int piece) { return row * STAGE + (piece ^ (row >> 1 & 3)) * 16; }

// The shape of a block's work: WARPS_M x WARPS_N warps of M x N tensor core tiles (16 rows x 8 tokens) each.
template <int M_, int N_, int WARPS_M, int WARPS_N> struct Shape {
    static constexpr int M = M_, N = N_;
    static constexpr int ROWS = 16 * M * WARPS_M, TOKENS = 8 * N * WARPS_N, THREADS = 32 * WARPS_M * WARPS_N;

    // The warp's first row and token in the tile.
    static __device__ __forceinline__ int row() { return threadIdx.x / 32 % WARPS_M * 16 * M; }
    static __device__ __forceinline__ int token() { return threadIdx.x / 32 / WARPS_M * 8 * N; }
};

// 16 rows x 32 bytes of k, from byte k of row `row` on, a multiple of 16, as the first operand.
static __device__ __forceinline__ void load_rows(uint32_t (&a)[4], const uint8_t* tile, int row, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4(a, tile + row * STAGE + place(lane & 15, k / 16 + (lane >> 4)));
}

// 16 tokens x 32 bytes of k as two second operands; token a multiple of 8.
static __device__ __forceinline__ void load_tokens(uint32_t (&first)[2], uint32_t (&second)[2], const uint8_t* tile, int token, int k) {
    const int lane = threadIdx.x & 31;
    uint32_t all[4];
    ldmatrix_x4(all, tile + token * STAGE + place((lane & 7) + (lane >> 4) * 8, k / 16 + (lane >> 3 & 1)));
    first[0] = all[0], first[1] = all[1], second[0] = all[2], second[1] = all[3];
}

// Starts copying a stage of COUNT rows of `tile` from rows `first ..` of a matrix whose rows are `stride` bytes, 64 bytes from
// byte k on. Zeros stand for what lies beyond row `end` or byte `stride`.
template <int COUNT, int THREADS>
static __device__ __forceinline__ void copy_stage(uint8_t* tile, const uint8_t* matrix, size_t stride, int first, int end, int k) {
    constexpr int PIECES = COUNT * (STAGE / 16);
#pragma unroll
    for (int j = 0; j < (PIECES + THREADS - 1) / THREADS; ++j) {
        const int i = j * THREADS + threadIdx.x;
        if (PIECES % THREADS && i >= PIECES) break;
        const int row = i / (STAGE / 16), piece = i % (STAGE / 16), at = k + 16 * piece;
        const bool there = first + row < end && at < (int)stride;
        cp_async16(tile + place(row, piece), matrix + (there ? (size_t)(first + row) * stride + at : 0), there);
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
