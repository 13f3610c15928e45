//! Codebooks of groups: IQ1, IQ2, IQ3. Eight (or four) weights share a code, which is looked up; signs lie apart.
//!
//! The points are those of the scalar reference, with the numbers that their digits stand for.

use super::books::{Eights, Fours};
use super::k_quants::half;
use super::simd::{Simd, array};
use super::{Codes, Ready, permuted};
use qconv_formats::block::codebook_tables as tables;

static IQ2_XXS: Eights<256> = Eights::new(&tables::IQ2_XXS, [8, 25, 43, 0]);
static IQ2_XS: Eights<512> = Eights::new(&tables::IQ2_XS, [8, 25, 43, 0]);
static IQ2_S: Eights<1024> = Eights::new(&tables::IQ2_S, [8, 25, 43, 0]);
static IQ3_XXS: Fours<256> = Fours::new(&tables::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
static IQ3_S: Fours<512> = Fours::new(&tables::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// Digits -1, 0, 1, plus 1.
static IQ1: Eights<2048> = Eights::new(&tables::IQ1, [0, 1, 2, 0]);

/// Where each 32-bit number holds four times seven signs, of which an even number is negative: four times eight signs.
#[inline(always)]
fn even_signs<V: Simd>(v: V, words: V::Bytes) -> V::Bytes {
    let pairs = v.or(v.and_words(words, 0x3fff), v.and_words(v.words_left::<2>(words), 0x3fff_0000));
    let seven = v.or(v.and_words(pairs, 0x007f_007f), v.and_words(v.words_left::<1>(pairs), 0x7f00_7f00));
    all_signs(v, seven)
}

/// Adds to each seven signs the eighth that makes their number even.
#[inline(always)]
fn all_signs<V: Simd>(v: V, seven: V::Bytes) -> V::Bytes {
    let both_halves = v.and(v.xor_all(seven, v.words_right::<4>(seven)), 15);
    v.or(seven, v.lookup(&ODD, both_halves))
}

/// The uppermost bit where the number of bits is odd.
static ODD: [u8; 16] = {
    let mut odd = [0; 16];
    let mut i = 0;
    while i < 16 {
        odd[i] = (i.count_ones() % 2 * 128) as u8;
        i += 1;
    }
    odd
};

/// Codes of formats with signs: magnitudes as the signs say, plus 64.
#[inline(always)]
fn with_signs<V: Simd>(v: V, ready: &Ready<V>, part: usize, magnitudes: V::Bytes) -> V::Bytes {
    v.add(v.negate(ready.signs, part, magnitudes), 64)
}

/// Eight nibbles as bytes.
#[inline(always)]
pub(super) fn nibbles_to_bytes(nibbles: u32) -> u64 {
    let x = u64::from(nibbles);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// Each number of 64 bits holds four fields, `DISTANCE` apart (2, 3 or 4): they become the upper bytes of its numbers of
/// 16 bits, as far as `mask` says.
#[inline(always)]
fn upper_bytes<V: Simd, const DISTANCE: u32>(v: V, longs: V::Bytes, mask: u64) -> V::Bytes {
    let (pairs, ones) = match DISTANCE {
        2 => (v.or(longs, v.longs_left::<28>(longs)), 0xf),
        3 => (v.or(longs, v.longs_left::<26>(longs)), 0x3f),
        _ => (v.or(longs, v.longs_left::<24>(longs)), 0xff),
    };
    let pairs = v.and_longs(pairs, ones | ones << 32);
    let fours = match DISTANCE {
        2 => v.longs_left::<14>(pairs),
        3 => v.longs_left::<13>(pairs),
        _ => v.longs_left::<12>(pairs),
    };
    v.longs_left::<8>(v.and_longs(v.or(pairs, fours), mask * 0x0001_0001_0001_0001))
}

/// Eight numbers of 16 bits, each in a number of 64.
#[inline(always)]
fn eight_words<V: Simd>(v: V, unit: &[u8], at: usize) -> V::Bytes {
    let word = |i: usize| u64::from(u16::from_le_bytes(*array(unit, at + 2 * i)));
    v.words([word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)])
}

#[inline(always)]
fn word(unit: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*array(unit, at))
}

/// `d * (bits + 0.5) / 4` for sixteen scales of four bits.
#[inline(always)]
fn sixteen_scales<V: Simd>(v: V, unit: &[u8], at: usize, d: V::Floats) -> V::Floats {
    let (low, high) = (nibbles_to_bytes(word(unit, at)), nibbles_to_bytes(word(unit, at + 4)));
    let bytes = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    v.mul(v.fma(v.unsigned(bytes), v.splat(0.25), v.splat(0.125)), d)
}

/// `d * factor * (bits + 0.5)` for scales in the upper four bits of 32-bit numbers; the factor is a power of two.
#[inline(always)]
fn upper_scales<V: Simd>(v: V, words: V::Bytes, d: V::Floats, factor: f32) -> V::Floats {
    let bits = v.words_to_floats(v.words_right::<28>(words));
    v.mul(v.fma(bits, v.splat(factor), v.splat(0.5 * factor)), d)
}

pub(super) struct Iq2Xxs;

impl Codes for Iq2Xxs {
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;

    /// A group is four points, then their signs and the scale.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let groups = v.even_odd(v.load(unit, 2));
        let points = v.widen_half(groups);
        Ready { signs: v.half_as_signs(even_signs(v, groups), 1), found: [v.find(&IQ2_XXS, points); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        permuted::iq2_xxs(v, &IQ2_XXS, a, b)
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        with_signs(v, ready, part, Self::magnitudes(v, unit, ready, part))
    }

    #[inline(always)]
    fn magnitudes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        v.points(&IQ2_XXS, ready.found[0], part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.odd(upper_scales(v, v.load(unit, 2), half(v, unit, 0), 0.25)), v.splat(0.0))
    }
}

pub(super) struct Iq2Xs;

impl Codes for Iq2Xs {
    const BYTES: usize = 74;
    const GROUP: usize = 16;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;

    /// Nine bits for a point, seven for its signs.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let both = v.load(unit, 2);
        let seven = v.and_words(v.words_right::<9>(both), 0x007f_007f);
        let points = v.and_words(both, 0x01ff_01ff);
        Ready { signs: v.low_bytes_as_signs(all_signs(v, seven)), found: [v.find(&IQ2_XS, points); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        permuted::iq2_xs(v, &IQ2_XS, a, b)
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        with_signs(v, ready, part, Self::magnitudes(v, unit, ready, part))
    }

    #[inline(always)]
    fn magnitudes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        v.points(&IQ2_XS, ready.found[0], part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (sixteen_scales(v, unit, 66, half(v, unit, 0)), v.splat(0.0))
    }
}

pub(super) struct Iq2S;

impl Codes for Iq2S {
    const BYTES: usize = 82;
    const GROUP: usize = 16;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;

    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let high: &[u8; 8] = array(unit, 66);
        let long = |i: usize| u64::from(high[i]);
        let high = v.words([long(0), long(1), long(2), long(3), long(4), long(5), long(6), long(7)]);
        let points = v.or(v.widen(unit, 2), upper_bytes::<V, 2>(v, high, 3));
        Ready { signs: v.signs(unit, 34), found: [v.find(&IQ2_S, points); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        permuted::iq2_s(v, &IQ2_S, a, b)
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        with_signs(v, ready, part, Self::magnitudes(v, unit, ready, part))
    }

    #[inline(always)]
    fn magnitudes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        v.points(&IQ2_S, ready.found[0], part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (sixteen_scales(v, unit, 74, half(v, unit, 0)), v.splat(0.0))
    }
}

pub(super) struct Iq3Xxs;

impl Codes for Iq3Xxs {
    const BYTES: usize = 98;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;

    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        Ready {
            signs: v.half_as_signs(even_signs(v, v.pair(unit, 66, 66)), 0),
            found: [v.find_short(&IQ3_XXS, v.widen(unit, 2)), v.find_short(&IQ3_XXS, v.widen(unit, 34))],
        }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        [permuted::iq3_xxs(v, &IQ3_XXS, a), permuted::iq3_xxs(v, &IQ3_XXS, b)]
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        with_signs(v, ready, part, Self::magnitudes(v, unit, ready, part))
    }

    #[inline(always)]
    fn magnitudes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        v.short_points(&IQ3_XXS, ready.found[part / 2], part % 2)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (upper_scales(v, v.pair(unit, 66, 66), half(v, unit, 0), 0.5), v.splat(0.0))
    }
}

pub(super) struct Iq3S;

impl Codes for Iq3S {
    const BYTES: usize = 110;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;
    const SIGNS: bool = true;

    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        // The ninth bits lie apart: a bit of these masks for the second byte of each number.
        let high = u64::from_le_bytes(*array(unit, 66));
        let [first, second] = [second_bytes(high as u32), second_bytes((high >> 32) as u32)];
        let first = v.or(v.widen(unit, 2), v.where_set(first, 1));
        let second = v.or(v.widen(unit, 34), v.where_set(second, 1));
        Ready { signs: v.signs(unit, 74), found: [v.find_short(&IQ3_S, first), v.find_short(&IQ3_S, second)] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        [permuted::iq3_s(v, &IQ3_S, a), permuted::iq3_s(v, &IQ3_S, b)]
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        with_signs(v, ready, part, Self::magnitudes(v, unit, ready, part))
    }

    #[inline(always)]
    fn magnitudes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        v.short_points(&IQ3_S, ready.found[part / 2], part % 2)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let bits = u128::from(nibbles_to_bytes(word(unit, 106))).to_le_bytes();
        let d = half(v, unit, 0);
        (v.mul(v.fma(v.unsigned(bits), v.splat(2.0), v.splat(1.0)), d), v.splat(0.0))
    }
}

