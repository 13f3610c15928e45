// Rows through a mixture of experts, without the host: who computes is decided here, from the router's products.
//
//     pick: a row's experts: probabilities of all; the most probable one, `used` times over
//     few pairs of a row and an expert: each is a product of its own (matvec_picked_), with its own expert's weights
//     many: share_out sorts them by expert, and cuts each expert's into tiles
//           gather_codes (round_ for floats): the rows' activations in that order
//           the kernels for prompts (matmul.cu, matmul_floats.cu), with the tiles
//     sum_picked: a row's results, weighed by their probabilities, in the order in which they were picked
//
// Bound: few pairs: memory, by the weights of those that were picked; many: as prompts are. A host that picks waits for the router's
// products in every layer, and launches every expert's products apart: hundreds of small launches, which no graph can hold.
//
// 1. Weights are found through a table of addresses: experts need not lie beside each other, and none is copied.
// 2. A NaN among the scores picks someone all the same (the first ones), with a factor of NaN: the result tells, and nothing
//    outside the table is read.
// 3. The host launches as many tiles as there can be, without knowing who was picked: with b pairs before an expert's c, its tiles are
//    those from b / T + expert on, of which it needs c / T, rounded up. The next expert's begin at (b + c) / T + expert + 1, which is no
//    fewer and at most one more. That one, and those of experts that nobody picked, are empty, and their blocks end at once.
// 4. Nothing is counted by atomics: each expert's block counts the pairs before and finds its own in their order, so that results
//    are the same bits in every run. It reads all numbers of experts twice, from the cache: 4 bytes a pair.
#include "matvec.cuh"

static constexpr int THREADS = 256;
static constexpr int MOST = 1024;   // experts; as in experts.rs

// One warp for each row; a lane keeps every 32nd probability. Of equals the lower number comes first, as on the CPU.
// grid (rows), block (32)
KERNEL(32, pick,
       const float* scores,  // (gridDim.x, count): the router's products
       int* picks,           // (gridDim.x, used): numbers of experts, the most probable first
       float* factors,       // (gridDim.x, used): their probabilities, over the sum of all or, normalized, of those that were picked
       int count,            // up to MOST
       int used,
       int normalize) {
    __shared__ float left[MOST];   // probabilities before division; -1 once picked. A lane sees only its own
    scores += size_t(blockIdx.x) * count;
    picks += size_t(blockIdx.x) * used;
    factors += size_t(blockIdx.x) * used;
    const int lane = threadIdx.x;
    float largest = -INFINITY;
    for (int i = lane; i < count; i += 32) largest = fmaxf(largest, left[i] = scores[i]);
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, bits));
    float all = 0.0f;
    for (int i = lane; i < count; i += 32) all += left[i] = expf(left[i] - largest);
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) all += __shfl_xor_sync(ALL_LANES, all, bits);

    float picked = 0.0f;
    for (int s = 0; s < used; ++s) {
        float value = -1.0f;
        int at = MOST;
        for (int i = lane; i < count; i += 32)
            if (left[i] > value) value = left[i], at = i;
#pragma unroll
        for (int bits = 16; bits > 0; bits >>= 1) {
            const float other = __shfl_xor_sync(ALL_LANES, value, bits);
            const int there = __shfl_xor_sync(ALL_LANES, at, bits);
            if (other > value || (other == value && there < at)) value = other, at = there;
        }
        if (at == MOST) at = s, value = __int_as_float(0x7fffffff);
        if (at % 32 == lane) left[at] = -1.0f;
        picked += value;
        if (lane == 0) picks[s] = at, factors[s] = value;
    }
    if (lane != 0) return;
    for (int s = 0; s < used; ++s) factors[s] /= normalize ? picked : all;
}

// A pair's place among all. grid (any; used; rows)
static __device__ __forceinline__ int pair() { return blockIdx.z * gridDim.y + blockIdx.y; }

// out[p] = x * w^T for each pair p, with expert picks[p] of one table or of two (gate and up). x: a row for all experts of a row, or
// (own) one for each pair. All kernels take the same parameters: codes and scales are for quantized formats, x for floats.
// grid (rows of both weights / 4, rounded up for each; used; rows), block (32 .. 128)
#define PICKED                                                                                                \
    const uint8_t *const *first, float *first_out,   /* (experts) addresses; (pairs, rows) */                 \
    const uint8_t *const *second, float *second_out, /* the same, or null: there is one table */              \
    const int *picks, const int8_t *codes, const Scale *scales, const float *x, int rows, int cols, int own

static __device__ __forceinline__ Parts picked_parts(const uint8_t* const* first, float* first_out, const uint8_t* const* second,
                                                     float* second_out, int expert, int rows) {
    return Parts{{{first[expert], nullptr, first_out, rows},
                  {second ? second[expert] : nullptr, nullptr, second_out, second ? rows : 0},
                  {nullptr, nullptr, nullptr, 0}}};
}
#define GIVEN_PICKED picked_parts(first, first_out, second, second_out, picks[pair()], rows)

