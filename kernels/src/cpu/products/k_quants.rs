//! K-quants: blocks of 256 weights in groups with small integer scales, in units of one or two half-precision numbers.

use super::simd::{Lines, Simd, array};
use super::{Codes, Order, Ready};

#[inline(always)]
pub(super) fn half<V: Simd>(v: V, unit: &[u8], at: usize) -> V::Floats {
    v.half(u16::from_le_bytes(*array(unit, at)))
}

/// Two bits of each of 64 codes: codes `j + 32 * k` of 128 share byte `j` of 32 that start at `at`.
#[inline(always)]
pub(super) fn two_bits<V: Simd>(v: V, unit: &[u8], at: usize, part: usize) -> V::Bytes {
    let (low, high) = if part.is_multiple_of(2) { (0, 2) } else { (4, 6) };
    let at = at + 32 * (part / 2);
    v.and(v.shift([low, low, high, high], v.pair(unit, at, at)), 3)
}

/// The same, the upper 32 codes times 4: half as many shifts.
#[inline(always)]
pub(super) fn two_bits_or_four_times<V: Simd>(v: V, unit: &[u8], at: usize, part: usize) -> V::Bytes {
    let at = at + 32 * (part / 2);
    let pair = v.pair(unit, at, at);
    v.and_quarters(if part.is_multiple_of(2) { pair } else { v.words_right::<4>(pair) }, [3, 3, 12, 12])
}

/// [`two_bits`] as bits 4 and 5.
#[inline(always)]
fn two_bits_on_top<V: Simd>(v: V, unit: &[u8], at: usize, part: usize) -> V::Bytes {
    let at = at + 32 * (part / 2);
    let pair = v.pair(unit, at, at);
    let moved = if part.is_multiple_of(2) { v.shift_up([4, 4, 2, 2], pair) } else { v.shift([0, 0, 2, 2], pair) };
    v.and(moved, 0x30)
}

/// One bit of each of 64 codes, as bit `to[0]` of the lower 32 and bit `to[1]` of the upper: codes `j + 32 * k` of 256 share byte `j` of
/// 32 that start at `at`.
#[inline(always)]
fn one_bit<V: Simd>(v: V, unit: &[u8], at: usize, part: usize, to: [u32; 2]) -> V::Bytes {
    let [a, b] = [2 * part as u32, 2 * part as u32 + 1];
    let pair = v.pair(unit, at, at);
    let moved = if b <= to[1] {
        v.shift_up([to[0] - a, to[0] - a, to[1] - b, to[1] - b], pair)
    } else {
        v.shift([a - to[0], a - to[0], b - to[1], b - to[1]], pair)
    };
    v.and_quarters(moved, [1 << to[0], 1 << to[0], 1 << to[1], 1 << to[1]])
}

/// Four bits of each of 64 codes, [`Order::Alternate`]: codes `j` and `j + 32` of 64 share byte `j` of 32.
#[inline(always)]
fn nibbles<V: Simd>(v: V, unit: &[u8], at: usize, part: usize) -> V::Bytes {
    let at = at + part % 2 * 16;
    let both = v.quarters(unit, [at, at + 32, at + 64, at + 96]);
    v.and(if part < 2 { both } else { v.words_right::<4>(both) }, 15)
}

/// Scales and minimums of Q4_K and Q5_K: twelve times 8 bits from byte 4 on hold the low 6 bits of scales 0-3 and
/// minimums 0-3, then low nibbles of scales and minimums 4-7; the latter's upper two bits lie above the former.
#[inline(always)]
fn six_bits<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
    let word = |at: usize| u32::from_le_bytes(*array(unit, at));
    let (a, b, c) = (word(4), word(8), word(12));
    let scales = [a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030];
    let minimums = [b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030];
    let bytes = |[low, high]: [u32; 2]| (u128::from(low) | u128::from(high) << 32).to_le_bytes();
    let (d, dmin) = (half(v, unit, 0), half(v, unit, 2));
    (v.mul(v.unsigned(bytes(scales)), d), v.mul(v.unsigned(bytes(minimums)), v.mul(dmin, v.splat(-1.0))))
}

