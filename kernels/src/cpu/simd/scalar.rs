//! Eight lanes in plain Rust: the twin that runs on any machine. Nothing is fused, since `mul_add` without the instruction
//! is a slow library call.

use super::Simd;
use half::{bf16, f16};

/// The instruction set that every CPU has.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Scalar;

const LANES: usize = 8;

#[inline(always)]
fn each(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: eight floats are there by the caller's promise; an unaligned read.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::V {
        // SAFETY: as above.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        halves.map(|h| f16::from_bits(h).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        // SAFETY: as above.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        halves.map(|h| bf16::from_bits(h).to_f32())
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::V {
        // SAFETY: as above.
        let small = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        small.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: there is room for eight by the caller's promise; an unaligned write.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, v: Self::V) {
        let halves = v.map(|x| f16::from_f32(x).to_bits());
        // SAFETY: as above.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(halves) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }

    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        // Adding and taking away 1.5 * 2^23 leaves no bits behind the point; numbers beyond have none.
        const BIG: f32 = 12_582_912.0;
        v.map(|x| if x.abs() < 4_194_304.0 { (x + BIG) - BIG } else { x })
    }

    #[inline(always)]
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V {
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        each(v, n, |v, n| {
            let n = n as i32;
            let half = n >> 1;
            v * power(half) * power(n - half)
        })
    }

    #[inline(always)]
    fn swap_pairs(self, v: Self::V) -> Self::V {
        std::array::from_fn(|i| v[i ^ 1])
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..LANES {
            for col in 0..LANES {
                // SAFETY: inside the two squares by the caller's promise. As bits: numbers need not be floats.
                unsafe {
                    let bits = from.add(row * stride + col).cast::<u32>().read_unaligned();
                    to.add(col * to_stride + row).cast::<u32>().write_unaligned(bits);
                }
            }
        }
    }
}
