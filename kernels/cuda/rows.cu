// Rows of activations: picked, and returned with a factor.
#include "intrinsics.cuh"

static constexpr int THREADS = 256;

// out[i] = x[rows[i]].  grid (columns in blocks, rows), block (THREADS)
KERNEL(THREADS, gather,
       const float* x,     // (any, cols)
       const int* rows,    // (gridDim.y) or null: then i + first
       float* out,         // (gridDim.y, cols)
       int first,
       int cols) {
    const int column = blockIdx.x * THREADS + threadIdx.x;
    const int row = rows ? rows[blockIdx.y] : int(blockIdx.y) + first;
    if (column < cols) out[size_t(blockIdx.y) * cols + column] = x[size_t(row) * cols + column];
}

// out[rows[i]] += factors[i] * x[i], in the order of i: the same row may come twice.  grid (columns in blocks), block (THREADS)
KERNEL(THREADS, scatter_add,
       const float* x,        // (count, cols)
       const int* rows,       // (count)
       const float* factors,  // (count)
       float* out,            // (any, cols)
       int count,
       int cols) {
    const int column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= cols) return;
    for (int i = 0; i < count; ++i) out[size_t(rows[i]) * cols + column] += factors[i] * x[size_t(i) * cols + column];
}
