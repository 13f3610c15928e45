//! IQ1_S and IQ1_M: codebooks of eight weights -1, 0, 1, which are shifted up or down by an eighth.

use super::books::Eights;
use super::digits::{bits, found, longs, places, with_signs};
use super::k_quants::half;
use super::simd::{Lines, Simd, array};
use super::{Codes, Ready};
use qconv_formats::block::codebook_tables::IQ1;

const POINTS: usize = IQ1.len();

/// Digits -1, 0, 1, plus 1.
static SHIFTED_BY_GROUP: Eights<POINTS> = Eights::new(&IQ1, [0, 1, 2, 0]);
/// The same in eighths.
static SHIFTED_BY_POINT: Eights<POINTS> = Eights::new(&IQ1, [8, 16, 24, 0]);

pub(super) struct S;

impl Codes for S {
    const BYTES: usize = 50;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;
    /// A group is shifted up or down.
    const PLUS: bool = true;
    const BOOK: usize = POINTS;

    /// The upper three bits of four numbers share 16 bits.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let high = v.words_right::<1>(v.fields::<2>(unit, 34, [1 << 9, 1 << 6, 1 << 3, 1]));
        let numbers = v.or(v.widen(unit, 2), v.and_words(high, 0x0700_0700));
        Ready { found: [v.find(&SHIFTED_BY_GROUP, numbers); 2], ..Ready::nothing(v) }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        static LOW: Lines<[u8; 64]> = Lines(places::<1>(2, 1));
        static HIGH: Lines<[u8; 64]> = Lines(longs(34, 4));
        static THREES: Lines<[u8; 64]> = Lines(bits(0, 3, 4));
        let (a, b) = (v.window(a, 0), v.window(b, 0));
        found(v, &SHIFTED_BY_GROUP, v.bytes_from(a, b, &LOW), v.bits_from(v.bytes_from(a, b, &HIGH), &THREES))
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        SHIFTED_BY_GROUP.part(v, ready, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let bits = v.words_right::<28>(v.fields::<2>(unit, 34, [0, 1, 0, 1])); // each twice
        let (scales, down) = (v.words_to_floats(v.and_words(bits, 7)), v.words_to_floats(v.words_right::<3>(bits)));
        let scale = v.mul(v.fma(scales, v.splat(2.0), v.splat(1.0)), half(v, unit, 0));
        let shift = v.fma(down, v.splat(-0.25), v.splat(0.125));
        (v.odd(scale), v.odd(v.mul(scale, shift)))
    }
}

pub(super) struct M;

impl Codes for M {
    const BYTES: usize = 56;
    const GROUP: usize = 16;
    const OFFSET: u8 = 16;
    const BOOK: usize = POINTS;

    /// The upper three bits of two numbers share a byte, each with a bit that says that its weights are shifted down.
    #[inline(always)]
    fn ready<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        let high = v.fields::<2>(unit, 32, [1 << 12, 1 << 8, 1 << 4, 1]);
        let numbers = v.or(v.widen(unit, 0), v.and_words(v.words_right::<4>(high), 0x0700_0700));
        let down = v.and_words(v.words_right::<15>(high), 0x0001_0001);
        let eight_times = v.add(v.xor(down, 0xff), 1); // 0 or 0xff
        Ready { signs: v.low_bytes_as_signs(eight_times), found: [v.find(&SHIFTED_BY_POINT, numbers); 2] }
    }

    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        static LOW: Lines<[u8; 64]> = Lines(places::<1>(0, 1));
        static HIGH: Lines<[u8; 64]> = Lines(longs(32, 4));
        static FOURS: Lines<[u8; 64]> = Lines(bits(0, 4, 0));
        let (a, b) = (v.window(a, 0), v.window(b, 0));
        let high = v.bits_from(v.bytes_from(a, b, &HIGH), &FOURS);
        let down = v.words_right::<3>(v.and(high, 8));
        let eight_times = v.add(v.xor(down, 0xff), 1); // 0 or 0xff
        let ready = found(v, &SHIFTED_BY_POINT, v.bytes_from(a, b, &LOW), high);
        if POINTS > V::MOST_BY_DIGITS {
            return with_signs(ready, v.signs_of_two(eight_times));
        }
        let shifts = v.or(eight_times, v.where_set(!0, 1));
        let ([a, b], [of_a, of_b]) = (ready, v.zip([shifts; 2]));
        [Ready { found: [a.found[0], of_a], ..a }, Ready { found: [b.found[0], of_b], ..b }]
    }

    #[inline(always)]
    fn codes<V: Simd>(v: V, _: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        let shifts =
            if POINTS > V::MOST_BY_DIGITS { v.negate(ready.signs, part, v.where_set(!0, 1)) } else { ready.found[1] };
        v.add_all(SHIFTED_BY_POINT.part(v, ready, part), shifts)
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

/// Four numbers of three bits in each half of a word, as bytes.
#[inline(always)]
fn threes_to_bytes(word: u32) -> u64 {
    let x = u64::from(word);
    let x = (x | x << 16) & 0x0000_0fff_0000_0fff;
    let x = (x | x << 10) & 0x003f_003f_003f_003f;
    (x | x << 5) & 0x0707_0707_0707_0707
}
