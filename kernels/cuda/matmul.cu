// Products of quantized weights with many tokens (prompts) on tensor cores, in 8-bit integers.
//
//     one block for a tile of rows x tokens; all of k goes by in stages of two groups of 32
//     each thread decodes one group of a row into shared memory; codes of tokens are copied there asynchronously
//     for each group: multiply codes exactly (integers), then add  d_row * d_token * product (+ m_row * sum_token)
//     meanwhile the next stage's bytes are under way
//
// Bound: arithmetic, from some 100 tokens on. 2 * rows * cols * n operations; weights are read once from memory and once from the
// cache for every further tile of tokens, activations (1.25 bytes for each) once for every tile of rows. For each tensor core
// instruction (16 x 8 x 32) a thread spends 12 instructions on scales (16 with addends, twice that with scales for 16), of
// which a multiprocessor issues 128 lanes a cycle: 3 cycles beside the 1 to 2 of the multiplication. This, not the tensor core, is
// the limit; the alternative, weights turned into halves, has no such work but half the rate, and rounds weights.
//
// 1. Sums of 32 products are below 2^22, so that integers become floats by adding: sums start at the bits of 1.5 * 2^23, whose
//    last bits count units, and the float is had by subtraction (activations.cuh). A conversion has a quarter of the rate or less.
// 2. Formats with scales for 16 multiply in halves (k = 16), all others whole groups.
// 3. Offsets of codes are taken off while decoding (three instructions for four codes), addends meet the tokens' sums of codes.
// 4. Weights pass through registers, since they are decoded on the way; two stages of shared memory, one barrier for each.
// 5. Neighbouring blocks take the same weights and other tokens: weights come from memory once.
// 6. Experts of a mixture are one launch: tokens come sorted by expert, and a table tells each block which of them are its own and whose
//    weights they have. What is multiplied, and how, does not depend on it.
// 7. What comes out of that table takes registers, where parameters take none. Formats with scales for 16 have none left, and read it from
//    shared memory for each stage: 8 to 21 instructions of 660 to 800, where three or four words in local memory were the alternative.
// 8. Rows beyond the last are computed from the last and not written; tokens and groups beyond the last are zeros.
#include "tiles.cuh"

// What one stage holds. Halves: scales for 16 weights.
template <class F, class S> struct Stages {
    static constexpr int SCALES = F::HALVES ? 4 : 2;   // of a row in a stage
    struct Stage {
        __align__(16) uint8_t rows[S::ROWS * STAGE];     // codes, (ROWS, 64)
        __align__(16) uint8_t tokens[S::TOKENS * STAGE]; // codes, (TOKENS, 64)
        float d[S::ROWS][SCALES];
        float m[F::ADDEND ? S::ROWS : 1][SCALES];
        __align__(8) float x[2][S::TOKENS];              // scales of activations: neighbours are read at once
        __align__(8) float sum[SCALES][F::ADDEND ? S::TOKENS : 1];   // sums of activations as they are rounded
    };
};

// Four codes without their offset, as signed bytes. No borrow crosses bytes: codes are below 128.
template <class F> static __device__ __forceinline__ uint32_t signed_codes(uint32_t q) {
    return F::OFFSET ? ((q | 0x80808080u) - 0x01010101u * F::OFFSET) ^ 0x80808080u : q;
}

// Adds scaled products to sums. s: integers that started at MAGIC; d: scales of this lane's two rows; x: of its two tokens.
static __device__ __forceinline__ void add_scaled(float (&sums)[4], const int (&s)[4], const float (&d)[2], const float (&x)[2]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += d[i >> 1] * x[i & 1] * from_magic(s[i]);
}

