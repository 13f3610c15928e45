//! What the products need of an instruction set: a register of 64 bytes, 16 integers or 16 floats.
//!
//! The algorithms are written once against [`Simd`]; an instance ([`Wide`](super::avx512::Wide) registers with AVX-512,
//! [`Pairs`](super::avx2::Pairs) of registers with AVX2, the scalar twin with arrays) only names instructions. All of
//! them see the same numbers in the same lanes, so integer sums are equal everywhere, and floats differ only where one
//! fuses multiplication and addition.

use super::books::Books;
use super::permutes::Permutes;
use super::tile::{Tile, Work};
use std::ops::Deref;

/// Tables at the start of a cache line: loads of 64 bytes that reach into two lines take twice as long.
#[repr(C, align(64))]
pub(super) struct Lines<T>(pub(super) T);

impl<T> Deref for Lines<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A computation that is compiled once for each instruction set.
pub(super) trait Kernel {
    /// Must be `#[inline(always)]`, as everything that it calls: it becomes part of a function with the instructions.
    fn run<V: Simd>(self, v: V);
}

/// Registers of an instruction set.
pub(super) trait Registers: Copy {
    /// 64 bytes.
    type Bytes: Copy;
    /// 16 integers.
    type Ints: Copy;
    /// 16 floats.
    type Floats: Copy;
    /// Floats for [`Simd::spread`].
    type Scales: Copy;
    /// 256 bits: which weights of a unit are negative.
    type Signs: Copy;
}

/// One instruction set. A value proves that it may be used.
pub(super) trait Simd: Books + Permutes {
    /// Runs a kernel with these instructions enabled.
    fn enter<K: Kernel>(self, kernel: K);

