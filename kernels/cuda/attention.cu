// Causal attention over a half-precision cache on tensor cores (Dao 2023), for prompts and for single tokens.
//
//     one block for a key-value head, 16 rows for each warp, and one of several parts of the positions
//     a row is a query of one token and one of the heads that share the key-value head
//     for each tile of positions, two of them in shared memory:
//         scores = q k^T (tensor cores), capped and masked
//         running maximum of each row; what was summed before shrinks when it grows (Milakov & Gimelshein 2018)
//         sums += exp(scores - maximum) v (tensor cores)
//     one part: divide and write. Several: write sums, maximum and total, and `combine` puts the parts together
//     where asked for, results are also written rounded to 8 bits: a product with quantized weights follows
//
// Bound: with single tokens memory: positions * (key_dim + value_dim) * 2 bytes for each key-value head, read once for all heads
// of its group. With prompts arithmetic: 4 * head_dim operations for each pair of query and position seen, at the rate of
// 16-bit floats; keys and values come from the cache once for each tile of rows.
//
// 1. Heads of a group are rows of one tile: their keys and values are read once, and single tokens still fill a tensor core's 16 rows
//    as far as the model's groups do (Llama 3: 4, Qwen 2.5: up to 8).
// 2. Single tokens of long contexts: positions are split over blocks, or a few key-value heads would leave the GPU idle.
// 3. Queries stay in registers as halves with the scale multiplied on; scores, maxima, totals and sums are f32. Probabilities are
//    rounded to halves for the second product: they are between 0 and 1, so that errors are relative to each.
// 4. Values are needed with positions along k: the transposing load gives them as they lie.
// 5. Tiles begin at multiples of their size, whatever the window, and parts at tiles: results depend on shapes alone.
// 6. The position is read from memory, so that a recorded token (a CUDA graph) can be replayed. Parts that then hold no
//    position have a total of 0.
// 7. Blocks with the longest rows begin first.
// 8. Positions beyond the last are zeros in shared memory: what the cache holds there may be no number.
#include "round.cuh"

// Positions in a tile: two tiles of keys and values stay below 48 KiB.
template <int D> static constexpr int TILE = D > 128 ? 16 : 32;

// From one position to the next in shared memory, in halves: 8 more, so that eight positions lie in different banks.
template <int D> static constexpr int PITCH = D + 8;

static __device__ __forceinline__ uint32_t two_halves(float low, float high) {
    return (uint32_t)__half_as_ushort(__float2half_rn(low)) | (uint32_t)__half_as_ushort(__float2half_rn(high)) << 16;
}

// Over the four lanes that hold a row.
static __device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
static __device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// Starts copying positions `first ..` of a head's keys or values; zeros from `end` on.
template <int D, int THREADS>
static __device__ __forceinline__ void copy_tile(half* tile, const half* head, int first, int end) {
    for (int i = threadIdx.x; i < TILE<D> * (D / 8); i += THREADS) {
        const int p = i / (D / 8), at = i % (D / 8) * 8;
        const bool there = first + p < end;
        cp_async16(tile + p * PITCH<D> + at, head + (there ? (size_t)(first + p) * D + at : 0), there);
    }
}