/// Bit `i` to bit `2 * i + 1`.
#[inline(always)]
fn second_bytes(bits: u32) -> u64 {
    let x = u64::from(bits);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let x = (x | x << 2) & 0x3333_3333_3333_3333;
    ((x | x << 1) & 0x5555_5555_5555_5555) << 1
}

pub(super) struct Iq1S;

impl Codes for Iq1S {
    const BYTES: usize = 50;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;
    /// A group is shifted up or down by an eighth.
    const PLUS: bool = true;

    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let points = v.or(v.widen(unit, 2), upper_bytes::<V, 3>(v, eight_words(v, unit, 34), 7));
        Ready { found: [v.find(&IQ1, points); 2], ..Ready::nothing(v) }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        permuted::iq1_s(v, &IQ1, a, b)
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        v.points(&IQ1, ready.found[0], part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let bits = u128::from_le_bytes(*array(unit, 34));
        let (scales, down) = (every_second_byte(bits >> 12 & EIGHT_SEVENS), every_second_byte(bits >> 15 & EIGHT_ONES));
        let d = half(v, unit, 0);
        let scale = v.mul(v.unsigned(u128::from(2 * scales + BYTE_ONES).to_le_bytes()), d);
        // Lanes behind the eighth meet sums that are zeros.
        let shift = v.fma(v.unsigned(u128::from(down).to_le_bytes()), v.splat(-0.25), v.splat(0.125));
        (scale, v.mul(scale, shift))
    }
}

