//! One and two bits per weight: TQ1_0, TQ2_0, Q1_0, Q2_0.

use super::k_quants::{half, two_bits, two_bits_or_four_times};
use super::simd::{Lines, Simd, array};
use super::{Codes, Ready};

/// TQ1_0: five ternary digits in a byte.
pub(super) struct Digits;

/// What each code's byte is multiplied with: a byte is a fraction of 256 whose digits come out on top by multiplication
/// with powers of three.
static POWERS: Lines<[[u8; 64]; 4]> = {
    let mut powers = [[0; 64]; 4];
    let mut i = 0;
    while i < 64 {
        let third = if i < 32 { 4 } else { i / 16 - 2 };
        let fourth = if i < 48 { 2 + i / 16 } else { i / 4 - 12 };
        let mut part = 0;
        while part < 4 {
            powers[part][i] = [1, 3, 9, 27, 81][[i / 32, 2 + i / 32, third, fourth][part]];
            part += 1;
        }
        i += 1;
    }
    Lines(powers)
};

impl Codes for Digits {
    const BYTES: usize = 54;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        // 32 bytes of five digits, 16 of five, 4 of four; neighbours in a byte are as many codes apart.
        let fractions = match part {
            0 | 1 => v.pair(unit, 0, 0),
            2 => v.quarters(unit, [0, 16, 32, 32]),
            _ => {
                let long = |at: usize| u64::from_le_bytes(*array(unit, at));
                let last = (long(44) >> 32) * 0x0000_0001_0000_0001;
                v.words([long(32), long(40), long(32), long(40), long(32), long(40), last, last])
            }
        };
        // The digit is the whole part of three times the fraction: 86 is the first of 256 above a third.
        v.reached(v.multiply_bytes(fractions, &POWERS[part]), 86, 171)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (half(v, unit, 52), v.splat(0.0))
    }
}

/// TQ2_0: two bits, of which the scalar reference reads all four values.
pub(super) struct Ternary;

impl Codes for Ternary {
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;
    const TIMES: [u8; 4] = [1, 1, 4, 4];
    const SMALL_MULTIPLES: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        two_bits(v, unit, 0, part)
    }

    #[inline(always)]
    fn multiples<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        two_bits_or_four_times(v, unit, 0, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (half(v, unit, 64), v.splat(0.0))
    }
}

/// Q1_0: signs of 128 weights; codes 0 and 2.
pub(super) struct One;

impl Codes for One {
    const BYTES: usize = 2 * 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        v.where_set(u64::from_le_bytes(*array(unit, 18 * (part / 2) + 2 + 8 * (part % 2))), 2)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let [a, b] = [u16::from_le_bytes(*array(unit, 0)), u16::from_le_bytes(*array(unit, 18))];
        (v.halves([a, a, a, a, b, b, b, b]), v.splat(0.0))
    }
}

/// Q2_0: blocks of 64 weights, four neighbours in a byte.
pub(super) struct Two;

impl Codes for Two {
    const BYTES: usize = 4 * 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        let bytes: &[u8; 16] = array(unit, 18 * part + 2);
        let mut words = [0; 16];
        for i in 0..16 {
            let b = u32::from(bytes[i]);
            words[i] = (b | b << 6 | b << 12 | b << 18) & 0x0303_0303;
        }
        v.load_words(&words)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let d = |block: usize| u16::from_le_bytes(*array(unit, 18 * block));
        let [a, b, c, d] = [d(0), d(1), d(2), d(3)];
        (v.halves([a, a, b, b, c, c, d, d]), v.splat(0.0))
    }
}