// out = x * w^T + bias. codes: (n, cols), scales: (n, cols / 32), tiles: (tiles of tokens) or null. Grid: (tiles of tokens, tiles of
// rows of all parts).
template <class F, class S>
static __device__ __forceinline__ void matmul(const Parts& parts, const int8_t* codes, const Scale* scales, int cols, int n,
                                              const Tile* tiles) {
    using Stage = typename Stages<F, S>::Stage;
    constexpr int HALVES = F::HALVES ? 2 : 1;
    static_assert(S::THREADS == 2 * S::ROWS && S::THREADS >= 2 * S::TOKENS, "a thread for each group of a stage");
    __shared__ Stage stages[2];
    __shared__ Share kept;
    Share found;
    if (!find_share<S::ROWS, S::TOKENS>(parts, tiles, n, found)) return;
    if (F::HALVES) {   // reason 7
        if (threadIdx.x == 0) kept = found;
        __syncthreads();
    }
    const Share& share = F::HALVES ? kept : found;
    const int groups = cols / GROUP, blocks = cols / F::WEIGHTS;
    const int mine = threadIdx.x / 2, half = threadIdx.x % 2;   // this thread's row, token and group in a stage
    const uint32_t row_at = min(found.first_row + mine, found.part.rows - 1) * (uint32_t)(row_stride<F>(blocks) / 16);   // in 16 bytes

    typename F::Raw raw;
    Scale scale;
    auto ask = [&](int g, Stage& to) {   // for two groups from g on
        const int first_token = share.first_token, token = first_token + mine;
        const bool has_token = mine < S::TOKENS && token < share.end;
        copy_stage<S::TOKENS, S::THREADS>(to.tokens, reinterpret_cast<const uint8_t*>(codes), cols, first_token, share.end, g * GROUP);
        cp_async_commit();
        const Row row = {share.part.weight + (size_t)row_at * 16, blocks};
        raw = F::load(row, min(g + half, groups - 1));
        scale.d = 0.0f, scale.sum[0] = scale.sum[1] = 0;
        if (has_token && g + half < groups) scale = scales[(size_t)token * groups + g + half];
    };
    auto keep = [&](int g, Stage& to) {   // what `ask` asked for
        Group w;
        F::decode(raw, min(g + half, groups - 1), w);
        uint32_t q[8];
#pragma unroll
        for (int k = 0; k < 8; ++k) q[k] = signed_codes<F>(code_bytes<F>(w, k));
        *reinterpret_cast<uint4*>(to.rows + place(mine, 2 * half)) = make_uint4(q[0], q[1], q[2], q[3]);
        *reinterpret_cast<uint4*>(to.rows + place(mine, 2 * half + 1)) = make_uint4(q[4], q[5], q[6], q[7]);
        const bool there = g + half < groups;
#pragma unroll
        for (int h = 0; h < HALVES; ++h) {
            to.d[mine][half * HALVES + h] = there ? w.d[h] : 0.0f;
            if (F::ADDEND) to.m[mine][half * HALVES + h] = there ? w.m[h] : 0.0f;
        }
        if (mine < S::TOKENS) {
            to.x[half][mine] = scale.d;
            if (F::ADDEND && F::HALVES) {
#pragma unroll
                for (int h = 0; h < HALVES; ++h) to.sum[half * HALVES + h][mine] = scale.d * (float)scale.sum[h];
            } else if (F::ADDEND) {
                to.sum[half][mine] = scale.d * (float)(scale.sum[0] + scale.sum[1]);
            }
        }
    };

    float sums[S::M][S::N][4] = {};
    const int lane = threadIdx.x & 31, r0 = S::row(), t0 = S::token();
    auto multiply = [&](const Stage& from) {
#pragma unroll 1   // unrolled, it is twice the code
        for (int g = 0; g < 2; ++g) {
            uint32_t a[S::M][4], b[S::N][2];
#pragma unroll
            for (int m = 0; m < S::M; ++m) load_rows(a[m], from.rows, r0 + 16 * m, g * GROUP);
#pragma unroll
            for (int t = 0; t < S::N; t += 2) load_tokens(b[t], b[t + 1], from.tokens, t0 + 8 * t, g * GROUP);
#pragma unroll
            for (int h = 0; h < HALVES; ++h) {
                const int s = g * HALVES + h;
                float d[S::M][2], addend[S::M][2];   // of this lane's two rows of each tile
#pragma unroll
                for (int m = 0; m < S::M; ++m)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const int r = r0 + 16 * m + lane / 4 + 8 * i;
                        d[m][i] = from.d[r][s];
                        if (F::ADDEND) addend[m][i] = from.m[r][s];
                    }
#pragma unroll
                for (int t = 0; t < S::N; ++t) {
                    const int token = t0 + 8 * t + lane % 4 * 2;   // and the next
                    const float2 two = *reinterpret_cast<const float2*>(&from.x[g][token]);
                    const float x[2] = {two.x, two.y};
#pragma unroll
                    for (int m = 0; m < S::M; ++m) {
                        int product[4];
                        if (F::HALVES) mma_m16n8k16_s8(product, a[m][2 * h], a[m][2 * h + 1], b[t][h], MAGIC);
                        else mma_m16n8k32_s8(product, a[m], b[t], MAGIC);
                        add_scaled(sums[m][t], product, d[m], x);
                    }
                    if (F::ADDEND) {
                        const float2 both = *reinterpret_cast<const float2*>(&from.sum[s][token]);
                        const float sum[2] = {both.x, both.y};
#pragma unroll
                        for (int m = 0; m < S::M; ++m)
#pragma unroll
                            for (int i = 0; i < 4; ++i) sums[m][t][i] += addend[m][i >> 1] * sum[i & 1];
                    }
                }
            }
        }
    };

    ask(0, stages[0]);
    keep(0, stages[0]);
    cp_async_wait<0>();
    __syncthreads();
    for (int g = 0, now = 0; g < groups; g += 2, now ^= 1) {
        const bool more = g + 2 < groups;
        if (more) ask(g + 2, stages[now ^ 1]);
        multiply(stages[now]);
        if (more) keep(g + 2, stages[now ^ 1]);
        cp_async_wait<0>();
        __syncthreads();   // the next stage is whole, and nobody reads this one any more
    }
    write_sums(sums, share.part, share.first_row + r0, share.first_token + t0, share.end, [](int) { return 1.0f; });
}

// 64 tokens at a time with 128 rows for prompts, 16 with 64 rows for a few tokens. 512 threads of a multiprocessor: 128 registers each.
using Wide = Shape<2, 4, 4, 2>;
using Narrow = Shape<1, 2, 4, 1>;

#define MATMUL(F, S, NAME)                                                                                   \
    KERNEL_RESIDENT(S::THREADS, 512 / S::THREADS, NAME, PARTS, const int8_t* codes, const Scale* scales, const float*, int cols, int n, const Tile* tiles) { \
        matmul<F, S>(GIVEN_PARTS, codes, scales, cols, n, tiles);                                            \
    }
#define MATMULS(F) MATMUL(F, Wide, matmul64_##F) MATMUL(F, Narrow, matmul16_##F)

FOR_ALL_QUANTIZED(MATMULS)
