// Half precision and bfloat16 on the CPU: the words of cuda_fp16.h and cuda_bf16.h. Every operation rounds its result.
#pragma once

// _Float16: g++ 12 and clang 15, on x86-64 and aarch64.
using __half = _Float16;
using half = __half;
struct alignas(4) __half2 { half x, y; };
using half2 = __half2;

inline float __half2float(half x) { return float(x); }
inline half __float2half(float x) { return half(x); }
inline half __float2half_rn(float x) { return half(x); }
inline unsigned short __half_as_ushort(half x) { unsigned short u; __builtin_memcpy(&u, &x, 2); return u; }
inline half __ushort_as_half(unsigned short u) { half x; __builtin_memcpy(&x, &u, 2); return x; }
inline half __hadd(half a, half b) { return half(float(a) + float(b)); }
inline half __hsub(half a, half b) { return half(float(a) - float(b)); }
inline half __hmul(half a, half b) { return half(float(a) * float(b)); }

inline half2 make_half2(half x, half y) { return {x, y}; }
inline half2 __halves2half2(half x, half y) { return {x, y}; }
inline half2 __float2half2_rn(float x) { return {half(x), half(x)}; }
inline half2 __floats2half2_rn(float x, float y) { return {half(x), half(y)}; }
inline half2 __half2half2(half x) { return {x, x}; }
inline half __low2half(half2 h) { return h.x; }
inline half __high2half(half2 h) { return h.y; }
inline float __low2float(half2 h) { return float(h.x); }
inline float __high2float(half2 h) { return float(h.y); }
inline float2 __half22float2(half2 h) { return {float(h.x), float(h.y)}; }
inline half2 __hadd2(half2 a, half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline half2 __hsub2(half2 a, half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline half2 __hmul2(half2 a, half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
// One rounding: a product of two halves is exact in double, and so is its sum with a third up to a double's 53 bits.
inline half __hfma(half a, half b, half c) { return half(double(a) * double(b) + double(c)); }
inline half2 __hfma2(half2 a, half2 b, half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }

struct __nv_bfloat16 { unsigned short bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const unsigned u = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {static_cast<unsigned short>((u + 0x7fff + (u >> 16 & 1)) >> 16)};  // to the nearest, ties to even
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
