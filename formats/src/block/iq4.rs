//! 4-bit codes on a fixed uneven grid that is denser near zero: IQ4_NL and IQ4_XS.
//!
//! | format | groups | header |
//! |---|---|---|
//! | IQ4_NL | 1 of 32 | d |
//! | IQ4_XS | 8 of 32 | d, 6-bit scales |
//!
//! A weight is `d * scale * LEVELS[code]`. Source of the search: `quantize_row_iq4_nl_impl` of ggml.

use super::scalar::{Codes, Plane, format, half_at, one_group, one_step, put_half};
use super::search::{ALL_ZERO, extreme, importance_weights, nearest, sum_of_squares};
use super::{BlockFormat, Grid, Header, Importance, Steps};

/// One scale per 32 weights, 4.5 bits in all.
pub static IQ4_NL: BlockFormat = format::<Nl>("IQ4_NL", 20, Importance::Used, 7.6e-2);
/// Super-blocks of 256, 4.25 bits in all.
pub static IQ4_XS: BlockFormat = format::<Xs>("IQ4_XS", 23, Importance::Used, 7.7e-2);

/// The grid (a fact of the format).
const LEVELS: [f32; 16] = [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];

/// Code of the level nearest to `x`; ties go up.
fn nearest_level(x: f32) -> usize {
    if x <= LEVELS[0] {
        return 0;
    }
    if x >= LEVELS[15] {
        return 15;
    }
    let (mut below, mut above) = (0, 15);
    while above - below > 1 {
        let middle = (below + above) / 2;
        if x < LEVELS[middle] {
            above = middle;
        } else {
            below = middle;
        }
    }
    if x - LEVELS[above - 1] < LEVELS[above] - x { above - 1 } else { above }
}

/// Least-squares scale of 32 weights: tries 15 scales around the one that takes the extreme weight to the lowest level, and
/// first the one that takes it to the opposite of the lowest.
fn scale_of(x: &[f32], importance: Option<&[f32]>, sigma2: f32) -> f32 {
    let weighting: [f32; 32] = match importance {
        Some(importance) => importance_weights(x, importance, sigma2),
        None => std::array::from_fn(|i| x[i] * x[i]),
    };
    let extreme = extreme(x);
    if extreme.abs() < ALL_ZERO {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut qx, mut q2) = (0.0f32, 0.0f32);
        for (&v, &w) in x.iter().zip(&weighting) {
            let q = LEVELS[nearest_level(inverse * v)];
            qx += w * q * v;
            q2 += w * q * q;
        }
        (qx, q2)
    };
    let (qx, q2) = sums(1.0 / (-extreme / LEVELS[0]));
    let mut scale = if q2 > 0.0 { qx / q2 } else { 0.0 };
    let mut best = scale * qx;
    for step in -7..=7 {
        let (qx, q2) = sums((step as f32 + LEVELS[0]) / extreme);
        if q2 > 0.0 && qx * qx > best * q2 {
            scale = qx / q2;
            best = scale * qx;
        }
    }
    scale
}

/// Codes of 32 weights. ggml uses the scale as it was before it was rounded to half precision.
fn codes_of(x: &[f32], scale: f32, codes: &mut [u8]) {
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    for (c, v) in codes.iter_mut().zip(x) {
        *c = nearest_level(inverse * v) as u8;
    }
}

struct Nl;

impl Codes for Nl {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const LEVELS: &'static [f32] = &LEVELS;
    const CONSECUTIVE: bool = false;
    const HEADER: &'static [(usize, usize)] = &[(0, 2)];
    const HALVES: &'static [usize] = &[0];
    const PLANES: &'static [Plane] = &[Plane { bits: 4, stride: 16, shift: 0, at: (2, 16) }];

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

    fn fit(weights: &[f32], importance: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let sigma2 = sum_of_squares(weights) * (2.0 / 32.0);
        let scale = scale_of(weights, importance, sigma2);
        codes_of(weights, scale, codes);
        Self::read(Self::header(&[scale], &[], None))
    }
}

struct Xs;

impl Xs {
    /// Integers of the groups' scales in `-32 ..= 31` and their common scale, not yet rounded to half precision.
    fn integers(scale: &[f32]) -> ([i32; 8], f32) {
        let d = -extreme(&scale[..8]) / 32.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        (std::array::from_fn(|g| nearest(inverse * scale[g]).clamp(-32, 31)), d)
    }
}

/// Scales are stored plus 32: upper two bits of all in bytes 2..4, low nibbles in 4..8.
impl Xs {
    fn stored(header: &Header) -> [i16; 16] {
        let high = u16::from_le_bytes([header[2], header[3]]);
        let mut scale = [0; 16];
        for (g, s) in scale[..8].iter_mut().enumerate() {
            let low = header[4 + g / 2] >> (4 * (g % 2)) & 15;
            *s = (low as i16 | ((high >> (2 * g)) as i16 & 3) << 4) - 32;
        }
        scale
    }

    fn store(header: &mut Header, scale: &[i16]) {
        for (g, i) in scale[..8].iter().enumerate() {
            let stored = (i + 32) as u8;
            header[2 + g / 4] |= (stored >> 4) << (2 * (g % 4));
            header[4 + g / 2] |= (stored & 15) << (4 * (g % 2));
        }
    }
}

impl Codes for Xs {
    const THIS: &'static Self = &Self;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 136;
    const GROUP: usize = 32;
    const LEVELS: &'static [f32] = &LEVELS;
    const CONSECUTIVE: bool = false;
    const HEADER: &'static [(usize, usize)] = &[(0, 8)];
    const HALVES: &'static [usize] = &[0];
    const PLANES: &'static [Plane] = &[Plane { bits: 4, stride: 16, shift: 0, at: (8, 128) }];

    fn read(header: Header) -> Grid {
        let (d, stored) = (half_at(&header, 0), Self::stored(&header));
        let scale = std::array::from_fn(|g| if g < 8 { d * stored[g] as f32 } else { 0.0 });
        Grid { scale, min: [0.0; 16], header }
    }

    fn header(scale: &[f32], _: &[f32], _: Option<&[f32]>) -> Header {
        let (integers, d) = Self::integers(scale);
        let mut header = Header::default();
        put_half(&mut header, 0, d);
        Self::store(&mut header, &integers.map(|i| i as i16));
        header
    }

    fn steps(header: &Header) -> Option<Steps> {
        Some(Steps { scale: Self::stored(header), scales: (-32, 31), ..one_step(half_at(header, 0), None) })
    }

    fn put(steps: &Steps) -> Option<Header> {
        let mut header = Header::default();
        put_half(&mut header, 0, steps.unit);
        Self::store(&mut header, &steps.scale);
        Some(header)
    }

    fn fit(weights: &[f32], importance: Option<&[f32]>, _: f32, codes: &mut [u8]) -> Grid {
        let sigma2 = sum_of_squares(weights) * (2.0 / 256.0);
        let mut scales = [0.0; 8];
        for (g, (scale, x)) in scales.iter_mut().zip(weights.chunks_exact(32)).enumerate() {
            *scale = scale_of(x, importance.map(|i| &i[32 * g..][..32]), sigma2);
        }
        let (integers, d) = Self::integers(&scales);
        for ((i, x), codes) in integers.iter().zip(weights.chunks_exact(32)).zip(codes.chunks_exact_mut(32)) {
            codes_of(x, d * *i as f32, codes);
        }
        Self::read(Self::header(&scales, &[], None))
    }
}
