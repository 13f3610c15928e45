//! IQ3_XXS and IQ3_S: codebooks of four magnitudes; signs lie apart.
//!
//! The points are those of the scalar reference, with the numbers that their digits stand for.

use super::books::Fours;
use super::digits::{EVEN, bits, eight_scales, even_signs, upper_scales};
use super::k_quants::half;
use super::simd::{Lines, Simd, array};
use super::{Codes, Ready};
use qconv_formats::block::codebook_tables::{IQ3_S, IQ3_XXS};

pub(super) struct Xxs;

static OF_XXS: Fours<{ IQ3_XXS.len() }> = Fours::new(&IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);

impl Codes for Xxs {
    const BYTES: usize = 98;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;
    const BOOK: usize = IQ3_XXS.len();

    /// 64 numbers of a byte, then eight times four times seven signs and four bits of a scale.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        Ready {
            signs: v.half_as_signs(even_signs(v, v.pair(unit, 66, 66)), 0),
            found: v.find_short(&OF_XXS, [v.widen(unit, 2), v.widen(unit, 34)]),
        }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        [permuted_xxs(v, a), permuted_xxs(v, b)]
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        if Self::BOOK > V::MOST_BY_DIGITS {
            return v.short_points_at(&OF_XXS, unit, 2 + 16 * part);
        }
        OF_XXS.part(v, ready, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (upper_scales(v, v.pair(unit, 66, 66), half(v, unit, 0), 0.5), v.splat(0.0))
    }
}

/// One unit.
#[inline(always)]
fn permuted_xxs<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
    static SEVENS: Lines<[u8; 64]> = Lines(bits(0, 7, 4));
    let signs = v.by_seven_bits(&EVEN, v.bits_from(v.window(unit, 34), &SEVENS));
    let low = v.window(unit, 2);
    Ready { signs: v.half_as_signs(signs, 1), found: v.entries(&OF_XXS.halves, low, low) }
}

pub(super) struct S;

static OF_S: Fours<{ IQ3_S.len() }> = Fours::new(&IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);

impl Codes for S {
    const BYTES: usize = 110;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;
    const BOOK: usize = IQ3_S.len();

    /// The ninth bits of all numbers lie apart.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let high = u64::from_le_bytes(*array(unit, 66));
        let first = v.with_ninth_bits(v.widen(unit, 2), high as u32);
        let second = v.with_ninth_bits(v.widen(unit, 34), (high >> 32) as u32);
        Ready { signs: v.signs(unit, 74), found: v.find_short(&OF_S, [first, second]) }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        [permuted_s(v, a), permuted_s(v, b)]
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        OF_S.part(v, ready, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (eight_scales(v, unit, 106, half(v, unit, 0), 2.0, 1.0), v.splat(0.0))
    }
}

/// One unit.
#[inline(always)]
fn permuted_s<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
    let high = v.where_set(u64::from_le_bytes(*array(unit, 66)), 1);
    Ready { signs: v.signs(unit, 74), found: v.entries(&OF_S.halves, v.window(unit, 2), high) }
}
