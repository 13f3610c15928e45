//! K-quants without minimums: super-blocks of 256 weights in 16 groups of 16 with signed integer scales.
//!
//! | format | header | codes |
//! |---|---|---|
//! | Q3_K | 6-bit scales, d | 3 bits |
//! | Q6_K | 8-bit scales, d | 6 bits |
//!
//! A weight is `d * scale * (code - 2^(bits - 1))`.

use super::scalar::{Codes, Plane, choose_again, consecutive, format, half_at, put_half};
use super::search::{ALL_ZERO, extreme, importance_weights, nearest, sum_of_squares, symmetric, symmetric_by_descent};
use super::{BlockFormat, Grid, Header, Importance, Steps};

/// 3 bits, 3.4375 in all.
pub static Q3_K: BlockFormat = format::<Three>("Q3_K", 11, Importance::Used, 1.5e-1);
/// 6 bits, 6.5625 in all.
pub static Q6_K: BlockFormat = format::<Six>("Q6_K", 14, Importance::Used, 1.8e-2);

struct Three;

/// Scales are stored plus 32: low nibbles of 0-7 and 8-15 share bytes 0..8, upper two bits lie in bytes 8..12.
impl Three {
    fn stored(header: &Header) -> [i16; 16] {
        std::array::from_fn(|g| {
            let low = header[g % 8] >> (4 * (g / 8)) & 15;
            let high = header[8 + g % 4] >> (2 * (g / 4)) & 3;
            i16::from(low | high << 4) - 32
        })
    }

    fn store(header: &mut Header, scales: &[u8; 16]) {
        for (g, s) in scales.iter().enumerate() {
            header[g % 8] |= (s & 15) << (4 * (g / 8));
            header[8 + g % 4] |= (s >> 4) << (2 * (g / 4));
        }
    }
}

impl Codes for Three {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const LEVELS: &'static [f32] = &consecutive::<8>(-4);
    const HEADER: &'static [(usize, usize)] = &[(96, 14)];
    const HALVES: &'static [usize] = &[12];
    const PLANES: &'static [Plane] =
        &[Plane { bits: 1, stride: 32, shift: 2, at: (0, 32) }, Plane { bits: 2, stride: 32, shift: 0, at: (32, 64) }];

    fn read(header: Header) -> Grid {
        let d = half_at(&header, 12);
        Grid { scale: Self::stored(&header).map(|s| d * s as f32), min: [0.0; 16], header }
    }

    fn header(scale: &[f32], _: &[f32], importance: Option<&[f32]>) -> Header {
        let scale = &scale[..16];
        let mut scales = [0u8; 16];
        let d = if let Some(importance) = importance {
            symmetric(scale, 32, Some(importance), &mut scales)
        } else {
            let extreme = extreme(scale);
            if extreme != 0.0 {
                let inverse = -32.0 / extreme;
                for (i, s) in scales.iter_mut().zip(scale) {
                    *i = ((nearest(inverse * s) as i8).clamp(-32, 31) + 32) as u8;
                }
                1.0 / inverse
            } else {
                0.0
            }
        };
        let mut header = Header::default();
        Self::store(&mut header, &scales);
        put_half(&mut header, 12, d);
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        let (unit, scale) = (half_at(header, 12), Self::stored(header));
        Some(Steps { unit, min_unit: 0.0, scale, min: [0; 16], scales: (-32, 31), mins: (0, 0) })
    }

    fn put(steps: &Steps) -> Option<Header> {
        let mut header = Header::default();
        put_half(&mut header, 12, steps.unit);
        Self::store(&mut header, &steps.scale.map(|s| (s + 32) as u8));
        Some(header)
    }

    fn fit(weights: &[f32], importance: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let (mut scales, mut sums) = ([0.0; 16], [0.0; 16]);
        let sigma2 = 2.0 * sum_of_squares(weights) / 256.0;
        for (g, (x, codes)) in weights.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
            scales[g] = match importance {
                Some(importance) => {
                    let weighting: [f32; 16] = importance_weights(x, &importance[16 * g..], sigma2);
                    sums[g] = weighting.iter().fold(0.0, |s, w| s + w);
                    symmetric(x, 4, Some(&weighting), codes)
                }
                None => symmetric_by_descent(x, 4, codes),
            };
        }
        let grid = Self::read(Self::header(&scales, &[], importance.map(|_| &sums[..])));
        choose_again::<Self>(&grid, weights, codes);
        grid
    }
}

struct Six;

impl Codes for Six {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const LEVELS: &'static [f32] = &consecutive::<64>(-32);
    const HEADER: &'static [(usize, usize)] = &[(192, 18)];
    const HALVES: &'static [usize] = &[16];
    const PLANES: &'static [Plane] = &[
        Plane { bits: 4, stride: 64, shift: 0, at: (0, 128) },
        Plane { bits: 2, stride: 32, shift: 4, at: (128, 64) },
    ];

    fn read(header: Header) -> Grid {
        let d = half_at(&header, 16);
        let mut grid = Grid { scale: [0.0; 16], min: [0.0; 16], header };
        for (scale, &h) in grid.scale.iter_mut().zip(&header) {
            *scale = d * (h as i8) as f32;
        }
        grid
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        let extreme = extreme(&scale[..16]);
        let mut header = Header::default();
        if extreme.abs() >= ALL_ZERO {
            let inverse = -128.0 / extreme;
            for (h, s) in header.iter_mut().zip(&scale[..16]) {
                *h = nearest(inverse * s).min(127) as u8;
            }
            put_half(&mut header, 16, 1.0 / inverse);
        }
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        let scale = std::array::from_fn(|g| i16::from(header[g] as i8));
        Some(Steps { unit: half_at(header, 16), min_unit: 0.0, scale, min: [0; 16], scales: (-128, 127), mins: (0, 0) })
    }

    fn put(steps: &Steps) -> Option<Header> {
        let mut header = Header::default();
        header.iter_mut().zip(steps.scale).for_each(|(h, s)| *h = s as u8);
        put_half(&mut header, 16, steps.unit);
        Some(header)
    }

    fn fit(weights: &[f32], importance: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let mut scales = [0.0; 16];
        for (g, (x, codes)) in weights.chunks_exact(16).zip(codes.chunks_exact_mut(16)).enumerate() {
            // Importance counts as it is here, not mixed with the weights' size.
            scales[g] = symmetric(x, 32, importance.map(|i| &i[16 * g..][..16]), codes);
        }
        let grid = Self::read(Self::header(&scales, &[], None));
        if extreme(&scales).abs() < ALL_ZERO {
            codes.fill(0); // the whole block is zero bytes
        } else {
            choose_again::<Self>(&grid, weights, codes);
        }
        grid
    }
}
