//! Codebooks of groups, and what looking them up needs of an instruction set.

use super::permutes::Halves;
use super::simd::Registers;

/// A codebook whose points are eight weights (all tables at the start of cache lines, as [`Lines`](super::simd::Lines)): as bytes, and as digits of two bits that stand for levels.
#[repr(C, align(64))]
pub(super) struct Eights<const N: usize> {
    /// The digits once more.
    pub(super) halves: Halves<N>,
    pub(super) digits: [u16; N],
    pub(super) points: [u64; N],
    /// Levels by digits, again and again: of what looks them up, bits above a digit need not be zeros.
    pub(super) levels: [u8; 64],
}

/// A codebook whose points are four weights: as bytes, and as digits of three bits.
#[repr(C, align(64))]
pub(super) struct Fours<const N: usize> {
    /// The digits once more.
    pub(super) halves: Halves<N>,
    pub(super) digits: [u16; N],
    pub(super) points: [u32; N],
    /// Levels by digits, again and again: of what looks them up, bits above a digit need not be zeros.
    pub(super) levels: [u8; 64],
}

impl<const N: usize> Eights<N> {
    pub(super) const fn new(digits: &[u16; N], four: [u8; 4]) -> Self {
        let mut points = [0; N];
        let mut i = 0;
        while i < 8 * N {
            points[i / 8] |= (four[(digits[i / 8] >> (2 * (i % 8)) & 3) as usize] as u64) << (8 * (i % 8));
            i += 1;
        }
        Eights { points, digits: *digits, halves: halves(digits), levels: repeated(&four) }
    }
}

impl<const N: usize> Fours<N> {
    pub(super) const fn new(digits: &[u16; N], eight: [u8; 8]) -> Self {
        let mut points = [0; N];
        let mut i = 0;
        while i < 4 * N {
            points[i / 4] |= (eight[(digits[i / 4] >> (3 * (i % 4)) & 7) as usize] as u32) << (8 * (i % 4));
            i += 1;
        }
        Fours { points, digits: *digits, halves: halves(digits), levels: repeated(&eight) }
    }
}

const fn halves<const N: usize>(digits: &[u16; N]) -> Halves<N> {
    let mut halves = [[0; N]; 2];
    let mut i = 0;
    while i < N {
        [halves[0][i], halves[1][i]] = digits[i].to_le_bytes();
        i += 1;
    }
    halves
}

const fn repeated<const N: usize>(levels: &[u8; N]) -> [u8; 64] {
    let mut all = [0; 64];
    let mut i = 0;
    while i < 64 {
        all[i] = levels[i % N];
        i += 1;
    }
    all
}

/// Lookups of points, and signs that lie apart. Slices are indexed by constants after inlining, so that the checks disappear.
pub(super) trait Books: Registers {
    /// The 32 bytes of a register's first half as 16-bit numbers.
    fn widen_half(self, b: Self::Bytes) -> Self::Bytes;
    /// The 32-bit numbers with even places, then those with odd ones.
    fn even_odd(self, b: Self::Bytes) -> Self::Bytes;
    /// `bytes[at .. at + 32]`, a bit for each weight.
    fn signs(self, bytes: &[u8], at: usize) -> Self::Signs;
    /// The first half of a register, or the second.
    fn half_as_signs(self, b: Self::Bytes, half: usize) -> Self::Signs;
    /// The low bytes of 32 16-bit numbers.
    fn low_bytes_as_signs(self, b: Self::Bytes) -> Self::Signs;
    /// Two's complement of those of the 64 bytes of part `part` whose bit is one.
    fn negate(self, signs: Self::Signs, part: usize, b: Self::Bytes) -> Self::Bytes;
    /// What [`Books::points`] needs of 32 points, given as 16-bit numbers below `N`: the numbers, or the points' digits.
    fn find<const N: usize>(self, book: &Eights<N>, points: Self::Bytes) -> Self::Bytes;
    /// Eight weights each of the points `8 * part ..` that were found.
    fn points<const N: usize>(self, book: &Eights<N>, found: Self::Bytes, part: usize) -> Self::Bytes;
    /// As [`Books::find`].
    fn find_short<const N: usize>(self, book: &Fours<N>, points: Self::Bytes) -> Self::Bytes;
    /// Four weights each of the points `16 * half ..` that were found.
    fn short_points<const N: usize>(self, book: &Fours<N>, found: Self::Bytes, half: usize) -> Self::Bytes;
}
