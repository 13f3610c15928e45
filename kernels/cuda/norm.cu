// Normalization of rows: RMS (Zhang & Sennrich 2019) and layer (Ba et al. 2016), with what comes before and after it.
//
//   a block takes a row:        x   += y                    (where a branch is given)
//                               s    = sum of x^2           (layer: of x, then of (x - mean)^2)
//                               r    = 1 / sqrt(s / cols + eps)
//                               out  = (x - mean) * r * weight + bias
//                               and out rounded to 8 bits   (where asked for)
//
// Bound: with single tokens latency: one block, whose reads and sums follow each other. Reads 8 bytes (12 with a branch) and writes 4
// (8; 1.25 more for codes) for each float.
//
// 1. The sum before and the rounding behind cost no launch of their own: between the few microseconds of products such gaps
//    would count.
// 2. Threads take four neighbours at a time; sums go up a tree, over the lanes of each warp and then over the warps: errors grow
//    with the logarithm of the row, not with its length.
// 3. The row is read once per sum and once for the result, by the same threads. Rows of a model are some kilobytes and stay in the
//    first-level cache.
// 4. Rows whose length is no multiple of 4 go float by float, and are never rounded: quantized weights have none.
#include "round.cuh"

// The sum over a block's threads; every thread has the result. `parts` is shared and free again afterwards.
static __device__ __forceinline__ float block_sum(float x, float* parts) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f);
    __syncthreads();
    return x;
}

static __device__ __forceinline__ float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
static __device__ __forceinline__ float4 less(float4 a, float b) { return make_float4(a.x - b, a.y - b, a.z - b, a.w - b); }
static __device__ __forceinline__ float squares(float4 a) { return a.x * a.x + a.y * a.y + (a.z * a.z + a.w * a.w); }

// Four floats from i on, of which `count` are there; the rest are 0.
static __device__ __forceinline__ float4 get(const float* x, int i, int count, bool whole) {
    if (whole) return *reinterpret_cast<const float4*>(x + i);
    return make_float4(x[i], count > 1 ? x[i + 1] : 0.0f, count > 2 ? x[i + 2] : 0.0f, count > 3 ? x[i + 3] : 0.0f);
}
static __device__ __forceinline__ void put(float* x, int i, float4 v, int count, bool whole) {
    if (whole) {
        *reinterpret_cast<float4*>(x + i) = v;
        return;
    }
    x[i] = v.x;
    if (count > 1) x[i + 1] = v.y;
    if (count > 2) x[i + 2] = v.z;
    if (count > 3) x[i + 3] = v.w;
}

template <bool LAYER>
static __device__ __forceinline__ void norm(float* x, const float* y, const float* weight, const float* bias, float* out,
                                            int8_t* codes, Scale* scales, int cols, float eps) {
    __shared__ float parts[32];
    const bool whole = cols % 4 == 0;   // rows are aligned, and no four cross their end
    const size_t row = (size_t)blockIdx.x * cols;
    const int step = 4 * blockDim.x;
    x += row;
    out += row;
    float sum = 0.0f;
    for (int i = 4 * threadIdx.x; i < cols; i += step) {
        float4 v = get(x, i, cols - i, whole);
        if (y) {
            v = plus(v, get(y + row, i, cols - i, whole));
            put(x, i, v, cols - i, whole);
        }
        sum += LAYER ? v.x + v.y + (v.z + v.w) : squares(v);
    }
    sum = block_sum(sum, parts);
    float mean = 0.0f;
    if (LAYER) {
        mean = sum / cols;
        sum = 0.0f;
        for (int i = 4 * threadIdx.x; i < cols; i += step) {
            float4 v = less(get(x, i, cols - i, whole), mean);
            if (cols - i < 4) v.w = 0.0f, v.z = cols - i < 3 ? 0.0f : v.z, v.y = cols - i < 2 ? 0.0f : v.y;
            sum += squares(v);
        }
        sum = block_sum(sum, parts);
    }
    const float r = 1.0f / sqrtf(sum / cols + eps);
    // All lanes go round equally often: they round together.
    for (int first = 0; first < cols; first += step) {
        const int i = first + 4 * threadIdx.x;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (i < cols) {
            v = less(get(x, i, cols - i, whole), mean);
            const float4 w = get(weight, i, cols - i, whole);
            v = make_float4(v.x * r * w.x, v.y * r * w.y, v.z * r * w.z, v.w * r * w.w);
            if (bias) v = plus(v, get(bias, i, cols - i, whole));
            put(out, i, v, cols - i, whole);
        }
        if (codes) round_four(v, i < cols, ((int)(row / 4) + i / 4), codes, scales);
    }
}

#define NORM(NAME, LAYER)                                                                                \
    KERNEL(1024, NAME,                                                                                   \
           float* x,            /* (rows, cols); written with a branch only */                           \
           const float* y,      /* (rows, cols): the branch, or null */                                  \
           const float* weight, /* (cols) */                                                             \
           const float* bias,   /* (cols) or null */                                                     \
           float* out,          /* (rows, cols) */                                                       \
           int8_t* codes,       /* (rows, cols) of activations.cuh, or null; cols a multiple of 32 */    \
           Scale* scales,       /* (rows, cols / 32), or null */                                         \
           int cols, float eps) /* eps: added to the mean of squares */                                  \
    {                                                                                                    \
        norm<LAYER>(x, y, weight, bias, out, codes, scales, cols, eps);                                  \
    }

// grid (rows), block: whole warps
NORM(norm_rms, false)
NORM(norm_layer, true)
