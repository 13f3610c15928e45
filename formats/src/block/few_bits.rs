//! One and two bits per weight: ternary TQ1_0 and TQ2_0 (for BitNet b1.58 and TriLM), Q1_0 and Q2_0.
//!
//! | format | weights per block | levels | scale |
//! |---|---|---|---|
//! | TQ1_0 | 256 | -1, 0, 1; five in a byte | largest magnitude |
//! | TQ2_0 | 256 | -1, 0, 1; two bits each | largest magnitude |
//! | Q1_0 | 128 | -1, 1 | mean magnitude |
//! | Q2_0 | 64 | -1, 0, 1, 2 | largest magnitude |
//!
//! They round plainly, so they suit weights that were trained for them and no others.

use super::scalar::{Codes, Plane, consecutive, format, half_at, one_group, put_half};
use super::search::{largest_magnitude, truncate};
use super::{BlockFormat, Grid, Header, Importance};

/// Ternary, 1.6875 bits in all.
pub static TQ1_0: BlockFormat = format::<Ternary<5>>("TQ1_0", 34, Importance::Unused, 8.1e-1);
/// Ternary, 2.0625 bits in all.
pub static TQ2_0: BlockFormat = format::<Ternary<4>>("TQ2_0", 35, Importance::Unused, 8.1e-1);
/// Signs, 1.125 bits in all.
pub static Q1_0: BlockFormat = format::<One>("Q1_0", 41, Importance::Unused, 6.0e-1);
/// Two bits, 2.25 bits in all.
pub static Q2_0: BlockFormat = format::<Two>("Q2_0", 42, Importance::Unused, 7.2e-1);

fn header_with(scale: f32, at: usize) -> Header {
    let mut header = Header::default();
    put_half(&mut header, at, scale);
    header
}

fn inverse(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

/// `IN_A_BYTE` codes share a byte: as digits to base 3 (5) or as two bits each (4).
struct Ternary<const IN_A_BYTE: usize>;

/// How TQ1_0 spreads 256 codes over bytes: byte `at + j` holds `count` codes from `first + j` on, `width` apart, most significant
/// digit first.
const DIGITS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)]; // (at, width, first, count)

impl<const IN_A_BYTE: usize> Codes for Ternary<IN_A_BYTE> {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 256;
    const BYTES: usize = if IN_A_BYTE == 5 { 54 } else { 66 };
    const GROUP: usize = 256;
    /// Readers of TQ2_0 take code 3 for 2.
    const LEVELS: &'static [f32] = if IN_A_BYTE == 5 { &[-1., 0., 1.] } else { &[-1., 0., 1., 2.] };
    const USED: (usize, usize) = (0, 2);
    const HEADER: &'static [(usize, usize)] = &[(Self::BYTES - 2, 2)];
    const HALVES: &'static [usize] = &[0];
    const PLANES: &'static [Plane] = &[Plane { bits: 2, stride: 32, shift: 0, at: (0, 64) }];

    fn read(header: Header) -> Grid {
        one_group(header, half_at(&header, 0), 0.0)
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        header_with(scale[0], 0)
    }

    fn fit(weights: &[f32], _: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let scale = largest_magnitude(weights);
        let inverse = inverse(scale);
        for (c, w) in codes.iter_mut().zip(weights) {
            let level = (w * inverse).round();
            *c = if level.is_finite() { (level.clamp(-1.0, 1.0) + 1.0) as u8 } else { 1 };
        }
        Self::read(header_with(scale, 0))
    }

    fn pack_codes(codes: &[u8], block: &mut [u8]) {
        if IN_A_BYTE == 4 {
            return Self::PLANES[0].pack(codes, block);
        }
        for (at, width, first, count) in DIGITS {
            for j in 0..width {
                let digits =
                    (0..5).fold(0, |n, k| 3 * n + if k < count { codes[first + j + k * width] as u16 } else { 0 });
                block[at + j] = (digits * 256).div_ceil(243) as u8; // as a fraction of 256: digits come out by multiplication
            }
        }
    }

    fn unpack_codes(block: &[u8], codes: &mut [u8]) {
        if IN_A_BYTE == 4 {
            codes.fill(0);
            return Self::PLANES[0].unpack(block, codes);
        }
        for (at, width, first, count) in DIGITS {
            for j in 0..width {
                let mut fraction = block[at + j];
                for k in 0..count {
                    codes[first + j + k * width] = ((fraction as u16 * 3) >> 8) as u8;
                    fraction = fraction.wrapping_mul(3);
                }
            }
        }
    }
}

struct One;

impl Codes for One {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 128;
    const BYTES: usize = 18;
    const GROUP: usize = 128;
    const LEVELS: &'static [f32] = &[-1., 1.];
    const CONSECUTIVE: bool = false;
    const HEADER: &'static [(usize, usize)] = &[(0, 2)];
    const HALVES: &'static [usize] = &[0];
    const PLANES: &'static [Plane] = &[Plane { bits: 1, stride: 1, shift: 0, at: (2, 16) }];

    fn read(header: Header) -> Grid {
        one_group(header, half_at(&header, 0), 0.0)
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        header_with(scale[0], 0)
    }

    fn fit(weights: &[f32], _: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let scale = weights.iter().fold(0.0, |s, w| s + w.abs()) / 128.0;
        for (c, w) in codes.iter_mut().zip(weights) {
            *c = (*w >= 0.0) as u8;
        }
        Self::read(header_with(scale, 0))
    }
}

struct Two;

impl Codes for Two {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 64;
    const BYTES: usize = 18;
    const GROUP: usize = 64;
    const LEVELS: &'static [f32] = &consecutive::<4>(-1);
    const HEADER: &'static [(usize, usize)] = &[(0, 2)];
    const HALVES: &'static [usize] = &[0];
    const PLANES: &'static [Plane] = &[Plane { bits: 2, stride: 1, shift: 0, at: (2, 16) }];

    fn read(header: Header) -> Grid {
        one_group(header, half_at(&header, 0), 0.0)
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        header_with(scale[0], 0)
    }

    fn fit(weights: &[f32], _: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let scale = weights.iter().fold(0.0, |m: f32, w| if w.abs() > m { w.abs() } else { m });
        let inverse = inverse(scale);
        for (c, w) in codes.iter_mut().zip(weights) {
            *c = truncate((w * inverse).round()).wrapping_add(1).clamp(0, 3) as u8;
        }
        Self::read(header_with(scale, 0))
    }
}
