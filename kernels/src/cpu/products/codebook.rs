//! Codebooks of groups: IQ1, IQ2, IQ3. Eight (or four) weights share a code, which is looked up; signs lie apart.
//!
//! The points are those of the scalar reference, with the numbers that their digits stand for.

use super::Codes;
use super::k_quants::half;
use super::simd::{Simd, array};
use qconv_formats::block::codebook_tables as tables;

/// Eight bytes for each point: what its digits of two bits stand for.
const fn eights<const N: usize>(points: &[u16; N], levels: [u8; 4]) -> [u64; N] {
    let mut out = [0; N];
    let mut i = 0;
    while i < N {
        let mut j = 0;
        while j < 8 {
            out[i] |= (levels[(points[i] >> (2 * j) & 3) as usize] as u64) << (8 * j);
            j += 1;
        }
        i += 1;
    }
    out
}

/// Four bytes for each point: what its digits of three bits stand for.
const fn fours<const N: usize>(points: &[u16; N], levels: [u8; 8]) -> [u32; N] {
    let mut out = [0; N];
    let mut i = 0;
    while i < N {
        let mut j = 0;
        while j < 4 {
            out[i] |= (levels[(points[i] >> (3 * j) & 7) as usize] as u32) << (8 * j);
            j += 1;
        }
        i += 1;
    }
    out
}

static IQ2_XXS: [u64; 256] = eights(&tables::IQ2_XXS, [8, 25, 43, 0]);
static IQ2_XS: [u64; 512] = eights(&tables::IQ2_XS, [8, 25, 43, 0]);
static IQ2_S: [u64; 1024] = eights(&tables::IQ2_S, [8, 25, 43, 0]);
static IQ3_XXS: [u32; 256] = fours(&tables::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
static IQ3_S: [u32; 512] = fours(&tables::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// Digits -1, 0, 1 in eighths, plus 16.
static IQ1: [u64; 2048] = eights(&tables::IQ1, [8, 16, 24, 0]);

/// A point of four weights, by a load of its own. With plain indexing the compiler gathers sixteen points at once, which
/// took twice as long on Zen 5. For points of eight weights its gathers are no slower than single loads.
#[inline(always)]
fn look_up<const N: usize>(book: &[u32; N], point: usize) -> u32 {
    // SAFETY: a reference to an element of an array.
    unsafe { std::ptr::from_ref(&book[point]).read_volatile() }
}

/// Four times seven signs, of which an even number is negative, as four times eight.
#[inline(always)]
fn even_signs(words: [u32; 2]) -> u64 {
    let spread = |w: u32| w & 0x7f | (w << 1 & 0x7f00) | (w << 2 & 0x7f_0000) | (w << 3 & 0x7f00_0000);
    let seven = u64::from(spread(words[0])) | u64::from(spread(words[1])) << 32;
    all_signs(seven)
}

/// Adds to each seven signs the eighth that makes their number even.
#[inline(always)]
fn all_signs(seven: u64) -> u64 {
    let parity = seven ^ seven >> 4;
    let parity = parity ^ parity >> 2;
    let parity = parity ^ parity >> 1;
    seven | (parity & 0x0101_0101_0101_0101) << 7
}

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

/// `factor * (bits + add)` for sixteen scales of four bits.
#[inline(always)]
fn sixteen_scales<V: Simd>(v: V, unit: &[u8], at: usize, add: f32, factor: f32) -> V::Floats {
    let (low, high) = (nibbles_to_bytes(word(unit, at)), nibbles_to_bytes(word(unit, at + 4)));
    let bytes = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    v.mul(v.add_floats(v.unsigned(bytes), v.splat(add)), v.splat(factor))
}

/// `factor * (bits + add)` for eight scales, each in the upper four bits of a word of a stride.
#[inline(always)]
fn eight_scales<V: Simd>(v: V, unit: &[u8], at: usize, stride: usize, add: f32, factor: f32) -> V::Floats {
    let mut bits = [0; 16];
    for (g, bits) in bits[..8].iter_mut().enumerate() {
        *bits = unit[at + g * stride + 3] >> 4;
    }
    v.mul(v.add_floats(v.unsigned(bits), v.splat(add)), v.splat(factor))
}

/// Magnitudes with signs, plus 64.
#[inline(always)]
fn signed<V: Simd>(v: V, magnitudes: [u64; 8], signs: u64) -> V::Bytes {
    v.add(v.negate_where(signs, v.words(magnitudes)), 64)
}

pub(super) struct Iq2Xxs;

impl Codes for Iq2Xxs {
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let (book, at) = (&IQ2_XXS, 2 + 16 * part);
        let mut words = [0; 8];
        for (i, word) in words.iter_mut().enumerate() {
            *word = book[unit[at + 8 * (i / 4) + i % 4] as usize];
        }
        signed(v, words, even_signs([word(unit, at + 4), word(unit, at + 12)]))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (eight_scales(v, unit, 6, 8, 0.5, half(v, unit, 0) * 0.25), v.splat(0.0))
    }
}

pub(super) struct Iq2Xs;

impl Codes for Iq2Xs {
    const BYTES: usize = 74;
    const GROUP: usize = 16;
    const OFFSET: u8 = 64;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let book = &IQ2_XS;
        let (mut words, mut seven) = ([0; 8], 0);
        for (i, word) in words.iter_mut().enumerate() {
            let code = u16::from_le_bytes(*array(unit, 2 + 16 * part + 2 * i));
            *word = book[(code & 511) as usize];
            seven |= u64::from(code >> 9) << (8 * i);
        }
        signed(v, words, all_signs(seven))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (sixteen_scales(v, unit, 66, 0.5, half(v, unit, 0) * 0.25), v.splat(0.0))
    }
}

