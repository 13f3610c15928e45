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

mod bytes;
mod floats;
mod sums;

pub(super) use bytes::ByteLanes;
pub(super) use floats::FloatLanes;
pub(super) use sums::IntegerSums;

/// Tables at the start of a cache line: loads of 64 bytes that reach into two lines take twice as long.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
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
    /// Floats for [`FloatLanes::spread`].
    type Scales: Copy;
    /// 256 bits: which weights of a unit are negative.
    type Signs: Copy;
}

/// One instruction set. A value proves that it may be used.
pub(super) trait Simd: ByteLanes + IntegerSums + FloatLanes + Books + Permutes {
    /// Runs a kernel with these instructions enabled.
    fn enter<K: Kernel>(self, kernel: K);

    /// The product of a packed tile with many tokens, in the shape that suits the registers; see [`super::tile`].
    fn tile<const GROUP: usize, const PLUS: bool, const BITS: u32>(self, tile: &Tile, work: Work<'_>);

    /// Whether [`IntegerSums::dot`] takes codes of eight bits, with `eight` and without.
    const WHOLE_BYTES: bool;

    /// Whether a register is two smaller ones, so that nothing is gained where two units are decoded together.
    const IN_PAIRS: bool = false;

    /// `to[places[j / 4] + j % 4][16 * half + r] = from[r][j]` for the columns that `to` has, a multiple of four.
    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], places: [usize; 4], half: usize);
}

/// `bytes[at .. at + N]`.
#[inline(always)]
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("formats read inside their unit")
}
