//! Lookups of the scalar twin.

use super::super::books::{Books, Eights, Fours};
use super::super::simd::{ByteLanes, array};
use super::Scalar;

/// The 16-bit number `i`.
fn number(bytes: &[u8; 64], i: usize) -> usize {
    usize::from(u16::from_le_bytes(*array(bytes, 2 * i)))
}

impl Books for Scalar {
    /// None.
    const MOST_BY_DIGITS: usize = 0;

    fn widen_half(self, b: [u8; 64]) -> [u8; 64] {
        self.widen(&b, 0)
    }

    fn even_odd(self, b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| b[i / 4 % 8 * 8 + i / 32 * 4 + i % 4])
    }

    fn fields<const EACH: usize>(self, unit: &[u8], at: usize, times: [u16; 4]) -> [u8; 64] {
        std::array::from_fn(|i| {
            let (number, byte) = (i / 2, |j: usize| u16::from(unit[at + i / 8 * EACH + j]));
            let field = if EACH == 1 { byte(0) } else { byte(0) | byte(1) << 8 };
            field.wrapping_mul(times[number % 4]).to_le_bytes()[i % 2]
        })
    }

    fn with_ninth_bits(self, numbers: [u8; 64], bits: u32) -> [u8; 64] {
        std::array::from_fn(|i| numbers[i] | if i % 2 == 1 { (bits >> (i / 2) & 1) as u8 } else { 0 })
    }

    fn signs(self, bytes: &[u8], at: usize) -> [u64; 4] {
        std::array::from_fn(|i| u64::from_le_bytes(*array(bytes, at + 8 * i)))
    }

    fn half_as_signs(self, b: [u8; 64], half: usize) -> [u64; 4] {
        self.signs(&b, 32 * half)
    }

    fn low_bytes_as_signs(self, b: [u8; 64]) -> [u64; 4] {
        std::array::from_fn(|i| (0..8).map(|j| u64::from(b[16 * i + 2 * j]) << (8 * j)).sum())
    }

    fn negate(self, signs: [u64; 4], part: usize, b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| if signs[part] >> i & 1 == 1 { b[i].wrapping_neg() } else { b[i] })
    }

    fn negate_fourths(self, signs: [u64; 4], part: usize, b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| {
            let weight = 4 * i + part;
            if signs[weight / 64] >> (weight % 64) & 1 == 1 { b[i].wrapping_neg() } else { b[i] }
        })
    }

    fn find<const N: usize>(self, _: &Eights<N>, points: [u8; 64]) -> [u8; 64] {
        points
    }

    fn points<const N: usize>(self, book: &Eights<N>, found: [u8; 64], part: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[number(&found, 8 * part + i / 8)].to_le_bytes()[i % 8])
    }

    fn find_short<const N: usize>(self, _: &Fours<N>, points: [[u8; 64]; 2]) -> [[u8; 64]; 2] {
        points
    }

    fn points_at(self, book: &Eights<256>, unit: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[usize::from(unit[at + i / 8 % 4 + i / 32 * 8])].to_le_bytes()[i % 8])
    }

    fn short_points_at(self, book: &Fours<256>, unit: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[usize::from(unit[at + i / 4])].to_le_bytes()[i % 4])
    }

    fn short_points<const N: usize>(self, book: &Fours<N>, found: [u8; 64], half: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[number(&found, 16 * half + i / 4)].to_le_bytes()[i % 4])
    }

    fn level(self, digits: [u8; 64], from: usize, by_digit: &[u8; 64], levels: u8) -> [u8; 64] {
        digits.map(|digits| by_digit[usize::from(digits >> from & (levels - 1))])
    }

    fn interleave(self, fourths: [[u8; 64]; 4]) -> [[u8; 64]; 4] {
        std::array::from_fn(|part| std::array::from_fn(|i| fourths[i % 4][16 * part + i / 4]))
    }

    fn nibbles(self, bytes: &[u8; 8]) -> [f32; 16] {
        std::array::from_fn(|i| f32::from(bytes[i / 2] >> (i % 2 * 4) & 15))
    }

    fn twice(self, x: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| x[i / 2])
    }
}
