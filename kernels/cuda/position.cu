// What depends on positions but is not attention: rotary embedding (Su et al. 2021) and the key-value cache.
//
// 1. The position of the first row lies in device memory, not among the parameters: a recorded token (a CUDA graph) can be
//    replayed at the next position.
// 2. Angles are products in f32, as on the CPU; sine and cosine are the accurate ones: positions reach 10^5, where the fast
//    ones are wrong in the second digit.
#include "intrinsics.cuh"

static constexpr int THREADS = 256;

// Rotates pairs of each head; one thread for each pair.  grid (heads * pairs in blocks, rows), block (THREADS)
KERNEL(THREADS, rope,
       float* x,                  // (rows, heads, head_dim); dimensions from 2 * pairs on are kept
       const float* frequencies,  // (pairs): angle per position
       const int* start,          // (1): position of row 0
       float magnitude,           // multiplied onto sine and cosine
       int heads,
       int head_dim,
       int pairs,
       int interleaved) {         // 1: pairs (0, 1), (2, 3) ...; 0: (0, pairs), (1, pairs + 1) ...
    const int at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= heads * pairs) return;
    const int head = at / pairs, pair = at % pairs;
    float* const own = x + (size_t(blockIdx.y) * heads + head) * head_dim;
    float* const a = own + (interleaved ? 2 * pair : pair);
    float* const b = own + (interleaved ? 2 * pair + 1 : pair + pairs);
    float sine, cosine;
    sincosf(float(*start + int(blockIdx.y)) * frequencies[pair], &sine, &cosine);
    sine *= magnitude;
    cosine *= magnitude;
    const float u = *a, v = *b;
    *a = u * cosine - v * sine;
    *b = u * sine + v * cosine;
}

// Rounds keys or values to half precision into a layer of the cache.  grid (heads * dim in blocks, rows), block (THREADS)
KERNEL(THREADS, store,
       const float* x,    // (rows, heads, dim)
       half* cache,       // (heads, positions, dim): one layer
       const int* start,  // (1): position of row 0
       int heads,
       int dim,
       int positions) {   // that the cache has room for
    const int at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= heads * dim) return;
    const size_t to = (size_t(at / dim) * positions + *start + blockIdx.y) * dim + at % dim;
    cache[to] = __float2half_rn(x[size_t(blockIdx.y) * heads * dim + at]);
}
