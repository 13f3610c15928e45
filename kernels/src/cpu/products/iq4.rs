//! 4-bit codes whose levels come from a table: IQ4_NL, IQ4_XS.

use super::digits::nibbles_to_bytes;
use super::k_quants::half;
use super::legacy::nibbles;
use super::simd::{Simd, array};
use super::{Codes, Order, Ready};

/// The uneven grid, as signed bytes.
const SIGNED: [u8; 16] = {
    let signed = [-127i8, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut levels = [0; 16];
    let mut i = 0;
    while i < 16 {
        levels[i] = signed[i] as u8;
        i += 1;
    }
    levels
};

/// The same plus 128.
const LEVELS: [u8; 16] = {
    let mut levels = SIGNED;
    let mut i = 0;
    while i < 16 {
        levels[i] ^= 0x80;
        i += 1;
    }
    levels
};

/// The level of each code, plus 128. Where products take signed bytes instead, the second addition undoes the first.
#[inline(always)]
fn levels<V: Simd>(v: V, codes: V::Bytes) -> V::Bytes {
    if V::WHOLE_BYTES { v.lookup(&LEVELS, codes) } else { v.xor(v.lookup(&SIGNED, codes), 0x80) }
}

pub(super) struct Nl;

impl Codes for Nl {
    const BYTES: usize = 8 * 18;
    const GROUP: usize = 32;
    const ORDER: Order = Order::Halves;
    const OFFSET: u8 = 128;
    const LEVELS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        levels(v, nibbles(v, unit, 18, 2, part))
    }

    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves(unit, 18, 0), v.splat(0.0))
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        (v.strided_halves_of_two(a, b, 18, 0), v.splat(0.0))
    }
}

pub(super) struct Xs;

impl Codes for Xs {
    const BYTES: usize = 136;
    const GROUP: usize = 32;
    const ORDER: Order = Order::Halves;
    const OFFSET: u8 = 128;
    const LEVELS: bool = true;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        levels(v, nibbles(v, unit, 16, 8, part))
    }

    /// Scales are stored plus 32: upper two bits of all in bytes 2..4, low nibbles in 4..8.
    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        let high = u64::from(u16::from_le_bytes(*array(unit, 2)));
        let low = nibbles_to_bytes(u32::from_le_bytes(*array(unit, 4)));
        // Pair of bits `i` to bits 4 and 5 of byte `i`, by halving distances.
        let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
        let high = (high | high << 12) & 0x000f_000f_000f_000f;
        let high = (high | high << 6) & 0x0303_0303_0303_0303;
        let scales = u128::from(low | high << 4).to_le_bytes();
        (v.mul(v.add_floats(v.unsigned(scales), v.splat(-32.0)), half(v, unit, 0)), v.splat(0.0))
    }
}
