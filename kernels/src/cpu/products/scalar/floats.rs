//! [`FloatLanes`] of the scalar twin.

use super::super::simd::{FloatLanes, array};
use super::Scalar;
use half::f16;

impl FloatLanes for Scalar {
    fn words_to_floats(self, b: [u8; 64]) -> [f32; 16] {
        std::array::from_fn(|i| i32::from_le_bytes(*array(&b, 4 * i)) as f32)
    }

    fn odd(self, x: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { x[2 * i + 1] } else { 0.0 })
    }

    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    fn floats(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    fn float_bits(self, x: &[u32; 16]) -> [f32; 16] {
        x.map(f32::from_bits)
    }

    fn eight(self, x: &[f32; 8]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { x[i] } else { 0.0 })
    }

    fn join(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { a[i] } else { b[i - 8] })
    }

    fn first(self, n: usize, x: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if i < n { x[i] } else { 0.0 })
    }

    fn store_floats(self, x: [f32; 16], to: &mut [f32; 16]) {
        *to = x;
    }

    fn store_float_bits(self, x: [f32; 16], to: &mut [u32; 16]) {
        *to = x.map(f32::to_bits);
    }

    fn largest(self, a: [f32; 16], b: [f32; 16]) -> f32 {
        // As integers, magnitudes are ordered as they are as floats.
        let magnitude = |x: &f32| x.to_bits() & 0x7fff_ffff;
        f32::from_bits(a.iter().chain(&b).map(magnitude).fold(0, u32::max))
    }

    fn round(self, x: [f32; 16], to: &mut [u8; 16]) {
        // 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        *to = x.map(|x| (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as u8);
    }

    fn halves(self, x: [u16; 8]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { f16::from_bits(x[i]).to_f32() } else { 0.0 })
    }

    fn half(self, x: u16) -> [f32; 16] {
        [f16::from_bits(x).to_f32(); 16]
    }

    fn halves_of_heads(self, heads: [u8; 64], at: usize) -> [f32; 16] {
        std::array::from_fn(|i| f16::from_le_bytes(*array(&heads, i / 8 * 32 + at)).to_f32())
    }

    fn low_and_high(self, x: &[u8; 16]) -> [[f32; 16]; 2] {
        [x.map(|x| f32::from(x & 15)), x.map(|x| f32::from(x >> 4))]
    }

    fn unsigned(self, x: [u8; 16]) -> [f32; 16] {
        x.map(f32::from)
    }

    fn signed(self, x: [u8; 16]) -> [f32; 16] {
        x.map(|x| f32::from(x as i8))
    }

    fn half_powers(self, e: [u8; 16]) -> [f32; 16] {
        // The two lowest are subnormal.
        e.map(u32::from).map(|e| f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 }))
    }

    fn add_floats(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    fn put_scales(self, x: [f32; 16], to: &mut [f32; 16]) {
        *to = x;
    }

    fn no_scales(self) -> [f32; 16] {
        [0.0; 16]
    }

    fn spread(self, groups: [usize; 4], x: &[f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| x[groups[i / 4]])
    }

    fn sum(self, x: [f32; 16]) -> f32 {
        x.iter().sum()
    }
}
