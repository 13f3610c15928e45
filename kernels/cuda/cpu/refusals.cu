// Kernels that break a rule each: the tests see that the stand-in notices. Not part of any image.
#include "../intrinsics.cuh"

namespace {
volatile float results[64];   // a thread's own: what nobody reads would not be computed
}

// ---- lanes
KERNEL(64, refused_barriers_apart, int) {
    if (threadIdx.x < 16) __syncthreads();
    else __syncthreads();
}
KERNEL(64, refused_ended_lane, int) {
    if (threadIdx.x % 2) return;
    results[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
}
KERNEL(64, refused_own_lane_not_in_mask, int) { results[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1); }
KERNEL(64, refused_lane_outside_mask, int) {
    if (threadIdx.x % 32 < 16) results[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 20);
}
KERNEL(64, refused_two_places, int) {   // a warp whose halves call apart
    if (threadIdx.x % 32 < 16) results[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
    else results[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
}
KERNEL(64, refused_lane_at_a_barrier, int) {
    if (threadIdx.x == 5) __syncthreads();
    else results[threadIdx.x] = warp_sum(1.0f);
}
KERNEL(64, refused_product_without_a_lane, int) {
    if (threadIdx.x % 32 == 31) return;
    float d[4] = {};
    const uint32_t a[4] = {}, b[2] = {};
    mma_m16n8k16_f16(d, a, b);
    results[threadIdx.x] = d[0];
}
KERNEL(64, refused_part_of_a_warp, int) { results[threadIdx.x] = warp_sum(1.0f); }   // the test launches 40 threads
// ---- addresses
KERNEL(64, refused_load, int) {
    DYNAMIC_SHARED(unsigned char, shared);
    results[threadIdx.x] = float(load_once(shared + 8).x);
}
KERNEL(64, refused_narrow_load, int) {
    DYNAMIC_SHARED(unsigned char, shared);
    results[threadIdx.x] = float(__ldg(reinterpret_cast<const uint2*>(shared + 4)).x);
}
KERNEL(64, refused_copy, int) {
    DYNAMIC_SHARED(unsigned char, shared);
    cp_async16(shared + 8, shared + 64);
}
KERNEL(64, refused_matrix, int) {
    DYNAMIC_SHARED(unsigned char, shared);
    uint32_t out[4];
    ldmatrix_x4(out, shared + 8);
    results[threadIdx.x] = float(out[0]);
}
KERNEL(64, refused_overrun, int bytes) {
    DYNAMIC_SHARED(unsigned char, shared);
    if (threadIdx.x == 0) static_cast<volatile unsigned char*>(shared)[bytes + 3] = 1;
}
// ---- and one that breaks none
KERNEL(64, allowed_all, int) {
    DYNAMIC_SHARED(unsigned char, shared);
    if (threadIdx.x < 4) cp_async16(shared + 16 * threadIdx.x, shared + 64 + 16 * threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    if (threadIdx.x % 2) return;
    results[threadIdx.x] = __shfl_xor_sync(0x55555555u, 1.0f, 2);   // ended lanes are nobody's business
    __syncthreads();
}
