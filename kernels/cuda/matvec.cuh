// Products of packed weights with few tokens: generation.
//
//     one block for ROWS rows of a weight; its threads share the columns
//     for each of my groups of 32 columns:
//         load its bytes of all ROWS rows, then its activations
//         for each row: decode; for each token: 8 dot products of four bytes, times both scales
//     sum over the warp, then over the warps
//
// Bound: memory. A product reads its weights once (blocks * bytes per block for each row), activations of 1.25 bytes per column
// and token from the caches, and writes 4 bytes per row and token; it takes 2 * rows * cols * n operations, of which there
// are 4 per byte and token in Q4_K: less than any GPU computes while it loads them, up to 8 tokens.
//
// 1. All loads of a thread are 16 bytes where the format has as many for 32 weights, and neighbouring threads load neighbouring
//    bytes: the planes of decode.cuh.
// 2. Bytes in flight hide the latency: with one token a thread asks for a group of four rows at once (72 bytes of Q4_K, 136 of
//    Q8_0) before it waits for any. Left alone, the assembler spares registers and puts the loads behind the arithmetic of the row
//    before (seen in its output: two to four waits one after the other). Told that six blocks shall be resident it has 80
//    registers and leaves the loads where they are; only IQ2 and IQ3 have some of their table look-ups behind. 768 threads then have
//    54 KiB of Q4_K under way. A device of 4.8 TB/s and 132 multiprocessors moves 29 KiB for each of them in 800 ns. A row of
//    4096 is one group for each of 128 threads: no loop could have more under way by looking ahead.
// 3. Rows share a thread's activations. With up to 8 tokens two rows do, whose decoded weights stay in registers.
// 4. Threads of a block split columns, not rows: a matrix of few rows still fills the GPU. The host picks the number of
//    threads (32 .. 128) so that each has work, and more than one group of it where there are rows enough: what comes before and after
//    the groups is 110 to 140 instructions of a warp, a group of four rows 130 (Q8_0) to 340 (IQ4_XS).
// 5. Weights that share activations (query-key-value, gate-up) go in one launch if their formats agree (Parts), or are a pair that
//    the usual mixtures have beside each other: Q4_K_M keeps half of its values in Q6_K. A block has one of the two formats.
// 6. Sums are taken in an order that depends on shapes alone: the same bits in every run.
#pragma once
#include "activations.cuh"
#include "formats.cuh"
#include "parts.cuh"

// Adds ROWS * N sums of all threads of a block up and writes them.
//
// 1. Within a warp lanes exchange halves of what they hold: 16 apart each keeps half of the sums, 8 apart half of those, and so on, so
//    that four sums of 32 lanes take 6 exchanges, not 20.
template <int ROWS, int N>
static __device__ __forceinline__ void finish(float (&sums)[ROWS * N], const Part& part, int first, int token, int n) {
    constexpr int COUNT = ROWS * N, LANES = 32 / COUNT;   // lanes that end with one sum
    static_assert(COUNT * LANES == 32, "sums divide the lanes");
    __shared__ float of_warp[4][COUNT];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int bit = 16, keep = COUNT / 2; bit > 0; bit >>= 1, keep >>= 1) {
        const bool upper = lane & bit;
        if (keep == 0) sums[0] += __shfl_xor_sync(ALL_LANES, sums[0], bit);
#pragma unroll
        for (int i = 0; i < keep; ++i) {
            const float mine = upper ? sums[i + keep] : sums[i], other = upper ? sums[i] : sums[i + keep];
            sums[i] = mine + __shfl_xor_sync(ALL_LANES, other, bit);
        }
    }
    if (lane % LANES == 0) of_warp[warp][lane / LANES] = sums[0];
    __syncthreads();
    const int r = threadIdx.x / N, t = threadIdx.x % N;
    if (r >= ROWS || first + r >= part.rows || t >= n) return;
    float sum = part.bias ? part.bias[first + r] : 0.0f;
#pragma unroll
    for (int w = 0; w < 4; ++w)
        if (w < (int)blockDim.x >> 5) sum += of_warp[w][threadIdx.x];
    part.out[(size_t)(token + t) * part.rows + first + r] = sum;
}