#define MATVEC_PICKED(F)                                                                                      \
    KERNEL_RESIDENT(128, RESIDENT<1>, matvec_picked_##F, PICKED) {                                            \
        (void)x;                                                                                              \
        matvec<F, ROWS_OF<1>, 1>(GIVEN_PICKED, codes, scales, cols, pair() + 1, pair(), own ? pair() : blockIdx.z); \
    }
#define MATVEC_PICKED_FLOATS(F)                                                                               \
    KERNEL_RESIDENT(128, RESIDENT<1>, matvec_picked_##F, PICKED) {                                            \
        (void)codes, (void)scales;                                                                            \
        matvec_floats<F, ROWS_OF<1>, 1>(GIVEN_PICKED, x, cols, pair() + 1, pair(), own ? pair() : blockIdx.z); \
    }

FOR_ALL_QUANTIZED(MATVEC_PICKED)
FOR_ALL_FLOATS(MATVEC_PICKED_FLOATS)

// Pairs sorted by expert, in their order within each, and the tiles of up to `tile` pairs that they make.
// grid (experts), block (THREADS)
KERNEL(THREADS, share_out,
       const int* picks,   // (pairs): numbers of experts
       int* order,         // (pairs): which pair stands at each place
       int* places,        // (pairs): where each pair stands
       Tile* tiles,        // (pairs / tile + gridDim.x)
       int pairs,
       int tile) {
    __shared__ int of_warp[2][THREADS / 32];
    const int expert = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int before = 0, own = 0;
    for (int p = threadIdx.x; p < pairs; p += THREADS) {
        const int pick = picks[p];
        before += pick < expert;
        own += pick == expert;
    }
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) {
        before += __shfl_xor_sync(ALL_LANES, before, bits);
        own += __shfl_xor_sync(ALL_LANES, own, bits);
    }
    if (lane == 0) of_warp[0][warp] = before, of_warp[1][warp] = own;
    __syncthreads();
    before = own = 0;
#pragma unroll
    for (int w = 0; w < THREADS / 32; ++w) before += of_warp[0][w], own += of_warp[1][w];

    const int end = before + own, first_tile = before / tile + expert, tiles_end = end / tile + expert + 1;
    for (int t = first_tile + threadIdx.x; t < tiles_end; t += THREADS) {
        const int first = min(before + (t - first_tile) * tile, end);
        tiles[t] = Tile{expert, first, min(first + tile, end)};
    }

    for (int from = 0, at = before; at < end; from += THREADS) {   // at: the next place
        const int p = from + threadIdx.x;
        const bool mine = p < pairs && picks[p] == expert;
        const unsigned in_warp = __ballot_sync(ALL_LANES, mine);
        __syncthreads();   // nobody reads the counts before any more
        if (lane == 0) of_warp[0][warp] = __popc(in_warp);
        __syncthreads();
        int place = at + __popc(in_warp & ((1u << lane) - 1));
#pragma unroll
        for (int w = 0; w < THREADS / 32; ++w) {
            if (w < warp) place += of_warp[0][w];
            at += of_warp[0][w];
        }
        if (mine) order[place] = p, places[p] = place;
    }
}

// Rows of activations in 8 bits for pairs in order.  grid (pairs), block (128)
KERNEL(128, gather_codes,
       const int8_t* codes,   // (any, cols)
       const Scale* scales,   // (any, cols / 32)
       const int* order,      // (gridDim.x)
       int8_t* codes_out,     // (gridDim.x, cols)
       Scale* scales_out,     // (gridDim.x, cols / 32)
       int used,
       int cols) {
    const int groups = cols / GROUP;
    const size_t from = size_t(order[blockIdx.x] / used) * groups, to = size_t(blockIdx.x) * groups;
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        const int4* in = reinterpret_cast<const int4*>(codes + (from + g) * GROUP);
        int4* out = reinterpret_cast<int4*>(codes_out + (to + g) * GROUP);
        out[0] = in[0], out[1] = in[1];
        scales_out[to + g] = scales[from + g];
    }
}

// A row's sum of factor * x over its pairs.  grid (columns in blocks, rows), block (THREADS)
KERNEL(THREADS, sum_picked,
       const float* x,        // (pairs, cols)
       const float* factors,  // (gridDim.y, used)
       const int* places,     // (gridDim.y, used): where in x; or null: each at its own
       float* out,            // (gridDim.y, cols)
       int used,
       int cols) {
    const int column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= cols) return;
    float sum = 0.0f;
    for (int s = 0; s < used; ++s) {
        const int p = blockIdx.y * used + s;
        sum += factors[p] * x[size_t(places ? places[p] : p) * cols + column];
    }
    out[size_t(blockIdx.y) * cols + column] = sum;
}