pub(super) struct Iq2S;

impl Codes for Iq2S {
    const BYTES: usize = 82;
    const GROUP: usize = 16;
    const OFFSET: u8 = 64;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let book = &IQ2_S;
        let high = u16::from_le_bytes(*array(unit, 66 + 2 * part));
        let mut words = [0; 8];
        for (i, word) in words.iter_mut().enumerate() {
            *word = book[unit[2 + 8 * part + i] as usize | ((high >> (2 * i) & 3) as usize) << 8];
        }
        signed(v, words, u64::from_le_bytes(*array(unit, 34 + 8 * part)))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (sixteen_scales(v, unit, 74, 0.5, half(v, unit, 0) * 0.25), v.splat(0.0))
    }
}

pub(super) struct Iq3Xxs;

impl Codes for Iq3Xxs {
    const BYTES: usize = 98;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let (book, at) = (&IQ3_XXS, 2 + 16 * part);
        let mut words = [0; 8];
        for (i, word) in words.iter_mut().enumerate() {
            let [low, high] = [unit[at + 2 * i] as usize, unit[at + 2 * i + 1] as usize];
            *word = u64::from(look_up(book, low)) | u64::from(look_up(book, high)) << 32;
        }
        signed(v, words, even_signs([word(unit, 66 + 8 * part), word(unit, 70 + 8 * part)]))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (eight_scales(v, unit, 66, 4, 0.5, half(v, unit, 0) * 0.5), v.splat(0.0))
    }
}

pub(super) struct Iq3S;

impl Codes for Iq3S {
    const BYTES: usize = 110;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let (book, at) = (&IQ3_S, 2 + 16 * part);
        let high = u16::from_le_bytes(*array(unit, 66 + 2 * part)) as usize;
        let mut words = [0; 8];
        for (i, word) in words.iter_mut().enumerate() {
            let first = unit[at + 2 * i] as usize | (high >> (2 * i) & 1) << 8;
            let second = unit[at + 2 * i + 1] as usize | (high >> (2 * i + 1) & 1) << 8;
            *word = u64::from(look_up(book, first)) | u64::from(look_up(book, second)) << 32;
        }
        signed(v, words, u64::from_le_bytes(*array(unit, 74 + 8 * part)))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let bits = u128::from(nibbles_to_bytes(word(unit, 106))).to_le_bytes();
        let d = half(v, unit, 0);
        (v.fma(v.unsigned(bits), v.splat(2.0 * d), v.splat(d)), v.splat(0.0))
    }
}

/// All bytes 1.
const ONES: u64 = 0x0101_0101_0101_0101;

/// A point shifted up or down by one.
#[inline(always)]
fn shifted(point: u64, down: bool) -> u64 {
    if down { point - ONES } else { point + ONES }
}

pub(super) struct Iq1S;

impl Codes for Iq1S {
    const BYTES: usize = 50;
    const GROUP: usize = 32;
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let book = &IQ1;
        let mut words = [0; 8];
        for (i, word) in words.iter_mut().enumerate() {
            let bits = u16::from_le_bytes(*array(unit, 34 + 2 * (2 * part + i / 4)));
            let point = unit[2 + 8 * part + i] as usize | ((bits >> (3 * (i % 4)) & 7) as usize) << 8;
            *word = shifted(book[point], bits >> 15 == 1);
        }
        v.words(words)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let mut scales = [0; 16];
        for (g, scale) in scales[..8].iter_mut().enumerate() {
            *scale = 2 * (unit[35 + 2 * g] >> 4 & 7) + 1;
        }
        (v.mul(v.unsigned(scales), v.splat(half(v, unit, 0) * 0.125)), v.splat(0.0))
    }
}

pub(super) struct Iq1M;

impl Codes for Iq1M {
    const BYTES: usize = 56;
    const GROUP: usize = 16;
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let book = &IQ1;
        let bits = word(unit, 32 + 4 * part);
        let mut words = [0; 8];
        for (i, word) in words.iter_mut().enumerate() {
            let bits = bits >> (4 * i);
            *word = shifted(book[unit[8 * part + i] as usize | ((bits & 7) as usize) << 8], bits & 8 != 0);
        }
        v.words(words)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let words = u64::from_le_bytes(*array(unit, 48));
        let mut scales = [0; 16];
        for (g, scale) in scales.iter_mut().enumerate() {
            *scale = 2 * (words >> (16 * (g / 4) + 3 * (g % 4)) & 7) as u8 + 1;
        }
        // A quarter of the half-precision number lies in the upper four bits of each word.
        let d = words >> 12 & 15 | words >> 24 & 0xf0 | words >> 36 & 0xf00 | words >> 48 & 0xf000;
        (v.mul(v.unsigned(scales), v.splat(v.half(d as u16) * 0.125)), v.splat(0.0))
    }
}
