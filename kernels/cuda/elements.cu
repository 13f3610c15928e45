// One thread for each float: activations, sums, factors, caps.
#include "round.cuh"

static constexpr int THREADS = 256;

// As `Activation` in elements.rs numbers them.
enum Function { SILU = 0, GELU_TANH = 1, GELU_ERF = 2, RELU = 3 };

static __device__ __forceinline__ float activation(int function, float x) {
    switch (function) {
        case SILU: return x / (1.0f + expf(-x));
        case GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));  // sqrt(2 / pi)
        case GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.7071067812f));                              // 1 / sqrt(2)
        default: return fmaxf(x, 0.0f);
    }
}

static __device__ __forceinline__ int64_t element() { return int64_t(blockIdx.x) * THREADS + threadIdx.x; }

// gate = activation(gate) * up
KERNEL(THREADS, gate,
       float* gate,      // (len)
       const float* up,  // (len)
       int len,
       int function) {   // of `Function`
    const int64_t i = element();
    if (i < len) gate[i] = activation(function, gate[i]) * up[i];
}

// The same, four at a time, and rounded to 8 bits for the product that follows.  grid (len / 4 in blocks)
KERNEL(THREADS, gate_codes,
       float* gate,      // (len), a multiple of 32
       const float* up,  // (len)
       int8_t* codes,    // (len) of activations.cuh
       Scale* scales,    // (len / 32)
       int len,
       int function) {
    const int i = int(element());
    const bool inside = 4 * i < len;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (inside) {
        const float4 g = reinterpret_cast<const float4*>(gate)[i], u = reinterpret_cast<const float4*>(up)[i];
        v = make_float4(activation(function, g.x) * u.x, activation(function, g.y) * u.y, activation(function, g.z) * u.z,
                        activation(function, g.w) * u.w);
        reinterpret_cast<float4*>(gate)[i] = v;
    }
    round_four(v, inside, i, codes, scales);
}

// x = activation(x)
KERNEL(THREADS, activate, float* x, int len, int function) {
    const int64_t i = element();
    if (i < len) x[i] = activation(function, x[i]);
}

// x += y
KERNEL(THREADS, add, float* x, const float* y, int len) {
    const int64_t i = element();
    if (i < len) x[i] += y[i];
}

// x *= factor
KERNEL(THREADS, scale, float* x, float factor, int len) {
    const int64_t i = element();
    if (i < len) x[i] *= factor;
}

// x = cap * tanh(x / cap)
KERNEL(THREADS, soft_cap, float* x, float cap, int len) {
    const int64_t i = element();
    if (i < len) x[i] = cap * tanhf(x[i] / cap);
}