/// A byte of ones; of the numbers of 16 bits in 128.
const BYTE_ONES: u64 = 0x0101_0101_0101_0101;
const EIGHT_ONES: u128 = 0x0001_0001_0001_0001_0001_0001_0001_0001;
const EIGHT_SEVENS: u128 = 7 * EIGHT_ONES;

/// Eight small numbers of 16 bits as bytes.
#[inline(always)]
fn every_second_byte(x: u128) -> u64 {
    let four = |x: u64| {
        let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
        (x | x >> 16) & 0xffff_ffff
    };
    four(x as u64) | four((x >> 64) as u64) << 32
}

/// Four numbers of three bits in each half of a word, as bytes.
#[inline(always)]
fn threes_to_bytes(word: u32) -> u64 {
    let x = u64::from(word);
    let x = (x | x << 16) & 0x0000_0fff_0000_0fff;
    let x = (x | x << 10) & 0x003f_003f_003f_003f;
    (x | x << 5) & 0x0707_0707_0707_0707
}

pub(super) struct Iq1M;

impl Codes for Iq1M {
    const BYTES: usize = 56;
    const GROUP: usize = 16;
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let bits = eight_words(v, unit, 32);
        let points = v.or(v.widen(unit, 0), upper_bytes::<V, 4>(v, bits, 7));
        // The fourth bit of a point: eight weights are shifted down, not up.
        let down = v.words_right::<11>(upper_bytes::<V, 4>(v, bits, 8));
        let eight_times = v.add(v.xor(down, 0xff), 1); // 0 or 0xff
        Ready { signs: v.low_bytes_as_signs(eight_times), found: [v.find(&IQ1, points); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        permuted::iq1_m(v, &IQ1, a, b)
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        // Digits in eighths, and each point an eighth up or down.
        let points = v.words_left::<3>(v.points(&IQ1, ready.found[0], part));
        v.add_all(v.add(points, 8), v.negate(ready.signs, part, v.where_set(!0, 1)))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let words = u64::from_le_bytes(*array(unit, 48));
        let scales =
            u128::from(threes_to_bytes(words as u32)) | u128::from(threes_to_bytes((words >> 32) as u32)) << 64;
        let scales = v.fma(v.unsigned(scales.to_le_bytes()), v.splat(0.25), v.splat(0.125)); // (2 bits + 1) / 8
        // A quarter of the half-precision number lies in the upper four bits of each word.
        let d = words >> 12 & 15 | words >> 24 & 0xf0 | words >> 36 & 0xf00 | words >> 48 & 0xf000;
        (v.mul(scales, v.half(d as u16)), v.splat(0.0))
    }
}