// A group of a token's activations.
struct Activations {
    int codes[8];
    Scale scale;
};
static __device__ __forceinline__ Activations load_activations(const int8_t* codes, const Scale* scales, int g) {
    const int4* at = reinterpret_cast<const int4*>(codes + g * GROUP);
    const int4 a = at[0], b = at[1];
    return Activations{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, scales[g]};
}

// out = x * w^T + bias, for rows `token` to token + N - 1 of `out`, of n; in x they begin with row `from`. codes: (any, cols),
// scales: (any, cols / 32). Grid: (sum over parts of rows / ROWS, rounded up; any). Block: 32 .. 128 threads.
template <class F, int ROWS, int N>
static __device__ __forceinline__ void matvec(const Parts& parts, const int8_t* __restrict__ codes,
                                              const Scale* __restrict__ scales, int cols, int n, int token, int from) {
    int first;
    const Part part = find_part<ROWS>(parts, blockIdx.x, first);
    if (part.rows == 0) return;
    const int groups = cols / GROUP;
    codes += (size_t)from * cols;
    scales += (size_t)from * groups;
    n -= token;
    Row row[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) row[r] = row_of<F>(part.weight, min(first + r, part.rows - 1), cols);

    float sums[ROWS * N] = {};
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        typename F::Raw raw[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) raw[r] = F::load(row[r], g);
        if constexpr (N == 1) {   // activations are asked for before anything waits, and rows are decoded one by one
            const Activations x = load_activations(codes, scales, g);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                Group w;
                F::decode(raw[r], g, w);
                sums[r] += x.scale.d * dot<F>(w, x.codes, x.scale);
            }
        } else {
            Group w[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) F::decode(raw[r], g, w[r]);
#pragma unroll
            for (int t = 0; t < N; ++t) {
                if (t >= n) break;
                const Activations x = load_activations(codes + (size_t)t * cols, scales + (size_t)t * groups, g);
#pragma unroll
                for (int r = 0; r < ROWS; ++r) sums[r * N + t] += x.scale.d * dot<F>(w[r], x.codes, x.scale);
            }
        }
    }
    finish<ROWS, N>(sums, part, first, token, n);
}

// The same for floats: f32 activations, nothing rounded. x: (any, cols).
// 1. Rows end in zeros up to 16 bytes, so that weights are loaded in whole words; activations are not padded.
template <class F, int ROWS, int N>
static __device__ __forceinline__ void matvec_floats(const Parts& parts, const float* __restrict__ x, int cols, int n, int token,
                                                     int from) {
    constexpr int STEP = F::IN_16_BYTES;
    int first;
    const Part part = find_part<ROWS>(parts, blockIdx.x, first);
    if (part.rows == 0) return;
    const int steps = (cols + STEP - 1) / STEP;
    x += (size_t)from * cols;
    n -= token;
    const uint4* row[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
        row[r] = reinterpret_cast<const uint4*>(row_of<F>(part.weight, min(first + r, part.rows - 1), cols).bytes);

    float sums[ROWS * N] = {};
    const bool whole = cols % STEP == 0;   // rows of x are 16-byte aligned, and no step crosses their end
    for (int step = threadIdx.x; step < steps; step += blockDim.x) {
        uint4 raw[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) raw[r] = load_once(row[r] + step);
        float w[ROWS][STEP];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) F::unpack(raw[r], w[r]);
#pragma unroll
        for (int t = 0; t < N; ++t) {
            if (t >= n) break;
            const float* at = x + (size_t)t * cols + step * STEP;
            float v[STEP];
#pragma unroll
            for (int i = 0; i < STEP; i += 4) {
                if (whole) {
                    const float4 four = *reinterpret_cast<const float4*>(at + i);
                    v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
                } else {
#pragma unroll
                    for (int k = i; k < i + 4; ++k) v[k] = step * STEP + k < cols ? at[k] : 0.0f;
                }
            }
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int i = 0; i < STEP; ++i) sums[r * N + t] += w[r][i] * v[i];
        }
    }
    finish<ROWS, N>(sums, part, first, token, n);
}

// Rows of a block, and blocks that a multiprocessor should hold (2 above; none in particular with more tokens).
template <int N> static constexpr int ROWS_OF = N == 1 ? 4 : 2;
#ifndef MATVEC_RESIDENT   // build.py can set another
#define MATVEC_RESIDENT 6
#endif
template <int N> static constexpr int RESIDENT = N == 1 ? MATVEC_RESIDENT : 1;
