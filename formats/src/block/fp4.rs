//! 4-bit floats (E2M1) with a small float as scale: MXFP4 of the OCP microscaling formats and NVIDIA's NVFP4.
//!
//! | format | groups | scale of a group |
//! |---|---|---|
//! | MXFP4 | 1 of 32 | E8M0: a power of two |
//! | NVFP4 | 4 of 16 | UE4M3: 4 bits exponent, 3 bits mantissa, no sign |
//!
//! [`LEVELS`] are twice the E2M1 values, so effective scales are half of what the scale bytes say.

use super::scalar::{Codes, Plane, format, one_group};
use super::search::{extreme, truncate};
use super::{BlockFormat, Grid, Header, Importance};

/// 4.25 bits in all.
pub static MXFP4: BlockFormat = format::<Mx>("MXFP4", 39, Importance::Unused, 1.2e-1);
/// 4.5 bits in all.
pub static NVFP4: BlockFormat = format::<Nv>("NVFP4", 40, Importance::Unused, 9.5e-2);

/// Sign in the highest bit; two codes for zero.
pub const LEVELS: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];

/// The first code of least error.
fn nearest_level(scale: f32, x: f32) -> u8 {
    let mut best = 0;
    let mut least = (LEVELS[0] * scale - x).abs();
    for (code, level) in LEVELS.iter().enumerate().skip(1) {
        let error = (level * scale - x).abs();
        if error < least {
            best = code;
            least = error;
        }
    }
    best as u8
}

/// Half of `2^(e - 127)`. 255 (NaN by the standard) is read as a power of two, as ggml does.
pub fn half_of_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e as u32 - 1) << 23 })
}

/// The scale of 32 weights of MXFP4 with this largest magnitude: E8M0.
pub fn mx_scale(largest: f32) -> u8 {
    if largest <= 0.0 || largest.is_nan() {
        return 0;
    }
    // Takes the largest weight's binade to that of 4. The logarithm is rounded to single precision, so weights a
    // few units below a power of two count as that power; exponents below 0 wrap to huge scales, as in ggml.
    let exponent = ((largest as f64).log2() as f32).floor() - 2.0 + 127.0;
    truncate(exponent) as u8
}

/// The scale of 16 weights of NVFP4 with this largest magnitude: UE4M3.
pub fn nv_scale(largest: f32) -> u8 {
    let byte = to_ue4m3(largest / 6.0); // 6 is the largest E2M1 value
    if byte >= 0x78 {
        return 0x7e; // ggml takes the whole highest binade, 256 to 448, for its end
    }
    byte
}

struct Mx;

impl Codes for Mx {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 17;
    const GROUP: usize = 32;
    const LEVELS: &'static [f32] = &LEVELS;
    const CONSECUTIVE: bool = false;
    const HEADER: &'static [(usize, usize)] = &[(0, 1)];
    const HALVES: &'static [usize] = &[];
    const PLANES: &'static [Plane] = &[Plane { bits: 4, stride: 16, shift: 0, at: (1, 16) }];

    fn read(header: Header) -> Grid {
        one_group(header, half_of_e8m0(header[0]), 0.0)
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        let mut header = Header::default();
        header[0] = ((scale[0].abs() as f64).log2().round() + 128.0).clamp(0.0, 254.0) as u8;
        header
    }

    fn fit(weights: &[f32], _: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let mut header = Header::default();
        header[0] = mx_scale(extreme(weights).abs());
        let grid = Self::read(header);
        for (c, w) in codes.iter_mut().zip(weights) {
            *c = nearest_level(grid.scale[0], *w);
        }
        grid
    }

    fn finite(header: &Header) -> bool {
        header[0] != 0xff
    }
}

/// Half of what a UE4M3 byte stands for: bias 7, subnormals, no infinity; 127 (NaN by the standard) is 0, bit 7 is ignored.
pub fn half_of_ue4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = ((byte >> 3 & 15) as i32, (byte & 7) as f32);
    match (byte, exponent) {
        (0 | 0x7f, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-10),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 8),
    }
}

/// Nearest UE4M3 byte, ties up; 448 where it is too large, 0 where it is negative.
fn to_ue4m3(x: f32) -> u8 {
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let bits = x.min(448.0).to_bits();
    let exponent = (bits >> 23) as i32 - 120;
    if exponent <= 0 {
        return truncate(x * 512.0 + 0.5).min(7) as u8;
    }
    // Exponent and three bits of mantissa; a carry out of the mantissa belongs to the exponent.
    let rounded = ((exponent as u32) << 3 | bits >> 20 & 7) + (bits >> 19 & 1);
    rounded.min(0x7e) as u8
}

struct Nv;

impl Codes for Nv {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 64;
    const BYTES: usize = 36;
    const GROUP: usize = 16;
    const LEVELS: &'static [f32] = &LEVELS;
    const CONSECUTIVE: bool = false;
    const HEADER: &'static [(usize, usize)] = &[(0, 4)];
    const HALVES: &'static [usize] = &[];
    const PLANES: &'static [Plane] = &[Plane { bits: 4, stride: 8, shift: 0, at: (4, 32) }];

    fn read(header: Header) -> Grid {
        let mut grid = Grid { scale: [0.0; 16], min: [0.0; 16], header };
        for (scale, &byte) in grid.scale.iter_mut().zip(&header[..4]) {
            *scale = half_of_ue4m3(byte);
        }
        grid
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        let mut header = Header::default();
        for (h, s) in header.iter_mut().zip(&scale[..4]) {
            *h = to_ue4m3(2.0 * s.abs());
        }
        header
    }

    fn fit(weights: &[f32], _: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let mut header = Header::default();
        for (h, x) in header.iter_mut().zip(weights.chunks_exact(16)) {
            *h = nv_scale(extreme(x).abs());
        }
        let grid = Self::read(header);
        for (g, (codes, x)) in codes.chunks_exact_mut(16).zip(weights.chunks_exact(16)).enumerate() {
            for (c, w) in codes.iter_mut().zip(x) {
                *c = nearest_level(grid.scale[g], *w);
            }
        }
        grid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_bytes_are_read_back() {
        for byte in 0..0x7f {
            assert_eq!(to_ue4m3(2.0 * half_of_ue4m3(byte)), byte);
        }
        for e in 0..=0xfe {
            assert_eq!(Mx::header(&[half_of_e8m0(e)], &[], None)[0], e);
        }
    }

    #[test]
    fn highest_binade_is_its_end() {
        let byte = |largest: f32| Nv::fit(&[largest; 64], None, 0.0, &mut [0; 64]).header[0];
        assert_eq!([byte(6.0 * 239.0), byte(6.0 * 249.0), byte(6.0 * 300.0), byte(1e30)], [0x77, 0x7e, 0x7e, 0x7e]);
    }

    #[test]
    fn only_the_nan_exponent_is_bad() {
        let block = |e: u8| [vec![e], vec![0x77; 16]].concat();
        assert_eq!((MXFP4.find_nonfinite)(&[block(0), block(0xfe), block(0xff)].concat()), Some(2));
        assert_eq!((NVFP4.find_nonfinite)(&[0xff; 36]), None);
    }
}
