//! What codebook formats share: numbers of points that are collected by permutations of bytes ([`Permutes`](super::permutes::Permutes)), signs
//! of which an even number is negative, and scales.

use super::Ready;
use super::books::Eights;
use super::simd::{Lines, Simd, array};

/// 64 places: for `i` in 0..32 of each unit `first + step * (i / EACH) + i % EACH`; those of the second unit are 64 more.
pub(super) const fn places<const EACH: usize>(first: usize, step: usize) -> [u8; 64] {
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
pub(super) const fn bits(first: usize, step: usize, gap: usize) -> [u8; 64] {
    let mut from = [0; 64];
    let mut i = 0;
    while i < 64 {
        from[i] = ((first + step * (i % 8) + i % 8 / 4 * gap) % 64) as u8;
        i += 1;
    }
    from
}

/// Where bytes of 64-bit numbers are taken from: `many` neighbours for each of four of a unit, the rest does not matter.
pub(super) const fn longs(first: usize, many: usize) -> [u8; 64] {
    let mut at = [0; 64];
    let mut i = 0;
    while i < 64 {
        let (long, byte) = (i / 8, i % 8);
        at[i] = (long / 4 * 64 + first + long % 4 * many + byte % many) as u8;
        i += 1;
    }
    at
}

/// Digits of 32 points of each of two units, whose numbers are given as [`Simd::entries`](super::permutes::Permutes::entries) wants them.
#[inline(always)]
pub(super) fn found<V: Simd, const N: usize>(v: V, book: &Eights<N>, low: V::Bytes, high: V::Bytes) -> [Ready<V>; 2] {
    let [a, b] = v.zip(v.entries(&book.halves, low, high));
    [Ready { found: [a; 2], ..Ready::nothing(v) }, Ready { found: [b; 2], ..Ready::nothing(v) }]
}

/// The same with signs.
#[inline(always)]
pub(super) fn with_signs<V: Simd>([a, b]: [Ready<V>; 2], [of_a, of_b]: [V::Signs; 2]) -> [Ready<V>; 2] {
    [Ready { signs: of_a, ..a }, Ready { signs: of_b, ..b }]
}

/// Seven signs with the eighth that makes the number of negative ones even.
pub(super) static EVEN: Lines<[u8; 128]> = {
    let mut even = [0; 128];
    let mut i = 0;
    while i < 128 {
        even[i] = i as u8 | (i.count_ones() % 2 * 128) as u8;
        i += 1;
    }
    Lines(even)
};

/// Where each 32-bit number holds four times seven signs, of which an even number is negative: four times eight signs.
#[inline(always)]
pub(super) fn even_signs<V: Simd>(v: V, words: V::Bytes) -> V::Bytes {
    let pairs = v.or(v.and_words(words, 0x3fff), v.and_words(v.words_left::<2>(words), 0x3fff_0000));
    let seven = v.or(v.and_words(pairs, 0x007f_007f), v.and_words(v.words_left::<1>(pairs), 0x7f00_7f00));
    all_signs(v, seven)
}

/// Adds to each seven signs the eighth that makes their number even.
#[inline(always)]
pub(super) fn all_signs<V: Simd>(v: V, seven: V::Bytes) -> V::Bytes {
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

/// Eight nibbles as bytes.
#[inline(always)]
pub(super) fn nibbles_to_bytes(nibbles: u32) -> u64 {
    let x = u64::from(nibbles);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

#[inline(always)]
fn word(unit: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*array(unit, at))
}

/// `d * (factor * bits + more)` for eight scales of four bits.
#[inline(always)]
pub(super) fn eight_scales<V: Simd>(v: V, unit: &[u8], at: usize, d: V::Floats, factor: f32, more: f32) -> V::Floats {
    let bits = u128::from(nibbles_to_bytes(word(unit, at))).to_le_bytes();
    v.mul(v.fma(v.unsigned(bits), v.splat(factor), v.splat(more)), d)
}

/// `d * (bits + 0.5) / 4` for sixteen scales of four bits.
#[inline(always)]
pub(super) fn sixteen_scales<V: Simd>(v: V, unit: &[u8], at: usize, d: V::Floats) -> V::Floats {
    v.mul(v.fma(v.nibbles(array(unit, at)), v.splat(0.25), v.splat(0.125)), d)
}

/// `d * factor * (bits + 0.5)` for scales in the upper four bits of 32-bit numbers; the factor is a power of two.
#[inline(always)]
pub(super) fn upper_scales<V: Simd>(v: V, words: V::Bytes, d: V::Floats, factor: f32) -> V::Floats {
    let bits = v.words_to_floats(v.words_right::<28>(words));
    v.mul(v.fma(bits, v.splat(factor), v.splat(0.5 * factor)), d)
}