template <int D, int WARPS>
static __device__ __forceinline__ void attend(
    const float* q,       // (n, heads, D)
    const half* keys,     // (kv_heads, positions, D): one layer
    const half* values,   // (kv_heads, positions, D)
    const int* start,     // (1): position of token 0
    float* out,           // (n, heads, D)
    float* parts,         // (parts, kv_heads, rows, D + 2): sums, maximum, total; not used with one part
    int8_t* codes,        // (n, heads, D) of activations.cuh, with one part; or null, always unless D is a multiple of 32
    Scale* scales,        // (n, heads, D / 32), likewise
    int n, int heads, int kv_heads,
    int positions,        // that the cache has room for
    int window,           // positions seen, the own one included
    float scale,          // multiplied onto scores
    float soft_cap) {     // scores become cap * tanh(score / cap); 0: they stay
    constexpr int T = TILE<D>, THREADS = 32 * WARPS;
    __shared__ __align__(16) half shared[2][2][T * PITCH<D>];   // (stage, keys or values)

    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int group = heads / kv_heads, rows = n * group, kv_head = blockIdx.y;
    const int tile_row = (gridDim.x - 1 - blockIdx.x) * 16 * WARPS;   // the block's first row
    keys += (size_t)kv_head * positions * D;
    values += (size_t)kv_head * positions * D;

    // What the block sees, in tiles, and its part of that.
    const int at = *start;
    const int first_token = tile_row / group, last_token = (min(tile_row + 16 * WARPS, rows) - 1) / group;
    const int end = at + last_token + 1, begin = max(0, at + first_token + 1 - window) / T * T;
    const int tiles = (end - begin + T - 1) / T, of_part = (tiles + gridDim.z - 1) / gridDim.z;
    const int from = begin + blockIdx.z * of_part * T, to = min(end, from + of_part * T);

    // This lane's two rows: 8 apart. Rows beyond the last see what the last sees, and are not written.
    int last[2];              // position seen last
    const float* query[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = min(tile_row + warp * 16 + lane / 4 + 8 * i, rows - 1);
        last[i] = at + row / group;
        query[i] = q + ((size_t)(row / group) * heads + kv_head * group + row % group) * D;
    }
    uint32_t a[D / 16][4];
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 two = *reinterpret_cast<const float2*>(query[i & 1] + 16 * k + (i >> 1) * 8 + lane % 4 * 2);
            a[k][i] = two_halves(two.x * scale, two.y * scale);
        }

    float sums[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    auto ask = [&](int first, int stage) {
        if (first < to) {
            copy_tile<D, THREADS>(shared[stage][0], keys, first, to);
            copy_tile<D, THREADS>(shared[stage][1], values, first, to);
        }
        cp_async_commit();
    };
    ask(from, 0);
    for (int first = from, stage = 0; first < to; first += T, stage ^= 1) {
        ask(first + T, stage ^ 1);
        cp_async_wait<1>();
        __syncthreads();
        const half* k_tile = shared[stage][0];
        const half* v_tile = shared[stage][1];

        // Scores: row lane / 4 + 8 * (i / 2), position first + 8 * t + lane % 4 * 2 + i % 2.
        float scores[T / 8][4] = {};
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
#pragma unroll
            for (int t = 0; t < T / 8; t += 2) {
                uint32_t b[4];
                ldmatrix_x4(b, k_tile + (8 * t + (lane & 7) + (lane >> 4) * 8) * PITCH<D> + 16 * k + (lane >> 3 & 1) * 8);
                const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
                mma_m16n8k16_f16(scores[t], a[k], b0);
                mma_m16n8k16_f16(scores[t + 1], a[k], b1);
            }
        if (soft_cap != 0.0f) {
#pragma unroll
            for (int t = 0; t < T / 8; ++t)
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[t][i] = soft_cap * tanhf(scores[t][i] / soft_cap);
        }
#pragma unroll
        for (int t = 0; t < T / 8; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int behind = last[i >> 1] - (first + 8 * t + lane % 4 * 2 + (i & 1));
                if (behind < 0 || behind >= window) scores[t][i] = -INFINITY;
            }

        // The running maximum of each row.
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float high = most[r];
#pragma unroll
            for (int t = 0; t < T / 8; ++t) high = fmaxf(high, fmaxf(scores[t][2 * r], scores[t][2 * r + 1]));
            high = row_max(high);
            const float base = high == -INFINITY ? 0.0f : high;   // a row that sees nothing yet
            const float shrink = __expf(most[r] - base);
            most[r] = high;
            float sum = 0.0f;
#pragma unroll
            for (int t = 0; t < T / 8; ++t)
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; ++i) {
                    scores[t][i] = __expf(scores[t][i] - base);
                    sum += scores[t][i];
                }
            total[r] = total[r] * shrink + row_sum(sum);
#pragma unroll
            for (int d = 0; d < D / 8; ++d) sums[d][2 * r] *= shrink, sums[d][2 * r + 1] *= shrink;
        }

        // Sums: row as above, dimension 8 * d + lane % 4 * 2 + i % 2.
#pragma unroll
        for (int k = 0; k < T / 16; ++k) {
            const float (&s0)[4] = scores[2 * k], (&s1)[4] = scores[2 * k + 1];
            const uint32_t p[4] = {two_halves(s0[0], s0[1]), two_halves(s0[2], s0[3]), two_halves(s1[0], s1[1]), two_halves(s1[2], s1[3])};
#pragma unroll
            for (int d = 0; d < D / 8; d += 2) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, v_tile + (16 * k + (lane & 15)) * PITCH<D> + 8 * d + (lane >> 4) * 8);
                const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
                mma_m16n8k16_f16(sums[d], p, b0);
                mma_m16n8k16_f16(sums[d + 1], p, b1);
            }
        }
        __syncthreads();   // nobody reads this stage any more
    }
    cp_async_wait<0>();

    const bool whole = gridDim.z == 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = tile_row + warp * 16 + lane / 4 + 8 * r;
        const bool inside = row < rows;
        const size_t to = (size_t)(row / group) * heads + kv_head * group + row % group;   // the result's row of D
        const float factor = whole ? 1.0f / total[r] : 1.0f;
