// One token through a mixture of experts, without the host: who computes is decided here, from the router's products.
//
//     pick: probabilities of all experts; the most probable one, `used` times over
//     matvec_picked_: as many products as experts were picked, each with its own expert's weights
//     sum_picked: their results, weighed by their probabilities
//
// Bound: memory, by the weights of those that were picked. A host that picks waits for the router's products in every layer, and
// launches every expert's products apart: hundreds of small launches for a token, which no graph can hold.
//
// 1. Weights are found through a table of addresses: experts need not lie beside each other, and none is copied.
// 2. A NaN among the scores picks someone all the same (the first ones), with a factor of NaN: the result tells, and nothing
//    outside the table is read.
#include "matvec.cuh"

static constexpr int THREADS = 256;
static constexpr int MOST = 1024;   // experts; as in experts.rs

// One warp; a lane keeps every 32nd probability. Of equals the lower number comes first, as on the CPU.  grid (1), block (32)
KERNEL(32, pick,
       const float* scores,  // (count): the router's products
       int* picks,           // (used): numbers of experts, the most probable first
       float* factors,       // (used): their probabilities, over the sum of all or, normalized, of those that were picked
       int count,            // up to MOST
       int used,
       int normalize) {
    __shared__ float left[MOST];   // probabilities before division; -1 once picked. A lane sees only its own
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

// out[s] = x * w^T for expert picks[s] of one table or of two (gate and up), for s < gridDim.y. x: one row for all experts, or
// (own) one for each. All kernels take the same parameters: codes and scales are for quantized formats, x for floats.
// grid (rows of both / 4, rounded up for each; used), block (32 .. 128)
#define PICKED                                                                                                \
    const uint8_t *const *first, float *first_out,   /* (experts) addresses; (used, rows) */                  \
    const uint8_t *const *second, float *second_out, /* the same, or null: there is one table */              \
    const int *picks, const int8_t *codes, const Scale *scales, const float *x, int rows, int cols, int own

static __device__ __forceinline__ Parts picked_parts(const uint8_t* const* first, float* first_out, const uint8_t* const* second,
                                                     float* second_out, int expert, int rows) {
    return Parts{{{first[expert], nullptr, first_out, rows},
                  {second ? second[expert] : nullptr, nullptr, second_out, second ? rows : 0},
                  {nullptr, nullptr, nullptr, 0}}};
}
#define GIVEN_PICKED picked_parts(first, first_out, second, second_out, picks[blockIdx.y], rows)

#define MATVEC_PICKED(F)                                                                                      \
    KERNEL_RESIDENT(128, RESIDENT<1>, matvec_picked_##F, PICKED) {                                            \
        (void)x;                                                                                              \
        matvec<F, ROWS_OF<1>, 1>(GIVEN_PICKED, codes, scales, cols, gridDim.y, blockIdx.y, own ? blockIdx.y : 0); \
    }
#define MATVEC_PICKED_FLOATS(F)                                                                               \
    KERNEL_RESIDENT(128, RESIDENT<1>, matvec_picked_##F, PICKED) {                                            \
        (void)codes, (void)scales;                                                                            \
        matvec_floats<F, ROWS_OF<1>, 1>(GIVEN_PICKED, x, cols, gridDim.y, blockIdx.y, own ? blockIdx.y : 0);  \
    }

FOR_ALL_QUANTIZED(MATVEC_PICKED)
FOR_ALL_FLOATS(MATVEC_PICKED_FLOATS)

// out = sum of factors[s] * x[s].  grid (columns in blocks), block (THREADS)
KERNEL(THREADS, sum_picked,
       const float* x,        // (used, cols)
       const float* factors,  // (used)
       float* out,            // (cols)
       int used,
       int cols) {
    const int column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= cols) return;
    float sum = 0.0f;
    for (int s = 0; s < used; ++s) sum += factors[s] * x[size_t(s) * cols + column];
    out[column] = sum;
}
