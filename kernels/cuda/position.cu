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

// Rotates queries, and rotates keys on their way into the cache, with the values: rope twice and store twice in one launch.
// One thread for two floats: of queries, then of keys, then of values.  grid (those in blocks, rows), block (THREADS)
KERNEL(THREADS, rope_store,
       float* q,                  // (rows, heads, key_dim); rotated
       const float* k,            // (rows, kv_heads, key_dim)
       const float* v,            // (rows, kv_heads, value_dim)
       half* keys,                // (kv_heads, positions, key_dim): one layer
       half* values,              // (kv_heads, positions, value_dim)
       const float* frequencies,  // (pairs): angle per position
       const int* start,          // (1): position of row 0
       float magnitude, int heads, int kv_heads, int key_dim, int value_dim, int pairs, int interleaved,
       int positions) {           // that the cache has room for
    int at = blockIdx.x * THREADS + threadIdx.x;
    const int row = blockIdx.y, position = *start + row;
    const int halves = key_dim / 2;   // of a head: the rotated pairs, then the rest two by two
    if (at < (heads + kv_heads) * halves) {
        const bool query = at < heads * halves;
        if (!query) at -= heads * halves;
        const int head = at / halves, pair = at % halves;
        const bool rotated = pair < pairs;
        if (query && !rotated) return;
        const int a = rotated && !interleaved ? pair : 2 * pair, b = rotated && !interleaved ? pair + pairs : 2 * pair + 1;
        const float* from = (query ? q + ((size_t)row * heads + head) * key_dim : k + ((size_t)row * kv_heads + head) * key_dim);
        float x = from[a], y = from[b];
        if (rotated) {
            float sine, cosine;
            sincosf(float(position) * frequencies[pair], &sine, &cosine);
            sine *= magnitude;
            cosine *= magnitude;
            const float u = x;
            x = u * cosine - y * sine;
            y = u * sine + y * cosine;
        }
        if (query) {
            float* to = q + ((size_t)row * heads + head) * key_dim;
            to[a] = x;
            to[b] = y;
        } else {
            half* to = keys + ((size_t)head * positions + position) * key_dim;
            to[a] = __float2half_rn(x);
            to[b] = __float2half_rn(y);
        }
        return;
    }
    at = 2 * (at - (heads + kv_heads) * halves);
    if (at >= kv_heads * value_dim) return;
    const float* from = v + (size_t)row * kv_heads * value_dim + at;
    half* to = values + ((size_t)(at / value_dim) * positions + position) * value_dim + at % value_dim;
    to[0] = __float2half_rn(from[0]);
    to[1] = __float2half_rn(from[1]);
}
