// Attention for any width of heads: one thread for each result. Slow and easy to check; attention.cu is for the usual widths.
#include "intrinsics.cuh"

static constexpr int THREADS = 128;

// Causal attention over the cache: softmax(q k^T * scale) v.  grid (value_dim in blocks, heads, n), block (THREADS)
KERNEL(THREADS, plain_attention,
       const float* q,      // (n, heads, key_dim)
       const half* keys,    // (kv_heads, positions, key_dim): one layer
       const half* values,  // (kv_heads, positions, value_dim)
       const int* start,    // (1): position of query 0
       float* out,          // (n, heads, value_dim)
       int kv_heads,
       int key_dim,
       int value_dim,
       int positions,       // that the cache has room for
       int window,          // positions seen, the own one included
       float scale,         // multiplied onto scores
       float soft_cap) {    // scores become cap * tanh(score / cap); 0: they stay
    const int d = blockIdx.x * THREADS + threadIdx.x, head = blockIdx.y, heads = gridDim.y, row = blockIdx.z;
    if (d >= value_dim) return;
    const int kv_head = head / (heads / kv_heads), last = *start + row, first = max(0, last + 1 - window);
    q += (size_t(row) * heads + head) * key_dim;
    float most = -INFINITY, total = 0.0f, sum = 0.0f;
    for (int p = first; p <= last; ++p) {
        const half* k = keys + (size_t(kv_head) * positions + p) * key_dim;
        float score = 0.0f;
        for (int i = 0; i < key_dim; ++i) score += q[i] * __half2float(k[i]);
        score *= scale;
        if (soft_cap != 0.0f) score = soft_cap * tanhf(score / soft_cap);
        // A running maximum (Milakov & Gimelshein 2018): what was summed before shrinks when it grows.
        const float next = fmaxf(most, score), shrink = expf(most - next), e = expf(score - next);
        total = total * shrink + e;
        sum = sum * shrink + e * __half2float(values[(size_t(kv_head) * positions + p) * value_dim + d]);
        most = next;
    }
    out[(size_t(row) * heads + head) * value_dim + d] = sum / total;
}
