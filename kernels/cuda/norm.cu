// Normalization of rows: RMS (Zhang & Sennrich 2019) and layer (Ba et al. 2016).
//
//   a block takes a row of x:   s    = sum of x^2          (layer: of x, then of (x - mean)^2)
//                               r    = 1 / sqrt(s / cols + eps)
//                               out  = (x - mean) * r * weight + bias
//
// 1. Threads take every 256th float; sums go up a tree, over the lanes of each warp and then over the warps: errors grow with
//    the logarithm of the row, not with its length.
// 2. The row is read once per sum and once for the result. Rows of a model are some kilobytes and stay in the first-level cache.
#include "intrinsics.cuh"

static constexpr int THREADS = 256;

// The sum over a block's threads; every thread has the result. `parts` is shared and free again afterwards.
static __device__ __forceinline__ float block_sum(float x, float* parts) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = warp_sum(threadIdx.x % 32 < THREADS / 32 ? parts[threadIdx.x % 32] : 0.0f);
    __syncthreads();
    return x;
}

// grid (rows), block (THREADS)
KERNEL(THREADS, norm_rms,
       const float* x,       // (rows, cols)
       const float* weight,  // (cols)
       const float* bias,    // (cols) or null
       float* out,           // (rows, cols)
       int cols,
       float eps) {          // added to the mean of squares
    __shared__ float parts[THREADS / 32];
    x += size_t(blockIdx.x) * cols;
    out += size_t(blockIdx.x) * cols;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < cols; i += THREADS) squares += x[i] * x[i];
    const float r = 1.0f / sqrtf(block_sum(squares, parts) / cols + eps);
    for (int i = threadIdx.x; i < cols; i += THREADS) out[i] = x[i] * r * weight[i] + (bias ? bias[i] : 0.0f);
}

// Parameters as above.
KERNEL(THREADS, norm_layer, const float* x, const float* weight, const float* bias, float* out, int cols, float eps) {
    __shared__ float parts[THREADS / 32];
    x += size_t(blockIdx.x) * cols;
    out += size_t(blockIdx.x) * cols;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < cols; i += THREADS) sum += x[i];
    const float mean = block_sum(sum, parts) / cols;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < cols; i += THREADS) squares += (x[i] - mean) * (x[i] - mean);
    const float r = 1.0f / sqrtf(block_sum(squares, parts) / cols + eps);
    for (int i = threadIdx.x; i < cols; i += THREADS) out[i] = (x[i] - mean) * r * weight[i] + (bias ? bias[i] : 0.0f);
}