/// The same of two units, 16 in a register: [`PLACES`] puts the byte of each scale into a number of 32 bits, and the one
/// with its upper two bits 16 bits higher; [`LOW`] are the bits that count of the former.
#[inline(always)]
fn six_bits_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
    if V::IN_PAIRS {
        let (a, b) = (six_bits(v, a), six_bits(v, b));
        return (v.join(a.0, b.0), v.join(a.1, b.1));
    }
    let heads = v.heads(a, b);
    let upper = |words: V::Bytes| v.and_words(v.words_right::<18>(words), 0x30);
    let words = v.pick(heads, &PLACES[0]);
    let scales = v.words_to_floats(v.or(v.and_all(words, &LOW), upper(words)));
    let words = v.pick(heads, &PLACES[1]);
    let minimums = v.words_to_floats(v.or(v.and_all(v.shift([0, 4, 0, 4], words), &LOW), upper(words)));
    let (d, dmin) = (v.halves_of_heads(heads, 0), v.halves_of_heads(heads, 2));
    // Minus: the sign of a product of two numbers can be changed in either.
    (v.mul(scales, d), v.mul(minimums, v.mul(dmin, v.splat(-1.0))))
}

static PLACES: Lines<[[u8; 64]; 2]> = {
    let mut places = [[0x80; 64]; 2];
    let mut i = 0;
    while i < 16 {
        let mut which = 0;
        while which < 2 {
            let first = (4 + 4 * which + i % 4) as u8; // of scales, of minimums
            if i % 8 < 4 {
                places[which][4 * i] = first;
            } else {
                places[which][4 * i] = (12 + i % 4) as u8;
                places[which][4 * i + 2] = first;
            }
            which += 1;
        }
        i += 1;
    }
    Lines(places)
};

static LOW: Lines<[u8; 64]> = {
    let mut low = [0; 64];
    let mut i = 0;
    while i < 16 {
        low[4 * i] = if i % 8 < 4 { 63 } else { 15 };
        i += 1;
    }
    Lines(low)
};

pub(super) struct Two;

impl Codes for Two {
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const TIMES: [u8; 4] = [1, 1, 4, 4];
    const SMALL_MULTIPLES: bool = true;
    const PLUS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        two_bits(v, unit, 16, part)
    }

    #[inline(always)]
    fn multiples<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        two_bits_or_four_times(v, unit, 16, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let [scales, minimums] = v.low_and_high(array(unit, 0));
        let (d, dmin) = (half(v, unit, 80), half(v, unit, 82));
        (v.mul(scales, d), v.mul(minimums, v.mul(dmin, v.splat(-1.0))))
    }
}

pub(super) struct Three;

impl Codes for Three {
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const TIMES: [u8; 4] = [1, 1, 4, 4];
    const SMALL_MULTIPLES: bool = true;
    const OFFSET: u8 = 4;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        v.or(two_bits(v, unit, 32, part), one_bit(v, unit, 0, part, [2, 2]))
    }

    #[inline(always)]
    fn multiples<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        v.or(two_bits_or_four_times(v, unit, 32, part), one_bit(v, unit, 0, part, [2, 4]))
    }

    /// Scales are stored plus 32: low nibbles of 0-7 and 8-15 share bytes 96..104, upper two bits lie in 104..108.
    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let low = u64::from_le_bytes(*array(unit, 96));
        let high = u64::from(u32::from_le_bytes(*array(unit, 104)));
        let nibbles = 0x0f0f_0f0f_0f0f_0f0f;
        let upper = 0x3030_3030_3030_3030;
        let first = low & nibbles | (high << 4 | high << 34) & upper;
        let second = low >> 4 & nibbles | (high | high << 30) & upper;
        let scales = (u128::from(first) | u128::from(second) << 64).to_le_bytes();
        let d = half(v, unit, 108);
        (v.mul(v.add_floats(v.unsigned(scales), v.splat(-32.0)), d), v.splat(0.0))
    }
}

pub(super) struct Four;

impl Codes for Four {
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const ORDER: Order = Order::Alternate;
    const PLUS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        nibbles(v, unit, 16, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        six_bits(v, unit)
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        six_bits_of_two(v, a, b)
    }
}

pub(super) struct Five;

impl Codes for Five {
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const ORDER: Order = Order::Alternate;
    const PLUS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        // Bit `g` of 32 bytes belongs to group `g`.
        let (at, g) = (16 + part % 2 * 16, part as u32 / 2);
        let fifth = v.bits_to([g, g + 2, g + 4, g + 6], 4, v.quarters(unit, [at; 4]));
        v.or(nibbles(v, unit, 48, part), v.and(fifth, 16))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        six_bits(v, unit)
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        six_bits_of_two(v, a, b)
    }
}

pub(super) struct Six;

impl Codes for Six {
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        // Codes `j` and `j + 64` of 128 share a byte.
        let shift = if part.is_multiple_of(2) { 0 } else { 4 };
        let low = v.and(v.shift([shift; 4], v.load(unit, 64 * (part / 2))), 15);
        v.or(low, two_bits_on_top(v, unit, 128, part))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.mul(v.signed(*array(unit, 192)), half(v, unit, 208)), v.splat(0.0))
    }
}
