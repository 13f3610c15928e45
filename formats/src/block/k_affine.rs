//! K-quants with minimums: super-blocks of 256 weights, each group with its own small integer scale and minimum.
//!
//! | format | groups | header | codes |
//! |---|---|---|---|
//! | Q2_K | 16 of 16 | 4-bit scales and minimums, d, dmin | 2 bits |
//! | Q4_K | 8 of 32 | d, dmin, 6-bit scales and minimums | 4 bits |
//! | Q5_K | 8 of 32 | as Q4_K | 5 bits |
//!
//! A weight is `d * scale * code - dmin * minimum`.

use super::scalar::{Codes, Plane, choose_again, consecutive, format, half_at, put_half};
use super::search::{Sweep, affine, importance_weights, nearest, positive, sum_of_squares};
use super::{BlockFormat, Grid, Header, Importance, Steps};

/// 2 bits, 2.625 in all.
pub static Q2_K: BlockFormat = format::<Two>("Q2_K", 10, Importance::Used, 3.0e-1);
/// 4 bits, 4.5 in all.
pub static Q4_K: BlockFormat = format::<FourFive<4>>("Q4_K", 12, Importance::Used, 7.1e-2);
/// 5 bits, 5.5 in all.
pub static Q5_K: BlockFormat = format::<FourFive<5>>("Q5_K", 13, Importance::Used, 3.6e-2);

/// Integers in `0 ..= top` and their common scale for the scales (or minimums) of a block's groups.
///
/// Without importance the largest is taken to `top`; integers of negative numbers wrap, as they do in ggml.
fn integers(x: &[f32], top: i32, importance: Option<&[f32]>, out: &mut [u8]) -> f32 {
    if let Some(importance) = importance {
        return positive(x, top, importance, out);
    }
    let high = x.iter().fold(0.0, |m, &v| if v > m { v } else { m });
    if high <= 0.0 {
        out.fill(0);
        return 0.0;
    }
    let inverse = top as f32 / high;
    for (o, v) in out.iter_mut().zip(x) {
        *o = nearest(inverse * v) as u8;
    }
    high / top as f32
}

/// Fits the groups of a block one by one.
///
/// `weighting(group, weights)` is how much each weight's error counts. Returns scales, minimums and the
/// groups' importance (the sum of its weighting).
fn groups<const N: usize>(
    weights: &[f32],
    top: i32,
    sweep: &Sweep,
    codes: &mut [u8],
    weighting: impl Fn(usize, &[f32]) -> [f32; N],
) -> ([f32; 16], [f32; 16], [f32; 16]) {
    let (mut scales, mut minimums, mut sums) = ([0.0; 16], [0.0; 16], [0.0; 16]);
    for (g, (x, codes)) in weights.chunks_exact(N).zip(codes.chunks_exact_mut(N)).enumerate() {
        let weighting = weighting(g, x);
        sums[g] = weighting.iter().fold(0.0, |s, w| s + w);
        (scales[g], minimums[g]) = affine(x, top, &weighting, sweep, codes);
    }
    (scales, minimums, sums)
}

struct Two;

impl Codes for Two {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const LEVELS: &'static [f32] = &consecutive::<4>(0);
    const HEADER: &'static [(usize, usize)] = &[(0, 16), (80, 4)];
    const HALVES: &'static [usize] = &[16, 18];
    const PLANES: &'static [Plane] = &[Plane { bits: 2, stride: 32, shift: 0, at: (16, 64) }];

    fn read(header: Header) -> Grid {
        let (d, dmin) = (half_at(&header, 16), half_at(&header, 18));
        let mut grid = Grid { scale: [0.0; 16], min: [0.0; 16], header };
        for (g, both) in header[..16].iter().enumerate() {
            grid.scale[g] = d * (both & 15) as f32;
            grid.min[g] = dmin * (both >> 4) as f32;
        }
        grid
    }

    fn header(scale: &[f32], minimum: &[f32], importance: Option<&[f32]>) -> Header {
        let (mut scales, mut minimums) = ([0u8; 16], [0u8; 16]);
        let d = integers(&scale[..16], 15, importance, &mut scales);
        let dmin = integers(&minimum[..16], 15, importance, &mut minimums);
        let mut header = Header::default();
        for (h, (s, m)) in header.iter_mut().zip(scales.iter().zip(minimums)) {
            *h = s | m << 4;
        }
        put_half(&mut header, 16, d);
        put_half(&mut header, 18, dmin);
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        let scale = std::array::from_fn(|g| i16::from(header[g] & 15));
        let min = std::array::from_fn(|g| i16::from(header[g] >> 4));
        let (unit, min_unit) = (half_at(header, 16), half_at(header, 18));
        Some(Steps { unit, min_unit, scale, min, scales: (0, 15), mins: (0, 15) })
    }

    fn put(steps: &Steps) -> Option<Header> {
        let mut header = Header::default();
        for (h, (s, m)) in header.iter_mut().zip(steps.scale.iter().zip(steps.min)) {
            *h = *s as u8 | (m as u8) << 4;
        }
        put_half(&mut header, 16, steps.unit);
        put_half(&mut header, 18, steps.min_unit);
        Some(header)
    }

