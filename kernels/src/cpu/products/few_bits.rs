//! One and two bits per weight: TQ1_0, TQ2_0, Q1_0, Q2_0.

use super::Codes;
use super::k_quants::{half, two_bits};
use super::simd::{Simd, array};

/// TQ1_0: five ternary digits in a byte.
pub(super) struct Digits;

/// Codes of a part: `(first byte, bytes, power of three)`, one after the other. A byte is a fraction of 256 whose digits
/// come out on top by multiplication.
const DIGITS: [&[(usize, usize, u8)]; 4] = [
    &[(0, 32, 1), (0, 32, 3)],
    &[(0, 32, 9), (0, 32, 27)],
    &[(0, 32, 81), (32, 16, 1), (32, 16, 3)],
    &[(32, 16, 9), (32, 16, 27), (32, 16, 81), (48, 4, 1), (48, 4, 3), (48, 4, 9), (48, 4, 27)],
];

/// Where each code's byte lies, and what it is multiplied with.
const FROM: [([u8; 64], [u8; 64]); 4] = {
    let mut from = [([0; 64], [0; 64]); 4];
    let mut part = 0;
    while part < 4 {
        let (mut run, mut at) = (0, 0);
        while run < DIGITS[part].len() {
            let (first, count, power) = DIGITS[part][run];
            let mut j = 0;
            while j < count {
                from[part].0[at] = (first + j) as u8;
                from[part].1[at] = power;
                at += 1;
                j += 1;
            }
            run += 1;
        }
        part += 1;
    }
    from
};

impl Codes for Digits {
    const BYTES: usize = 54;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        let (from, power) = &FROM[part];
        let mut codes = [0; 64];
        for i in 0..64 {
            let fraction = unit[from[i] as usize].wrapping_mul(power[i]);
            codes[i] = ((u16::from(fraction) * 3) >> 8) as u8;
        }
        v.load(&codes, 0)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.splat(half(v, unit, 52)), v.splat(0.0))
    }
}

/// TQ2_0: two bits, of which the scalar reference reads all four values.
pub(super) struct Ternary;

impl Codes for Ternary {
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
        two_bits(v, unit, 0, part)
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.splat(half(v, unit, 64)), v.splat(0.0))
    }
}

/// Q1_0: signs of 128 weights; codes 0 and 2.
pub(super) struct One;

impl Codes for One {
    const BYTES: usize = 2 * 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
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
    fn codes<V: Simd>(v: V, unit: &[u8], part: usize) -> V::Bytes {
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
