//! 4-bit floats: MXFP4 and NVFP4. Codes stand for twice the E2M1 values, so scales are half of what their bytes say.

use super::legacy::nibbles;
use super::simd::Simd;
use super::{Codes, Order, Ready};

/// Twice the E2M1 values, plus 16.
const LEVELS: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

pub(super) struct Mx;

impl Codes for Mx {
    const BYTES: usize = 8 * 17;
    const GROUP: usize = 32;
    const ORDER: Order = Order::Halves;
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        v.lookup(&LEVELS, nibbles(v, unit, 17, 1, part))
    }

    /// Powers of two, E8M0.
    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        (v.half_powers(u128::from(powers(unit)).to_le_bytes()), v.splat(0.0))
    }

    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        (v.half_powers((u128::from(powers(a)) | u128::from(powers(b)) << 64).to_le_bytes()), v.splat(0.0))
    }
}

/// The scales of a unit's blocks. (In a register: what is stored byte by byte is not there yet when it is loaded at once.)
#[inline(always)]
fn powers(unit: &[u8]) -> u64 {
    let e = |block: usize| u64::from(unit[17 * block]) << (8 * block);
    e(0) | e(1) | e(2) | e(3) | e(4) | e(5) | e(6) | e(7)
}

pub(super) struct Nv;

impl Codes for Nv {
    const BYTES: usize = 4 * 36;
    const GROUP: usize = 16;
    const OFFSET: u8 = 16;

    /// Eight bytes hold 16 codes: low nibbles, then high ones.
    #[inline(always)]
    fn codes<V: Simd>(v: V, unit: &[u8], _: &Ready<V>, part: usize) -> V::Bytes {
        v.lookup(&LEVELS, v.nibbles_of_longs(unit, 36 * part + 4))
    }

    /// UE4M3: the byte's exponent and mantissa are moved to where a single has them, and the other bias multiplied away.
    /// Bit 7 is ignored, except that only 0x7f (not 0xff) stands for zero.
    #[inline(always)]
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats) {
        const HALF_OF_BIAS: f32 = f32::from_bits((127 + 119) << 23); // 2^119
        let mut scales = [0.0; 16];
        for (g, scale) in scales.iter_mut().enumerate() {
            let byte = unit[36 * (g / 4) + g % 4];
            let value = f32::from_bits(u32::from(byte & 0x7f) << 20) * HALF_OF_BIAS;
            *scale = if byte == 0x7f { 0.0 } else { value };
        }
        (v.floats(&scales), v.splat(0.0))
    }
}