    fn fit(weights: &[f32], importance: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let header = match importance {
            Some(importance) => {
                let sigma2 = sum_of_squares(weights) / 256.0;
                let (scales, minimums, sums) = groups::<16>(weights, 3, &Sweep::FINE, codes, |g, x| {
                    importance_weights(x, &importance[16 * g..], sigma2)
                });
                Self::header(&scales, &minimums, Some(&sums))
            }
            None => {
                let sweep = Sweep { from: -0.5, step: 0.1, last: 15, absolute: true };
                let magnitudes = |_, x: &[f32]| std::array::from_fn(|i| x[i].abs());
                let (scales, minimums, _) = groups::<16>(weights, 3, &sweep, codes, magnitudes);
                Self::header(&scales, &minimums, None)
            }
        };
        let grid = Self::read(header);
        choose_again::<Self>(&grid, weights, codes);
        grid
    }
}

struct FourFive<const BITS: usize>;

impl<const BITS: usize> FourFive<BITS> {
    const SWEEP: Sweep = if BITS == 4 {
        Sweep { from: -1.0, step: 0.1, last: 20, absolute: false }
    } else {
        Sweep { from: -0.5, step: 0.1, last: 15, absolute: false }
    };
}

/// The scales and minimums of Q4_K and Q5_K. Bytes 4..16 hold twelve times 8 bits: low 6 bits of scales 0-3 and minimums
/// 0-3, then low nibbles of scales and minimums 4-7; the latter's upper two bits lie above the former.
fn stored(header: &Header) -> ([i16; 16], [i16; 16]) {
    let packed = &header[4..16];
    let (mut scales, mut minimums) = ([0; 16], [0; 16]);
    for g in 0..8 {
        let (scale, minimum) = if g < 4 {
            (packed[g] & 63, packed[g + 4] & 63)
        } else {
            (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4)
        };
        (scales[g], minimums[g]) = (scale.into(), minimum.into());
    }
    (scales, minimums)
}

/// Writes them. Bits above the sixth spill, as they do in ggml.
fn store(header: &mut Header, scales: &[u8; 8], minimums: &[u8; 8]) {
    let packed = &mut header[4..16];
    packed[..4].copy_from_slice(&scales[..4]);
    packed[4..8].copy_from_slice(&minimums[..4]);
    for g in 4..8 {
        packed[g + 4] = scales[g] & 15 | (minimums[g] & 15) << 4;
        packed[g - 4] |= scales[g] >> 4 << 6;
        packed[g] |= minimums[g] >> 4 << 6;
    }
}

impl<const BITS: usize> Codes for FourFive<BITS> {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 16 + 32 * BITS;
    const GROUP: usize = 32;
    const LEVELS: &'static [f32] =
        if BITS == 4 { const { &consecutive::<16>(0) } } else { const { &consecutive::<32>(0) } };
    const HEADER: &'static [(usize, usize)] = &[(0, 16)];
    const HALVES: &'static [usize] = &[0, 2];
    const PLANES: &'static [Plane] = if BITS == 4 {
        const { &[Plane { bits: 4, stride: 32, shift: 0, at: (16, 128) }] }
    } else {
        const {
            &[
                Plane { bits: 1, stride: 32, shift: 4, at: (16, 32) },
                Plane { bits: 4, stride: 32, shift: 0, at: (48, 128) },
            ]
        }
    };

    fn read(header: Header) -> Grid {
        let (d, dmin) = (half_at(&header, 0), half_at(&header, 2));
        let (scale, min) = stored(&header);
        Grid { scale: scale.map(|s| d * s as f32), min: min.map(|m| dmin * m as f32), header }
    }

    fn header(scale: &[f32], minimum: &[f32], importance: Option<&[f32]>) -> Header {
        let importance = importance.map(|i| &i[..8]);
        let (mut scales, mut minimums) = ([0u8; 8], [0u8; 8]);
        let d = integers(&scale[..8], 63, importance, &mut scales);
        let dmin = integers(&minimum[..8], 63, importance, &mut minimums);
        // ggml does not clamp in Q4_K with importance; only negative scales, which wrapped, show the difference.
        if importance.is_none() || BITS == 5 {
            for i in scales.iter_mut().chain(&mut minimums) {
                *i = 63.min(*i);
            }
        }
        let mut header = Header::default();
        put_half(&mut header, 0, d);
        put_half(&mut header, 2, dmin);
        store(&mut header, &scales, &minimums);
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        let (scale, min) = stored(header);
        let (unit, min_unit) = (half_at(header, 0), half_at(header, 2));
        Some(Steps { unit, min_unit, scale, min, scales: (0, 63), mins: (0, 63) })
    }

    fn put(steps: &Steps) -> Option<Header> {
        let mut header = Header::default();
        put_half(&mut header, 0, steps.unit);
        put_half(&mut header, 2, steps.min_unit);
        let byte = |all: &[i16; 16]| std::array::from_fn(|g| all[g] as u8);
        store(&mut header, &byte(&steps.scale), &byte(&steps.min));
        Some(header)
    }

    fn fit(weights: &[f32], importance: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let top = (1 << BITS) - 1;
        let header = match importance {
            Some(importance) => {
                let sigma2 = 2.0 * sum_of_squares(weights) / 256.0;
                let (scales, minimums, sums) = groups::<32>(weights, top, &Sweep::FINE, codes, |g, x| {
                    importance_weights(x, &importance[32 * g..], sigma2)
                });
                Self::header(&scales, &minimums, Some(&sums))
            }
            None => {
                let (scales, minimums, _) = groups::<32>(weights, top, &Self::SWEEP, codes, |_, x| {
                    let root = (sum_of_squares(x) / 32.0).sqrt();
                    std::array::from_fn(|i| root + x[i].abs())
                });
                Self::header(&scales, &minimums, None)
            }
        };
        let grid = Self::read(header);
        choose_again::<Self>(&grid, weights, codes);
        grid
    }
}
