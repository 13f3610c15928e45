// Products of F16 and BF16 weights with many tokens (prompts) on tensor cores, sums in f32; and the activations that they need.
//
//     round:  activations to the weights' type, one block for each token
//     matmul: one block for a tile of rows x tokens; k goes by in stages of 32, copied asynchronously three stages ahead
//
// Bound: arithmetic: 2 * rows * cols * n operations at the rate of 16-bit floats. For 32 products of the tensor cores (a warp's 64 x 64
// x 16) a warp reads 4 KiB of shared memory, 32 cycles of the multiprocessor's 128 bytes a cycle, and its share of writing the stage is 16
// more: two thirds of what Hopper's tensor cores can do at most (one such product a cycle). With warps of 64 x 32 it was half.
//
// 1. F16 activations are multiplied with a power of two for each token, so that the largest is between 1 and 2: none overflows, and
//    that power is taken off the sums again. BF16 has the range of f32 and needs none.
// 2. Rows of weights and of rounded activations are padded with zeros to 16 bytes, so that all copies are whole.
// 3. Experts of a mixture are one launch: as in matmul.cu.
// 4. F32 weights keep f32 products (matvec8_F32): they are rare (routers of experts) and are left in that precision for a reason.
#include "tiles.cuh"

// Rounding of activations: `scale` a power of two that comes off in the end.
template <class F> struct Rounding;
template <> struct Rounding<F16> {
    static __device__ __forceinline__ float power(float largest) {
        const int bits = min(max(__float_as_int(largest), 1 << 23), 253 << 23) & 0x7f800000;
        return __int_as_float(bits);
    }
    static __device__ __forceinline__ uint16_t to(float x) { return __half_as_ushort(__float2half_rn(x)); }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k16_f16(d, a, b); }
};
template <> struct Rounding<BF16> {
    static __device__ __forceinline__ float power(float) { return 1.0f; }
    static __device__ __forceinline__ uint16_t to(float x) {   // to nearest, ties to even; a NaN stays one
        const uint32_t bits = __float_as_uint(x);
        return x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k16_bf16(d, a, b); }
};

// Numbers in a rounded row: whole 16 bytes.
static __device__ __forceinline__ int padded(int cols) { return (cols + 7) & ~7; }

// x: (any, cols) -> out: (n, padded(cols)), powers: (n). Grid: n. Row i is that of pair order[i] of a row and one of `used` experts
// (experts.cu), or row i where there is no order.
template <class F>
static __device__ __forceinline__ void round_row(const float* x, const int* order, uint16_t* out, float* powers, int used, int cols) {
    __shared__ int of_warp[8];
    x += (size_t)(order ? order[blockIdx.x] / used : blockIdx.x) * cols;
    out += (size_t)blockIdx.x * padded(cols);
    int bits = 0;   // magnitudes compare as integers; a NaN is largest and stays in the row
    for (int i = threadIdx.x; i < cols; i += blockDim.x) bits = max(bits, __float_as_int(fabsf(x[i])));
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, mask));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = bits;
    __syncthreads();
    for (int w = 0; w < (int)blockDim.x / 32; ++w) bits = max(bits, of_warp[w]);
    const float power = Rounding<F>::power(__int_as_float(bits)), inverse = 1.0f / power;
    for (int i = threadIdx.x; i < padded(cols); i += blockDim.x) out[i] = i < cols ? Rounding<F>::to(x[i] * inverse) : 0;
    if (threadIdx.x == 0) powers[blockIdx.x] = power;
}

static constexpr int AHEAD = 3;   // stages in shared memory

// out = x * w^T + bias. x: (n, padded(cols)) of the weights' type, powers: (n), tiles: (tiles of tokens) or null, as in matmul.cu. Dynamic shared memory: AHEAD stages of
// (ROWS + TOKENS) * STAGE bytes. Grid: (tiles of tokens, tiles of rows of all parts).
template <class F, class S>
static __device__ __forceinline__ void matmul(const Parts& parts, const uint16_t* x, const float* powers, int cols, int n,
                                              const Tile* tiles) {
    constexpr int BYTES = (S::ROWS + S::TOKENS) * STAGE;
    DYNAMIC_SHARED(uint8_t, shared);
    Share share;
    if (!find_share<S::ROWS, S::TOKENS>(parts, tiles, n, share)) return;
    const Part part = share.part;
    const int first_row = share.first_row, first_token = share.first_token, end = share.end;
    const int stride = 2 * padded(cols), stages = (stride + STAGE - 1) / STAGE;
    auto ask = [&](int stage, int slot) {
        uint8_t* to = shared + slot * BYTES;
        if (stage < stages) {
            copy_stage<S::ROWS, S::THREADS>(to, part.weight, stride, first_row, part.rows, stage * STAGE);
            copy_stage<S::TOKENS, S::THREADS>(to + S::ROWS * STAGE, reinterpret_cast<const uint8_t*>(x), stride, first_token, end, stage * STAGE);
        }
        cp_async_commit();   // empty at the end, so that batches are counted alike
    };

    float sums[S::M][S::N][4] = {};
    const int r0 = S::row(), t0 = S::token();
    ask(0, 0);
    ask(1, 1);
    for (int stage = 0, slot = 0; stage < stages; ++stage) {
        cp_async_wait<1>();
        __syncthreads();   // this stage is whole for all, and nobody reads the one before any more
        ask(stage + 2, slot == 0 ? AHEAD - 1 : slot - 1);
        const uint8_t* rows = shared + slot * BYTES;
        const uint8_t* tokens = rows + S::ROWS * STAGE;
        slot = slot == AHEAD - 1 ? 0 : slot + 1;
#pragma unroll
        for (int k = 0; k < STAGE; k += 32) {
            uint32_t a[S::M][4], b[S::N][2];
#pragma unroll
            for (int m = 0; m < S::M; ++m) load_rows(a[m], rows, r0 + 16 * m, k);
#pragma unroll
            for (int t = 0; t < S::N; t += 2) load_tokens(b[t], b[t + 1], tokens, t0 + 8 * t, k);
#pragma unroll
            for (int m = 0; m < S::M; ++m)
#pragma unroll
                for (int t = 0; t < S::N; ++t) Rounding<F>::multiply(sums[m][t], a[m], b[t]);
        }
    }
    cp_async_wait<0>();
    write_sums(sums, part, first_row + r0, first_token + t0, end, [=](int token) { return powers[token]; });
}

using Wide = Shape<4, 8, 2, 2>;     // 128 rows x 128 tokens
using Narrow = Shape<1, 2, 4, 1>;   // 64 rows x 16 tokens

#define MATMUL(F, S, NAME)                                                                                 \
    KERNEL(S::THREADS, NAME, PARTS, const uint16_t* x, const float* powers, int cols, int n, const Tile* tiles) { \
        matmul<F, S>(GIVEN_PARTS, x, powers, cols, n, tiles);                                              \
    }
#define MATMULS(F)                                                                                          \
    KERNEL(256, round_##F, const float* x, const int* order, uint16_t* out, float* powers, int used, int cols) {  \
        round_row<F>(x, order, out, powers, used, cols);                                                    \
    }                                                                                                       \
    MATMUL(F, Wide, matmul128_##F) MATMUL(F, Narrow, matmul16_##F)

MATMULS(F16)
#if defined(QCONV_ON_CPU) || __CUDA_ARCH__ >= 800   // Turing's tensor cores know no bfloat16: matvec8_BF16 takes its place
MATMULS(BF16)
#endif
