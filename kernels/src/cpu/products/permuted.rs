//! How codebook formats find their points where 64 bytes are permuted at once ([`Permutes`](super::permutes::Permutes)): the numbers of 64 points are collected as
//! bytes, their digits picked out of tables of bytes, 128 at a time, and told apart again when weights are wanted.
//!
//! 512 weights of IQ2_XXS are some 154 instructions so, of which some 68 are for the two ports of permutations and dot products: 34 cycles.
//! They take 50 on Zen 5. Tried there, and no faster: masks of signs made by permutations and tests instead of through memory.

use super::Ready;
use super::books::{Eights, Fours};
use super::simd::{Lines, Simd, array};

/// 64 places: for `i` in 0..32 of each unit `first + step * (i / EACH) + i % EACH`; those of the second unit are 64 more.
const fn places<const EACH: usize>(first: usize, step: usize) -> [u8; 64] {
    let mut at = [0; 64];
    let mut i = 0;
    while i < 64 {
        let place = i % 32;
        at[i] = (i / 32 * 64 + first + step * (place / EACH) + place % EACH) as u8;
        i += 1;
    }
    at
}

/// For bytes `i` of a 64-bit number, `step * i`, and `gap` more from the fifth on.
const fn bits(first: usize, step: usize, gap: usize) -> [u8; 64] {
    let mut from = [0; 64];
    let mut i = 0;
    while i < 64 {
        from[i] = ((first + step * (i % 8) + i % 8 / 4 * gap) % 64) as u8;
        i += 1;
    }
    from
}

/// Where bytes of 64-bit numbers are taken from: `many` neighbours for each of four of a unit, the rest does not matter.
const fn longs(first: usize, many: usize) -> [u8; 64] {
    let mut at = [0; 64];
    let mut i = 0;
    while i < 64 {
        let (long, byte) = (i / 8, i % 8);
        at[i] = (long / 4 * 64 + first + long % 4 * many + byte % many) as u8;
        i += 1;
    }
    at
}

/// Seven signs with the eighth that makes the number of negative ones even.
static EVEN: Lines<[u8; 128]> = {
    let mut even = [0; 128];
    let mut i = 0;
    while i < 128 {
        even[i] = i as u8 | (i.count_ones() % 2 * 128) as u8;
        i += 1;
    }
    Lines(even)
};

#[inline(always)]
fn found<V: Simd, const N: usize>(v: V, book: &Eights<N>, low: V::Bytes, high: V::Bytes) -> [Ready<V>; 2] {
    let found = v.entries(&book.halves, low, high);
    found.map(|found| Ready { found: [found; 2], ..Ready::nothing(v) })
}

#[inline(always)]
fn with_signs<V: Simd>([a, b]: [Ready<V>; 2], [of_a, of_b]: [V::Signs; 2]) -> [Ready<V>; 2] {
    [Ready { signs: of_a, ..a }, Ready { signs: of_b, ..b }]
}

/// Eight times four bytes of numbers, then four times seven signs and four bits of a scale.
#[inline(always)]
pub(super) fn iq2_xxs<V: Simd>(v: V, book: &Eights<256>, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
    static NUMBERS: Lines<[u8; 64]> = Lines(places::<4>(0, 8));
    static SEVENS: Lines<[u8; 64]> = Lines(bits(32, 7, 0));
    let (a, b) = (v.window(a, 2), v.window(b, 2));
    let low = v.bytes_from(a, b, &NUMBERS);
    let sevens = v.bytes_from(v.bits_from(a, &SEVENS), v.bits_from(b, &SEVENS), &NUMBERS);
    with_signs(found(v, book, low, low), v.signs_of_two(v.by_seven_bits(&EVEN, sevens)))
}

/// Nine bits for a point, seven for its signs.
#[inline(always)]
pub(super) fn iq2_xs<V: Simd>(v: V, book: &Eights<512>, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
    static LOW: Lines<[u8; 64]> = Lines(places::<1>(0, 2));
    static HIGH: Lines<[u8; 64]> = Lines(places::<1>(1, 2));
    let (a, b) = (v.window(a, 2), v.window(b, 2));
    let high = v.bytes_from(a, b, &HIGH);
    let signs = v.signs_of_two(v.by_seven_bits(&EVEN, v.words_right::<1>(high)));
    with_signs(found(v, book, v.bytes_from(a, b, &LOW), high), signs)
}

/// The upper two bits of four numbers share a byte of eight behind the signs.
#[inline(always)]
pub(super) fn iq2_s<V: Simd>(v: V, book: &Eights<1024>, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
    static LOW: Lines<[u8; 64]> = Lines(places::<1>(0, 1));
    static HIGH: Lines<[u8; 64]> = Lines(longs(48, 2));
    static TWOS: Lines<[u8; 64]> = Lines(bits(0, 2, 0));
    let low = v.bytes_from(v.window(a, 2), v.window(b, 2), &LOW);
    let high = v.bits_from(v.bytes_from(v.window(a, 18), v.window(b, 18), &HIGH), &TWOS);
    with_signs(found(v, book, low, high), [v.signs(a, 34), v.signs(b, 34)])
}

/// The upper three bits of four numbers share 16 bits.
#[inline(always)]
pub(super) fn iq1_s<V: Simd>(v: V, book: &Eights<2048>, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
    static LOW: Lines<[u8; 64]> = Lines(places::<1>(2, 1));
    static HIGH: Lines<[u8; 64]> = Lines(longs(34, 4));
    static THREES: Lines<[u8; 64]> = Lines(bits(0, 3, 4));
    let (a, b) = (v.window(a, 0), v.window(b, 0));
    found(v, book, v.bytes_from(a, b, &LOW), v.bits_from(v.bytes_from(a, b, &HIGH), &THREES))
}

/// The upper three bits of two numbers share a byte, each with a bit that says that its weights are shifted down.
#[inline(always)]
pub(super) fn iq1_m<V: Simd>(v: V, book: &Eights<2048>, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
    static LOW: Lines<[u8; 64]> = Lines(places::<1>(0, 1));
    static HIGH: Lines<[u8; 64]> = Lines(longs(32, 4));
    static FOURS: Lines<[u8; 64]> = Lines(bits(0, 4, 0));
    let (a, b) = (v.window(a, 0), v.window(b, 0));
    let high = v.bits_from(v.bytes_from(a, b, &HIGH), &FOURS);
    let down = v.words_right::<3>(v.and(high, 8));
    let eight_times = v.add(v.xor(down, 0xff), 1); // 0 or 0xff
    with_signs(found(v, book, v.bytes_from(a, b, &LOW), high), v.signs_of_two(eight_times))
}

/// 64 numbers of a byte, then eight times four times seven signs and four bits of a scale.
#[inline(always)]
pub(super) fn iq3_xxs<V: Simd>(v: V, book: &Fours<256>, unit: &[u8]) -> Ready<V> {
    static SEVENS: Lines<[u8; 64]> = Lines(bits(0, 7, 4));
    let signs = v.by_seven_bits(&EVEN, v.bits_from(v.window(unit, 34), &SEVENS));
    let low = v.window(unit, 2);
    Ready { signs: v.half_as_signs(signs, 1), found: v.entries(&book.halves, low, low) }
}

/// The ninth bits of all numbers lie apart.
#[inline(always)]
pub(super) fn iq3_s<V: Simd>(v: V, book: &Fours<512>, unit: &[u8]) -> Ready<V> {
    let high = v.where_set(u64::from_le_bytes(*array(unit, 66)), 1);
    Ready { signs: v.signs(unit, 74), found: v.entries(&book.halves, v.window(unit, 2), high) }
}