#pragma unroll
        for (int d = 0; d < D / 8; ++d) sums[d][2 * r] *= factor, sums[d][2 * r + 1] *= factor;
        float* to_row = whole ? out + to * D : parts + (((size_t)blockIdx.z * kv_heads + kv_head) * rows + row) * (D + 2);
        if (inside) {
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                *reinterpret_cast<float2*>(to_row + 8 * d + lane % 4 * 2) = make_float2(sums[d][2 * r], sums[d][2 * r + 1]);
            if (!whole && lane % 4 == 0) *reinterpret_cast<float2*>(to_row + D) = make_float2(most[r], total[r]);
        }
        // Four lanes hold a row, and of each group of 32 every lane two of eight.
        if (D % 32 == 0 && codes) {
#pragma unroll
            for (int g = 0; g < D / 32; ++g) {
                int bits = 0, sum[2] = {0, 0};
#pragma unroll
                for (int d = 4 * g; d < 4 * g + 4; ++d) bits = max(bits, max(magnitude(sums[d][2 * r]), magnitude(sums[d][2 * r + 1])));
#pragma unroll
                for (int mask = 1; mask < 4; mask <<= 1) bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, mask));
                const Rounding rounding = Rounding::of(bits);
#pragma unroll
                for (int d = 0; d < 4; ++d) {
                    const int a = rounding.code(sums[4 * g + d][2 * r]), b = rounding.code(sums[4 * g + d][2 * r + 1]);
                    sum[d / 2] += a + b;
                    if (inside) reinterpret_cast<uint16_t*>(codes)[(to * D + 32 * g + 8 * d) / 2 + lane % 4] = (uint16_t)((a & 255) | (b & 255) << 8);
                }
#pragma unroll
                for (int mask = 1; mask < 4; mask <<= 1) {
                    sum[0] += __shfl_xor_sync(ALL_LANES, sum[0], mask);
                    sum[1] += __shfl_xor_sync(ALL_LANES, sum[1], mask);
                }
                if (inside && lane % 4 == 0) scales[to * (D / 32) + g] = scale_of(rounding.d, sum[0], sum[1]);
            }
        }
    }
}

// Puts the parts of rows together; a thread takes four neighbours.  grid (n * heads), block: whole warps, dim / 4 threads at least
KERNEL(64, combine,
       const float* parts,   // (count, kv_heads, rows, dim + 2)
       float* out,           // (n, heads, dim)
       int8_t* codes,        // as above, both: or null, always unless dim is a multiple of 32
       Scale* scales,
       int count, int heads, int kv_heads, int dim) {
    const int group = heads / kv_heads, rows = gridDim.x / kv_heads;   // n * heads / kv_heads
    const int token = blockIdx.x / heads, head = blockIdx.x % heads;
    const size_t step = (size_t)kv_heads * rows * (dim + 2);
    parts += ((size_t)(head / group) * rows + token * group + head % group) * (dim + 2);
    float most = -INFINITY;
    for (int p = 0; p < count; ++p) most = fmaxf(most, parts[p * step + dim]);
    float total = 0.0f;
    for (int p = 0; p < count; ++p) total += __expf(parts[p * step + dim] - most) * parts[p * step + dim + 1];
    const int d = 4 * threadIdx.x;
    const bool inside = d < dim;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (inside) {
        for (int p = 0; p < count; ++p) {
            const float weight = __expf(parts[p * step + dim] - most) / total;
            const float2* from = reinterpret_cast<const float2*>(parts + p * step + d);   // rows of dim + 2: aligned to two
            const float2 a = from[0], b = from[1];
            sum = make_float4(sum.x + weight * a.x, sum.y + weight * a.y, sum.z + weight * b.x, sum.w + weight * b.y);
        }
        reinterpret_cast<float4*>(out + (size_t)blockIdx.x * dim)[threadIdx.x] = sum;
    }
    if (codes) round_four(sum, inside, (int)(((size_t)blockIdx.x * dim + d) / 4), codes, scales);
}

// grid (tiles of rows, kv_heads, parts), block (32 * WARPS)
#define ATTENTION(D, WARPS)                                                                                                 \
    KERNEL(32 * WARPS, attention##WARPS##_##D, const float* q, const half* keys, const half* values, const int* start,     \
           float* out, float* parts, int8_t* codes, Scale* scales, int n, int heads, int kv_heads, int positions, int window, float scale, float soft_cap) { \
        attend<D, WARPS>(q, keys, values, start, out, parts, codes, scales, n, heads, kv_heads, positions, window, scale, soft_cap);       \
    }
#define ATTENTIONS(D) ATTENTION(D, 1) ATTENTION(D, 4)

ATTENTIONS(64)
ATTENTIONS(80)
ATTENTIONS(96)
ATTENTIONS(128)
ATTENTIONS(256)
