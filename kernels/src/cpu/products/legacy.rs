//! The first formats: blocks of 32 weights with one half-precision scale, and a number added in the `_1` ones. A unit is
//! eight blocks.

use super::simd::{Simd, array};
use super::{Codes, Ready};

/// 4-bit codes of two blocks: `j` and `j + 16` share a byte.
#[inline(always)]
pub(super) fn nibbles<V: Simd>(v: V, unit: &[u8], a: usize, b: usize) -> V::Bytes {
    v.and(v.shift([0, 4, 0, 4], v.quads(unit, a, b)), 15)
}

/// The same, upper halves of bytes times 16.
#[inline(always)]
fn raw_nibbles<V: Simd>(v: V, unit: &[u8], a: usize, b: usize) -> V::Bytes {
    v.and_quarters(v.quads(unit, a, b), [15, 240, 15, 240])
}

/// Bits of two words, moved to bit 4 of 64 codes.
#[inline(always)]
fn fifth_bits<V: Simd>(v: V, unit: &[u8], a: usize, b: usize) -> V::Bytes {
    let word = |at: usize| u64::from(u32::from_le_bytes(*array(unit, at)));
    v.where_set(word(a) | word(b) << 32, 16)
}

pub(super) struct Q8_0;

impl Codes for Q8_0 {
    const BYTES: usize = 8 * 34;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        v.xor(v.blocks(unit, 34, 2, part), 0x80)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves(unit, 34, 0), v.splat(0.0))
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves_of_two(a, b, 34, 0), v.splat(0.0))
    }
}

pub(super) struct Q4_0;

impl Codes for Q4_0 {
    const BYTES: usize = 8 * 18;
    const GROUP: usize = 32;
    const TIMES: [u8; 4] = [1, 16, 1, 16];
    const OFFSET: u8 = 8;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        nibbles(v, unit, 36 * part + 2, 36 * part + 20)
    }

    #[inline(always)]
    fn multiples<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        raw_nibbles(v, unit, 36 * part + 2, 36 * part + 20)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves(unit, 18, 0), v.splat(0.0))
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves_of_two(a, b, 18, 0), v.splat(0.0))
    }
}

pub(super) struct Q4_1;

impl Codes for Q4_1 {
    const BYTES: usize = 8 * 20;
    const GROUP: usize = 32;
    const TIMES: [u8; 4] = [1, 16, 1, 16];
    const PLUS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        nibbles(v, unit, 40 * part + 4, 40 * part + 24)
    }

    #[inline(always)]
    fn multiples<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        raw_nibbles(v, unit, 40 * part + 4, 40 * part + 24)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves(unit, 20, 0), v.strided_halves(unit, 20, 2))
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves_of_two(a, b, 20, 0), v.strided_halves_of_two(a, b, 20, 2))
    }
}

pub(super) struct Q5_0;

impl Codes for Q5_0 {
    const BYTES: usize = 8 * 22;
    const GROUP: usize = 32;
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        let at = 44 * part;
        v.or(nibbles(v, unit, at + 6, at + 28), fifth_bits(v, unit, at + 2, at + 24))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves(unit, 22, 0), v.splat(0.0))
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves_of_two(a, b, 22, 0), v.splat(0.0))
    }
}

pub(super) struct Q5_1;

impl Codes for Q5_1 {
    const BYTES: usize = 8 * 24;
    const GROUP: usize = 32;
    const PLUS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        let at = 48 * part;
        v.or(nibbles(v, unit, at + 8, at + 32), fifth_bits(v, unit, at + 4, at + 28))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves(unit, 24, 0), v.strided_halves(unit, 24, 2))
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves_of_two(a, b, 24, 0), v.strided_halves_of_two(a, b, 24, 2))
    }
}
