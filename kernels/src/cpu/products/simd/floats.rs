//! What the products need of 16 floats.

use super::{Registers, array};

/// Scales, and sums of products with them.
pub(in crate::cpu::products) trait FloatLanes: Registers {
    /// Sixteen 32-bit numbers as floats.
    fn words_to_floats(self, b: Self::Bytes) -> Self::Floats;
    /// Lanes 1, 3, .. 15, then zeros.
    fn odd(self, x: Self::Floats) -> Self::Floats;
    /// The same number everywhere.
    fn splat(self, x: f32) -> Self::Floats;
    /// From memory.
    fn floats(self, x: &[f32; 16]) -> Self::Floats;
    /// From memory, given as bits.
    fn float_bits(self, x: &[u32; 16]) -> Self::Floats;
    /// Eight from memory, then zeros.
    fn eight(self, x: &[f32; 8]) -> Self::Floats;
    /// The first eight of both.
    fn join(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The first `n` lanes, then zeros.
    fn first(self, n: usize, x: Self::Floats) -> Self::Floats;
    /// To memory.
    fn store_floats(self, x: Self::Floats, to: &mut [f32; 16]);
    /// To memory, as bits.
    fn store_float_bits(self, x: Self::Floats, to: &mut [u32; 16]);
    /// Largest magnitude in both; NaN counts as larger than all.
    fn largest(self, a: Self::Floats, b: Self::Floats) -> f32;
    /// Nearest integers of numbers between -127 and 127, ties to even. Others give anything.
    fn round(self, x: Self::Floats, to: &mut [u8; 16]);
    /// Eight half-precision numbers, then zeros.
    fn halves(self, x: [u16; 8]) -> Self::Floats;
    /// The half-precision numbers at `at` of eight blocks of `block` bytes, which make up the unit, then zeros.
    /// `block` is even and less than 64.
    #[inline(always)]
    fn strided_halves(self, unit: &[u8], block: usize, at: usize) -> Self::Floats {
        let half = |b: usize| u16::from_le_bytes(*array(unit, b * block + at));
        self.halves([half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7)])
    }
    /// The same of two units: eight numbers each.
    #[inline(always)]
    fn strided_halves_of_two(self, a: &[u8], b: &[u8], block: usize, at: usize) -> Self::Floats {
        self.join(self.strided_halves(a, block, at), self.strided_halves(b, block, at))
    }
    /// A half-precision number in all lanes.
    fn half(self, x: u16) -> Self::Floats;
    /// The lower halves of 16 bytes, and the upper ones.
    fn low_and_high(self, x: &[u8; 16]) -> [Self::Floats; 2];
    /// Of what [`ByteLanes::heads`](super::ByteLanes::heads) gave, the half-precision numbers at `at`: that of `a` in eight lanes, that of `b` in
    /// the others.
    fn halves_of_heads(self, heads: Self::Bytes, at: usize) -> Self::Floats;
    /// Small integers.
    fn unsigned(self, x: [u8; 16]) -> Self::Floats;
    /// Small integers.
    fn signed(self, x: [u8; 16]) -> Self::Floats;
    /// 2^(e - 128): half of what E8M0 numbers stand for.
    fn half_powers(self, e: [u8; 16]) -> Self::Floats;
    /// `a + b`.
    fn add_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// For [`FloatLanes::spread`]. What is put must not be moved: see the instance for AVX2.
    fn put_scales(self, x: Self::Floats, to: &mut Self::Scales);
    /// What is put over.
    fn no_scales(self) -> Self::Scales;
    /// A scale for each quarter: of its group.
    fn spread(self, groups: [usize; 4], x: &Self::Scales) -> Self::Floats;
    /// Sum of all lanes.
    fn sum(self, x: Self::Floats) -> f32;
}
