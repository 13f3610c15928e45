// Products of packed weights with few tokens: generation. How they are computed, and why so: matvec.cuh.
//
// Grid: (sum over parts of rows / ROWS, rounded up; n / N, rounded up). Block: 32 .. 128 threads.
#include "matvec.cuh"

// All kernels take the same parameters: codes and scales are for quantized formats, x for floats.
#define MATVEC(F, N)                                                                                          \
    KERNEL_RESIDENT(128, RESIDENT<N>, matvec##N##_##F, PARTS, const int8_t* codes, const Scale* scales, const float*, int cols, int n) { \
        matvec<F, ROWS_OF<N>, N>(GIVEN_PARTS, codes, scales, cols, n, blockIdx.y * N, blockIdx.y * N);        \
    }
#define MATVEC_FLOATS(F, N)                                                                                   \
    KERNEL_RESIDENT(128, RESIDENT<N>, matvec##N##_##F, PARTS, const int8_t*, const Scale*, const float* x, int cols, int n) { \
        matvec_floats<F, ROWS_OF<N>, N>(GIVEN_PARTS, x, cols, n, blockIdx.y * N, blockIdx.y * N);             \
    }
#define MATVECS(F) MATVEC(F, 1) MATVEC(F, 8)
#define MATVECS_FLOATS(F) MATVEC_FLOATS(F, 1) MATVEC_FLOATS(F, 8)

FOR_ALL_QUANTIZED(MATVECS)
FOR_ALL_FLOATS(MATVECS_FLOATS)

// One token, two formats: parts from number `second` on are of the second.
#define MATVEC_PAIR(A, B)                                                                                     \
    KERNEL_RESIDENT(128, RESIDENT<1>, matvec1_##A##_##B, PARTS, const int8_t* codes, const Scale* scales, const float*, int cols, int n, int second) { \
        const Parts parts = GIVEN_PARTS;                                                                      \
        if (blockIdx.x < tiles_before<ROWS_OF<1>>(parts, second)) matvec<A, ROWS_OF<1>, 1>(parts, codes, scales, cols, n, blockIdx.y, blockIdx.y); \
        else matvec<B, ROWS_OF<1>, 1>(parts, codes, scales, cols, n, blockIdx.y, blockIdx.y);                 \
    }

FOR_ALL_PAIRS(MATVEC_PAIR)
