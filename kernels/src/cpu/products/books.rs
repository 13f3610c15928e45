//! Codebooks of groups, and what looking them up needs of an instruction set.
//!
//! Weights of a unit come in one of two orders. Where points are loaded ([`Books::points`]), part `p` is weights `64 p ..`. Where digits of
//! points are permuted ([`Books::level`]), part `p` is every fourth weight, `4 i + p`: so each byte of digits is used where it lies, and
//! activations are stored once more in that order ([`Unit`](super::panel::Unit)). Either way products are summed up for 16 neighbours.

use super::Ready;
use super::permutes::Halves;
use super::simd::{Registers, Simd};

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

/// A codebook whose points are four weights: as bytes, and as digits of three bits, two in each byte.
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

    /// The weights of part `part`, in the order of the instruction set.
    #[inline(always)]
    pub(super) fn part<V: Simd>(&self, v: V, ready: &Ready<V>, part: usize) -> V::Bytes {
        if N <= V::MOST_BY_DIGITS {
            v.level(ready.found[0], 2 * part, &self.levels, 4)
        } else {
            v.points(self, ready.found[0], part)
        }
    }
}

impl<const N: usize> Fours<N> {
    pub(super) const fn new(digits: &[u16; N], eight: [u8; 8]) -> Self {
        let (mut points, mut in_bytes) = ([0; N], [0; N]);
        let mut i = 0;
        while i < 4 * N {
            let digit = digits[i / 4] >> (3 * (i % 4)) & 7;
            points[i / 4] |= (eight[digit as usize] as u32) << (8 * (i % 4));
            in_bytes[i / 4] |= digit << (i % 4 / 2 * 8 + i % 2 * 3);
            i += 1;
        }
        Fours { points, halves: halves(&in_bytes), digits: in_bytes, levels: repeated(&eight) }
    }

    /// The weights of part `part`, in the order of the instruction set.
    #[inline(always)]
    pub(super) fn part<V: Simd>(&self, v: V, ready: &Ready<V>, part: usize) -> V::Bytes {
        let found = ready.found[part / 2];
        if N <= V::MOST_BY_DIGITS {
            v.level(found, 3 * (part % 2), &self.levels, 8)
        } else {
            v.short_points(self, found, part % 2)
        }
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

pub(super) const fn repeated<const N: usize>(levels: &[u8; N]) -> [u8; 64] {
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
    /// Of books with at most so many points the digits are looked up, and parts are every fourth weight.
    const MOST_BY_DIGITS: usize;

    /// The 32 bytes of a register's first half as 16-bit numbers.
    fn widen_half(self, b: Self::Bytes) -> Self::Bytes;
    /// The 32-bit numbers with even places, then those with odd ones.
    fn even_odd(self, b: Self::Bytes) -> Self::Bytes;
    /// 32 numbers of 16 bits: number `i / 4` of those from `at`, of `EACH` bytes (1 or 2), times `times[i % 4]`, its upper bits cut off.
    fn fields<const EACH: usize>(self, unit: &[u8], at: usize, times: [u16; 4]) -> Self::Bytes;
    /// 256 more for those of 32 16-bit numbers below 256 whose bit is one.
    fn with_ninth_bits(self, numbers: Self::Bytes, bits: u32) -> Self::Bytes;

    /// `bytes[at .. at + 32]`, a bit for each weight.
    fn signs(self, bytes: &[u8], at: usize) -> Self::Signs;
    /// The first half of a register, or the second.
    fn half_as_signs(self, b: Self::Bytes, half: usize) -> Self::Signs;
    /// The low bytes of 32 16-bit numbers.
    fn low_bytes_as_signs(self, b: Self::Bytes) -> Self::Signs;
    /// Two's complement of those of the 64 bytes of part `part`, weights `64 part ..`, whose bit is one.
    fn negate(self, signs: Self::Signs, part: usize, b: Self::Bytes) -> Self::Bytes;
    /// The same where parts are every fourth weight.
    fn negate_fourths(self, signs: Self::Signs, part: usize, b: Self::Bytes) -> Self::Bytes;

    /// What [`Books::points`] or [`Books::level`] needs of 32 points, given as 16-bit numbers below `N`: the numbers, or the points' digits.
    fn find<const N: usize>(self, book: &Eights<N>, points: Self::Bytes) -> Self::Bytes;
    /// Eight weights each of the points `8 * part ..` that were found.
    fn points<const N: usize>(self, book: &Eights<N>, found: Self::Bytes, part: usize) -> Self::Bytes;
    /// As [`Books::find`] for 64 points: the numbers, or the lower bytes of the points' digits, then the upper bytes.
    fn find_short<const N: usize>(self, book: &Fours<N>, points: [Self::Bytes; 2]) -> [Self::Bytes; 2];
    /// The same of points whose numbers are bytes of the unit: four neighbours from `at`, and four from `at + 8`.
    fn points_at(self, book: &Eights<256>, unit: &[u8], at: usize) -> Self::Bytes;
    /// Four weights each of the points whose numbers are 16 bytes of the unit.
    fn short_points_at(self, book: &Fours<256>, unit: &[u8], at: usize) -> Self::Bytes;
    /// Four weights each of the points `16 * half ..` that were found.
    fn short_points<const N: usize>(self, book: &Fours<N>, found: Self::Bytes, half: usize) -> Self::Bytes;
    /// For each byte the level of the digit that begins at bit `from`; there are `levels` (4 or 8) of them, and no digit reaches into the next byte.
    fn level(self, digits: Self::Bytes, from: usize, by_digit: &[u8; 64], levels: u8) -> Self::Bytes;

    /// Four parts of every fourth weight as parts of neighbours.
    fn interleave(self, fourths: [Self::Bytes; 4]) -> [Self::Bytes; 4];
    /// Tells the compiler to work these signs out before what is read later.
    #[inline(always)]
    fn signs_in_turn(self, _: Self::Signs, _: Self::Signs) {}
    /// 16 numbers of four bits, those of a byte next to each other.
    fn nibbles(self, bytes: &[u8; 8]) -> Self::Floats;
    /// Lanes 0, 0, 1, 1, ... 7, 7.
    fn twice(self, x: Self::Floats) -> Self::Floats;
}