    /// The product of a packed tile with many tokens, in the shape that suits the registers; see [`super::tile`].
    fn tile<const GROUP: usize, const PLUS: bool, const EIGHT: bool>(self, tile: &Tile, work: Work<'_>);

    /// Whether [`Simd::dot`] takes codes of eight bits, with `eight` and without.
    const WHOLE_BYTES: bool;

    /// Whether a register is two smaller ones, so that nothing is gained where two units are decoded together.
    const IN_PAIRS: bool = false;

    // Bytes. Slices are indexed by constants after inlining, so that the checks disappear.

    /// `bytes[at .. at + 64]`.
    fn load(self, bytes: &[u8], at: usize) -> Self::Bytes;
    /// `bytes[a .. a + 32]`, then `bytes[b .. b + 32]`.
    fn pair(self, bytes: &[u8], a: usize, b: usize) -> Self::Bytes;
    /// `bytes[a .. a + 16]` twice, then `bytes[b .. b + 16]` twice.
    fn quads(self, bytes: &[u8], a: usize, b: usize) -> Self::Bytes;
    /// The 32 bytes at `at` of blocks `2 * part` and the next, of `block` bytes, which make up the unit; `block` and `at` are even.
    #[inline(always)]
    fn blocks(self, unit: &[u8], block: usize, at: usize, part: usize) -> Self::Bytes {
        self.pair(unit, 2 * part * block + at, (2 * part + 1) * block + at)
    }
    /// The first 16 bytes of `a` twice, then those of `b` twice.
    fn heads(self, a: &[u8], b: &[u8]) -> Self::Bytes;
    /// For each byte the one of its 16 that the table says, or 0 for 0x80.
    fn pick(self, b: Self::Bytes, table: &[u8; 64]) -> Self::Bytes;
    /// `b & mask` in each byte, with a mask for each quarter.
    fn and_quarters(self, b: Self::Bytes, masks: [u8; 4]) -> Self::Bytes;
    /// `b & mask`.
    fn and_all(self, b: Self::Bytes, mask: &[u8; 64]) -> Self::Bytes;
    /// Eight little-endian words.
    fn words(self, words: [u64; 8]) -> Self::Bytes;
    /// `bytes[at .. at + 16]` for four places.
    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> Self::Bytes;
    /// 32 bytes from `at` on: of each eight the lower halves, then the upper ones.
    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> Self::Bytes;
    /// 32 bytes as 16-bit numbers.
    fn widen(self, bytes: &[u8], at: usize) -> Self::Bytes;
    /// `value` where the mask has a one, 0 elsewhere.
    fn where_set(self, mask: u64, value: u8) -> Self::Bytes;
    /// 16 bytes each shifted right by a count of their own, as 32-bit numbers: only bits that a mask then keeps count.
    fn shift(self, counts: [u32; 4], b: Self::Bytes) -> Self::Bytes;
    /// The same to the left.
    fn shift_up(self, counts: [u32; 4], b: Self::Bytes) -> Self::Bytes;
    /// Shifted left as 32-bit numbers.
    fn words_left<const N: u32>(self, b: Self::Bytes) -> Self::Bytes;
    /// Shifted right as 32-bit numbers.
    fn words_right<const N: u32>(self, b: Self::Bytes) -> Self::Bytes;
    /// `b & mask` in each 32-bit number.
    fn and_words(self, b: Self::Bytes, mask: u32) -> Self::Bytes;
    /// `a ^ b`.
    fn xor_all(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `b & mask` in each byte.
    fn and(self, b: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `b ^ mask` in each byte.
    fn xor(self, b: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `b + value` in each byte, wrapping.
    fn add(self, b: Self::Bytes, value: u8) -> Self::Bytes;
    /// `a * b` in each byte, wrapping.
    fn multiply_bytes(self, a: Self::Bytes, b: &[u8; 64]) -> Self::Bytes;
    /// How many of both numbers each byte reaches.
    fn reached(self, b: Self::Bytes, low: u8, high: u8) -> Self::Bytes;
    /// `a + b` in each byte, wrapping.
    fn add_all(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a | b`.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `table[b]` for each byte; bytes are below 16.
    fn lookup(self, table: &[u8; 16], b: Self::Bytes) -> Self::Bytes;
    /// From memory, as little-endian words.
    fn load_words(self, from: &[u32; 16]) -> Self::Bytes;
    /// To memory, as little-endian words.
    fn store(self, b: Self::Bytes, to: &mut [u32; 16]);

    // Integer sums.

    /// What a sum of `(code - offset) * x` starts with so that codes need not be shifted: `offset`, a power of two or 0 for
    /// each quarter of the register, times minus the sums of four neighbours of `x`.
    fn start(self, eight: bool, offset: [u8; 4], minus_fours: &[i32; 16]) -> Self::Ints;
    /// `sum + codes . x` in groups of four neighbours. With `eight`, codes have eight bits and stand for `code - 128`;
    /// whether that is taken care of here or in [`Simd::start`] is the instance's choice. Otherwise codes are below 128.
    fn dot(self, eight: bool, sum: Self::Ints, codes: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// As [`Simd::start`] for one token and 16 rows, from minus the sum of a group of activations. 32 stands for no offset.
    fn start_group(self, eight: bool, offset_log2: u32, minus_sum: i32) -> Self::Ints;
    /// As [`Simd::dot`] for codes as [`Simd::stored`] left them and the same four activations in all lanes.
    fn dot_four(self, eight: bool, sum: Self::Ints, codes: Self::Bytes, x: [u8; 4]) -> Self::Ints;
    /// Codes as [`Simd::dot_four`] wants them.
    fn stored(self, eight: bool, codes: Self::Bytes) -> Self::Bytes;
    /// As floats.
    fn to_floats(self, i: Self::Ints) -> Self::Floats;
    /// Sixteen 32-bit numbers as floats.
    fn words_to_floats(self, b: Self::Bytes) -> Self::Floats;
    /// Lanes 1, 3, .. 15, then zeros.
    fn odd(self, x: Self::Floats) -> Self::Floats;

    /// To memory.
    fn store_ints(self, i: Self::Ints, to: &mut [i32; 16]);

    // Floats.

    /// The same number everywhere.
    fn splat(self, x: f32) -> Self::Floats;
    /// From memory.
    fn floats(self, x: &[f32; 16]) -> Self::Floats;
    /// From memory, given as bits.
    fn float_bits(self, x: &[u32; 16]) -> Self::Floats;
    /// Eight from memory, then zeros.
    fn eight(self, x: &[f32; 8]) -> Self::Floats;
    /// Eight from memory, then eight others.
    fn eights(self, a: &[f32; 8], b: &[f32; 8]) -> Self::Floats;
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
    /// A half-precision number in eight lanes, another in the others.
    fn two_halves(self, a: u16, b: u16) -> Self::Floats;
    /// Small integers.
    fn unsigned(self, x: [u8; 16]) -> Self::Floats;
    /// Small integers.
    fn signed(self, x: [u8; 16]) -> Self::Floats;
    /// `a + b`.
    fn add_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// For [`Simd::spread`]. What is put must not be moved: see the instance for AVX2.
    fn put_scales(self, x: Self::Floats, to: &mut Self::Scales);
    /// What is put over.
    fn no_scales(self) -> Self::Scales;
    /// The scales of groups (the lanes of `x`: those of 16 in one unit, or of 32 in two) for the integer sums of part `part`
    /// of the units: lane `i` is the scale of the group that codes `64 * part + 4 * i ..` belong to.
    fn spread(self, group: usize, part: usize, x: &Self::Scales) -> Self::Floats;
    /// Sum of all lanes.
    fn sum(self, x: Self::Floats) -> f32;

    // Memory.

    /// `to[j][16 * half + r] = from[r][j]` for the columns `j` that `to` has.
    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], half: usize);
    /// Asks for the cache line at `bytes[at]`, which need not exist.
    fn prefetch(self, bytes: &[u8], at: usize);
}

/// `bytes[at .. at + N]`.
#[inline(always)]
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("formats read inside their unit")
}
