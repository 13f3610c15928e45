// The token that greedy sampling takes: so that one number comes back to the host, and not a vocabulary of logits.
//
//     one block; its threads share the numbers, each keeps the largest it has seen and where it was
//     then up a tree, over the lanes of each warp and over the warps
//
// Bound: what one multiprocessor loads from the second-level cache, where the product before has left the logits: 4 bytes for each
// of, say, 128256. More blocks would need a second launch, which takes as long.
//
// 1. Of equal numbers the first counts, as on the CPU, whatever the order in which threads are compared; -0 equals 0.
// 2. A NaN or +infinity anywhere, or nothing above -infinity: the answer is NaN. The model is broken, and the host tells so.
#include "intrinsics.cuh"

// A number and where it stands. Where it was NaN or infinite: infinity at -1, which is before everything.
struct Largest {
    float value;
    int at;
};
static constexpr int NOWHERE = 0x7fffffff;

static __device__ __forceinline__ Largest larger(Largest a, Largest b) {
    return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}

static __device__ __forceinline__ Largest warp_largest(Largest mine) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1)
        mine = larger(mine, Largest{__shfl_xor_sync(ALL_LANES, mine.value, bits), __shfl_xor_sync(ALL_LANES, mine.at, bits)});
    return mine;
}

// grid (1), block (1024)
KERNEL(1024, argmax,
       const float* x,  // (len)
       float* out,      // (1): the place, as a float (exact below 2^24), or NaN
       int len) {
    __shared__ float values[32];
    __shared__ int places[32];
    Largest mine{-INFINITY, NOWHERE};
#pragma unroll 8
    for (int i = threadIdx.x; i < len; i += 1024) {
        const float v = x[i];
        mine = v < INFINITY ? larger(mine, Largest{v, v == -INFINITY ? NOWHERE : i}) : Largest{INFINITY, -1};
    }
    mine = warp_largest(mine);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane == 0) values[warp] = mine.value, places[warp] = mine.at;
    __syncthreads();
    if (warp != 0) return;
    mine = warp_largest(Largest{values[lane], places[lane]});
    if (lane == 0) *out = mine.at < 0 || mine.at == NOWHERE ? __int_as_float(0x7fffffff) : float(mine.at);
}
