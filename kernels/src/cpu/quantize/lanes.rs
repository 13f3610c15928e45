//! Floats side by side: what a vector of any instruction set can do, so that each search is written once.
//!
//! A vector can only be made with the proof of its instruction set, so the methods of one that exists need no proof. Every
//! operation is the IEEE operation of its scalar twin in each lane; nothing is fused. Everything generic over [`Lanes`] must
//! be `#[inline(always)]`, so that it ends up in the function compiled for the instruction set (see `super::lines`): what
//! stays outside is correct but ten times slower. Closures cannot have that attribute, and are kept for single operations.

use std::ops::{Add, BitAnd, Div, Mul, Not, Sub};

/// Most lanes of any instruction set: [`Lanes::LANES`] divides it.
pub(super) const MOST_LANES: usize = 16;

/// For each lane: yes or no.
pub(super) trait Mask: Copy + BitAnd<Output = Self> + Not<Output = Self> {
    /// One bit per lane, the first lane's lowest.
    fn bits(self) -> u32;

    /// Yes in some lane.
    #[inline(always)]
    fn any(self) -> bool {
        self.bits() != 0
    }
}

/// Comparisons are false where one side is NaN (except `differs`), as the scalar operators.
pub(super) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Proof of the instruction set.
    type Isa: Copy;
    /// Answers.
    type Mask: Mask;
    /// As many small integers.
    type Integers: Copy;

    /// Floats in a vector: 8 or 16.
    const LANES: usize;

    /// The same number in all lanes.
    fn all(isa: Self::Isa, x: f32) -> Self;
    /// The first [`Lanes::LANES`] numbers; panics where there are fewer.
    fn load(isa: Self::Isa, x: &[f32]) -> Self;
    /// The lanes as an array, zeros behind.
    fn array(self) -> [f32; MOST_LANES];
    /// The largest lane; of numbers that are not NaN, in whatever order they are compared.
    fn largest(self) -> f32;

    /// `self < other`
    fn less(self, other: Self) -> Self::Mask;
    /// `self > other`
    fn greater(self, other: Self) -> Self::Mask;
    /// `self >= other`
    fn at_least(self, other: Self) -> Self::Mask;
    /// `self == other`
    fn equals(self, other: Self) -> Self::Mask;
    /// `self != other`
    fn differs(self, other: Self) -> Self::Mask;
    /// Yes in the lanes whose bits are set.
    fn mask(isa: Self::Isa, bits: u32) -> Self::Mask;
    /// Where `mask`, `self`, otherwise `other`.
    fn or_else(self, mask: Self::Mask, other: Self) -> Self;

    /// `if self < other { self } else { other }`
    fn min(self, other: Self) -> Self;
    /// `if self > other { self } else { other }`
    fn max(self, other: Self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// Magnitude.
    fn abs(self) -> Self;
    /// The other sign.
    fn negate(self) -> Self;
    /// `0.5` with the number's sign.
    fn half_of_sign(self) -> Self;
    /// The nearest integer as a float (ties to even): where the magnitude is below 2^22 the number that ggml gets by adding
    /// `1.5 * 2^23`, except that small negative numbers become -0.
    fn nearest(self) -> Self;
    /// [`Lanes::nearest`] for all numbers: what the trick's low mantissa bits say, however arbitrary. Returns
    /// integers between -2^22 and 2^22 as floats.
    fn nearest_anyhow(self) -> Self;
    /// Towards zero, as an integral float; magnitudes from 2^23 stay.
    fn truncate(self) -> Self;
    /// The lowest eight bits of integral floats between -2^31 and 2^31, as floats from 0 to 255.
    fn low_byte(self) -> Self;

    /// Writes the columns of a square: row `i` is the [`Lanes::LANES`] numbers from `from[i * stride]`.
    fn transpose(isa: Self::Isa, from: &[f32], stride: usize, to: &mut [Self]);
    /// Integral floats between -2^31 and 2^31 as bytes: the low eight bits of each. Other floats become 0.
    fn bytes(self, to: &mut [u8]);
    /// The code on `levels`' grid that is nearest to each number, and the code's level: how many of `edges` are not above
    /// the number. Both ascend.
    fn on_grid(self, edges: &Table, levels: &Table) -> (Self, Self);

    /// The first [`Lanes::LANES`] integers; panics where there are fewer.
    fn load_integers(isa: Self::Isa, x: &[u16]) -> Self::Integers;
    /// Integral floats from 0 to 2^31 as integers.
    fn integers(self) -> Self::Integers;
    /// Integers as an array, zeros behind.
    fn integer_array(x: Self::Integers) -> [u32; MOST_LANES];
    /// Integers without their lowest `BITS` bits.
    fn without_low<const BITS: u32>(x: Self::Integers) -> Self::Integers;
    /// The lowest `BITS` bits of integers as floats.
    fn low<const BITS: u32>(x: Self::Integers) -> Self;
    /// The lanes of `self` at the lowest `BITS` (2 or 3) bits of each of `at`, where `self` repeats after `2^BITS` lanes.
    fn at<const BITS: u32>(self, at: Self::Integers) -> Self;
}

/// Sixteen numbers to look up in.
pub(super) struct Table(pub(super) [f32; 16]);
