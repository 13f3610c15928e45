//! IQ2_XXS, IQ2_XS and IQ2_S: codebooks of eight magnitudes; signs lie apart.
//!
//! The points are those of the scalar reference, with the numbers that their digits stand for.

use super::books::Eights;
use super::digits::{
    EVEN, all_signs, bits, even_signs, found, longs, places, sixteen_scales, upper_scales, with_signs,
};
use super::k_quants::half;
use super::simd::{Lines, Simd};
use super::{Codes, Ready};
use qconv_formats::block::codebook_tables::{IQ2_S, IQ2_XS, IQ2_XXS};

const LEVELS: [u8; 4] = [8, 25, 43, 0];

pub(super) struct Xxs;

static OF_XXS: Eights<{ IQ2_XXS.len() }> = Eights::new(&IQ2_XXS, LEVELS);

impl Codes for Xxs {
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;
    const BOOK: usize = IQ2_XXS.len();

    /// Eight times four points, then their signs and the scale.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let groups = v.even_odd(v.load(unit, 2));
        let points = v.widen_half(groups);
        Ready { signs: v.half_as_signs(even_signs(v, groups), 1), found: [v.find(&OF_XXS, points); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        static NUMBERS: Lines<[u8; 64]> = Lines(places::<4>(0, 8));
        static SEVENS: Lines<[u8; 64]> = Lines(bits(32, 7, 0));
        let (a, b) = (v.window(a, 2), v.window(b, 2));
        let low = v.bytes_from(a, b, &NUMBERS);
        let sevens = v.bytes_from(v.bits_from(a, &SEVENS), v.bits_from(b, &SEVENS), &NUMBERS);
        with_signs(found(v, &OF_XXS, low, low), v.signs_of_two(v.by_seven_bits(&EVEN, sevens)))
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        if Self::BOOK > V::MOST_BY_DIGITS {
            return v.points_at(&OF_XXS, unit, 2 + 16 * part);
        }
        OF_XXS.part(v, ready, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.odd(upper_scales(v, v.load(unit, 2), half(v, unit, 0), 0.25)), v.splat(0.0))
    }
}

pub(super) struct Xs;

static OF_XS: Eights<{ IQ2_XS.len() }> = Eights::new(&IQ2_XS, LEVELS);

impl Codes for Xs {
    const BYTES: usize = 74;
    const GROUP: usize = 16;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;
    const BOOK: usize = IQ2_XS.len();

    /// Nine bits for a point, seven for its signs.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let both = v.load(unit, 2);
        let seven = v.and_words(v.words_right::<9>(both), 0x007f_007f);
        let points = v.and_words(both, 0x01ff_01ff);
        Ready { signs: v.low_bytes_as_signs(all_signs(v, seven)), found: [v.find(&OF_XS, points); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        static LOW: Lines<[u8; 64]> = Lines(places::<1>(0, 2));
        static HIGH: Lines<[u8; 64]> = Lines(places::<1>(1, 2));
        let (a, b) = (v.window(a, 2), v.window(b, 2));
        let high = v.bytes_from(a, b, &HIGH);
        let signs = v.signs_of_two(v.by_seven_bits(&EVEN, v.words_right::<1>(high)));
        with_signs(found(v, &OF_XS, v.bytes_from(a, b, &LOW), high), signs)
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        OF_XS.part(v, ready, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (sixteen_scales(v, unit, 66, half(v, unit, 0)), v.splat(0.0))
    }
}

pub(super) struct S;

static OF_S: Eights<{ IQ2_S.len() }> = Eights::new(&IQ2_S, LEVELS);

impl Codes for S {
    const BYTES: usize = 82;
    const GROUP: usize = 16;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;
    const BOOK: usize = IQ2_S.len();

    /// The upper two bits of four numbers share a byte of eight behind the signs.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let high = v.and_words(v.fields::<1>(unit, 66, [1 << 8, 1 << 6, 1 << 4, 1 << 2]), 0x0300_0300);
        let points = v.or(v.widen(unit, 2), high);
        Ready { signs: v.signs(unit, 34), found: [v.find(&OF_S, points); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        static LOW: Lines<[u8; 64]> = Lines(places::<1>(0, 1));
        static HIGH: Lines<[u8; 64]> = Lines(longs(48, 2));
        static TWOS: Lines<[u8; 64]> = Lines(bits(0, 2, 0));
        let low = v.bytes_from(v.window(a, 2), v.window(b, 2), &LOW);
        let high = v.bits_from(v.bytes_from(v.window(a, 18), v.window(b, 18), &HIGH), &TWOS);
        with_signs(found(v, &OF_S, low, high), [v.signs(a, 34), v.signs(b, 34)])
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        OF_S.part(v, ready, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (sixteen_scales(v, unit, 74, half(v, unit, 0)), v.splat(0.0))
    }
}
