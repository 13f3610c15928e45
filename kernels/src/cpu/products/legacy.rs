//! The first formats: blocks of 32 weights with one half-precision scale, and a number added in the `_1` ones. A unit is
//! eight blocks.

use super::simd::{Simd, array};
use super::{Codes, Order, Ready};

/// Where half `part % 2` of four blocks begins, of which the first begins at `at`: blocks `part / 2 * 4 ..` of a unit.
const fn four(block: usize, at: usize, part: usize) -> [usize; 4] {
    let first = part / 2 * 4 * block + at;
    [first, first + block, first + 2 * block, first + 3 * block]
}

/// 4-bit codes of four blocks, [`Order::Halves`]: `j` and `j + 16` share a byte.
#[inline(always)]
pub(super) fn nibbles<V: Simd>(v: V, unit: &[u8], block: usize, at: usize, part: usize) -> V::Bytes {
    let both = v.quarters(unit, four(block, at, part));
    v.and(if part.is_multiple_of(2) { both } else { v.words_right::<4>(both) }, 15)
}

/// 5-bit codes of two blocks as they lie: nibbles, and 32 bits that are moved to bit 4. (In halves, fifth bits of four blocks are put together
/// from 16 bits each: Q5_0 took a quarter longer.)
#[inline(always)]
fn five_bits<V: Simd>(v: V, unit: &[u8], block: usize, [nibbles, bits]: [usize; 2], part: usize) -> V::Bytes {
    let (a, b) = (2 * part * block, (2 * part + 1) * block);
    let word = |at: usize| u64::from(u32::from_le_bytes(*array(unit, at)));
    let four = v.shift([0, 4, 0, 4], v.quarters(unit, [a + nibbles, a + nibbles, b + nibbles, b + nibbles]));
    v.or(v.and(four, 15), v.where_set(word(a + bits) | word(b + bits) << 32, 16))
}

/// `APART`: codes by a load for each block. With permutations, which are three operations on Intel's CPUs, one thread reads 13.0 to 13.2 GB/s there, and
/// 13.4 to 13.7 so; elsewhere that was not measured.
pub(super) struct Q8_0<const APART: bool>;

impl<const APART: bool> Codes for Q8_0<APART> {
    const BYTES: usize = 8 * 34;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        let codes = if APART { v.blocks_apart(unit, 34, 2, part) } else { v.blocks(unit, 34, 2, part) };
        v.xor(codes, 0x80)
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
    const ORDER: Order = Order::Halves;
    const OFFSET: u8 = 8;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        nibbles(v, unit, 18, 2, part)
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
    const ORDER: Order = Order::Halves;
    const PLUS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        nibbles(v, unit, 20, 4, part)
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
        five_bits(v, unit, 22, [6, 2], part)
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
        five_bits(v, unit, 24, [8, 4], part)
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
