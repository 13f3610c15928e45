//! The first formats: blocks of 32 weights with one half-precision scale, and a minimum in the `_1` ones.
//!
//! | format | weight | header | codes |
//! |---|---|---|---|
//! | Q4_0, Q5_0, Q8_0 | `d * (code - 2^(bits - 1))` | d | 4, 5, 8 bits |
//! | Q4_1, Q5_1 | `d * code + m` | d, m | 4, 5 bits |
//!
//! Codes `j` and `j + 16` share a byte; fifth bits lie in a 32-bit word of their own.

use super::scalar::{Codes, Plane, consecutive, format, half_at, one_group, one_step, put_half};
use super::search::{Sweep, affine, extreme, importance_weights, largest_magnitude, symmetric, truncate};
use super::{BlockFormat, Grid, Header, Importance, Steps};

/// 4 bits, symmetric.
pub static Q4_0: BlockFormat = format::<Symmetric<4>>("Q4_0", 2, Importance::Used, 8.6e-2);
/// 4 bits with a minimum.
pub static Q4_1: BlockFormat = format::<Affine<4>>("Q4_1", 3, Importance::Used, 7.8e-2);
/// 5 bits, symmetric.
pub static Q5_0: BlockFormat = format::<Symmetric<5>>("Q5_0", 6, Importance::Used, 4.3e-2);
/// 5 bits with a minimum.
pub static Q5_1: BlockFormat = format::<Affine<5>>("Q5_1", 7, Importance::Used, 3.8e-2);
/// 8 bits, symmetric.
pub static Q8_0: BlockFormat = format::<Eight>("Q8_0", 8, Importance::Unused, 5.3e-3);

const fn nibbles(at: usize) -> Plane {
    Plane { bits: 4, stride: 16, shift: 0, at: (at, 16) }
}

const fn fifth_bits(at: usize) -> Plane {
    Plane { bits: 1, stride: 1, shift: 4, at: (at, 4) }
}

struct Symmetric<const BITS: u32>;

impl<const BITS: u32> Codes for Symmetric<BITS> {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 2 + 4 * BITS as usize;
    const GROUP: usize = 32;
    const LEVELS: &'static [f32] =
        if BITS == 4 { const { &consecutive::<16>(-8) } } else { const { &consecutive::<32>(-16) } };
    const HEADER: &'static [(usize, usize)] = &[(0, 2)];
    const HALVES: &'static [usize] = &[0];
    const PLANES: &'static [Plane] =
        if BITS == 4 { const { &[nibbles(2)] } } else { const { &[fifth_bits(2), nibbles(6)] } };

    fn read(header: Header) -> Grid {
        one_group(header, half_at(&header, 0), 0.0)
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        let mut header = Header::default();
        put_half(&mut header, 0, scale[0]);
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        Some(one_step(half_at(header, 0), None))
    }

    fn put(steps: &Steps) -> Option<Header> {
        Some(Self::header(&[steps.unit], &[], None))
    }

    fn fit(weights: &[f32], importance: Option<&[f32]>, mean_square: f32, codes: &mut [u8]) -> Grid {
        let half = 1 << (BITS - 1);
        let scale = match importance {
            Some(importance) => {
                let weighting: [f32; 32] = importance_weights(weights, importance, mean_square);
                symmetric(weights, half, Some(&weighting), codes)
            }
            None => {
                let scale = extreme(weights) / -half as f32;
                let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
                for (c, w) in codes.iter_mut().zip(weights) {
                    // Through a signed byte, as ggml converts.
                    *c = (truncate(w * inverse + (half as f32 + 0.5)) as i8).min((2 * half - 1) as i8) as u8;
                }
                scale
            }
        };
        Self::read(Self::header(&[scale], &[], None))
    }
}

struct Affine<const BITS: u32>;

impl<const BITS: u32> Codes for Affine<BITS> {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 4 + 4 * BITS as usize;
    const GROUP: usize = 32;
    const LEVELS: &'static [f32] =
        if BITS == 4 { const { &consecutive::<16>(0) } } else { const { &consecutive::<32>(0) } };
    const HEADER: &'static [(usize, usize)] = &[(0, 4)];
    const HALVES: &'static [usize] = &[0, 2];
    const PLANES: &'static [Plane] =
        if BITS == 4 { const { &[nibbles(4)] } } else { const { &[fifth_bits(4), nibbles(8)] } };

    fn read(header: Header) -> Grid {
        one_group(header, half_at(&header, 0), -half_at(&header, 2))
    }

    fn header(scale: &[f32], minimum: &[f32], _: Option<&[f32]>) -> Header {
        let mut header = Header::default();
        put_half(&mut header, 0, scale[0]);
        put_half(&mut header, 2, -minimum[0]);
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        Some(one_step(half_at(header, 0), Some(-half_at(header, 2))))
    }

    fn put(steps: &Steps) -> Option<Header> {
        Some(Self::header(&[steps.unit], &[steps.min_unit], None))
    }

    fn fit(weights: &[f32], importance: Option<&[f32]>, mean_square: f32, codes: &mut [u8]) -> Grid {
        let top = (1 << BITS) - 1;
        let (scale, minimum) = match importance {
            Some(importance) => {
                let weighting: [f32; 32] = importance_weights(weights, importance, mean_square);
                affine(weights, top, &weighting, &Sweep::FINE, codes)
            }
            None => {
                let (mut low, mut high) = (f32::MAX, -f32::MAX);
                for &w in weights {
                    if w < low {
                        low = w;
                    }
                    if w > high {
                        high = w;
                    }
                }
                let scale = (high - low) / top as f32;
                let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
                for (c, w) in codes.iter_mut().zip(weights) {
                    *c = truncate((w - low) * inverse + 0.5).clamp(0, top) as u8;
                }
                (scale, -low)
            }
        };
        Self::read(Self::header(&[scale], &[minimum], None))
    }
}

struct Eight;

impl Codes for Eight {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;
    /// Stored as two's complement; code 0 (level -128) is read but never chosen.
    const LEVELS: &'static [f32] = &consecutive::<256>(-128);
    const USED: (usize, usize) = (1, 255);
    const HEADER: &'static [(usize, usize)] = &[(0, 2)];
    const HALVES: &'static [usize] = &[0];
    const PLANES: &'static [Plane] = &[];

    fn read(header: Header) -> Grid {
        one_group(header, half_at(&header, 0), 0.0)
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        let mut header = Header::default();
        put_half(&mut header, 0, scale[0]);
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        Some(one_step(half_at(header, 0), None))
    }

    fn put(steps: &Steps) -> Option<Header> {
        Some(Self::header(&[steps.unit], &[], None))
    }

    fn fit(weights: &[f32], _: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let scale = largest_magnitude(weights) / 127.0;
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        for (c, w) in codes.iter_mut().zip(weights) {
            *c = truncate((w * inverse).round()) as u8 ^ 0x80;
        }
        Self::read(Self::header(&[scale], &[], None))
    }

    fn pack_codes(codes: &[u8], block: &mut [u8]) {
        for (b, c) in block[2..].iter_mut().zip(codes) {
            *b = c ^ 0x80;
        }
    }

    fn unpack_codes(block: &[u8], codes: &mut [u8]) {
        for (c, b) in codes.iter_mut().zip(&block[2..]) {
            *c = b ^ 0x80;
        }
    }
}
