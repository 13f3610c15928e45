//! One bit and a half: eight weights as a point of a codebook with digits -1, 0, 1, all shifted up or down by an eighth.
//!
//! | format | scale and shift for | block |
//! |---|---|---|
//! | IQ1_S | 32 weights | d, 32 low point bytes, 8 x (4 x 3 high point bits, 3 scale bits, shift) |
//! | IQ1_M | scale 16, shift 8 | 32 low point bytes, 16 x 2 x (3 high point bits, shift), 16 x 3 scale bits, d in four pieces |
//!
//! A weight is `d * (2 * scale + 1) * (digit + shift)`. Sources: `quantize_row_iq1_s_impl`, `quantize_row_iq1_m_impl` of ggml.
//! IQ1_S needs importance: ggml has no rule without and refuses; called without, it takes all columns as equally important.

use super::codebook::{BLOCK, Codebook, GroupCodes, format, weighting};
use super::codebook_tables as tables;
use super::scalar::{half_at, put_half};
use super::search::{largest_magnitude, max, nearest};
use super::{BlockFormat, Importance};
use half::f16;
use std::sync::LazyLock;

/// 1.5625 bits in all.
pub static IQ1_S: BlockFormat = format::<OfS>("IQ1_S", 19, Importance::Required, 4.9e-1);
/// 1.75 bits in all.
pub static IQ1_M: BlockFormat = format::<OfM>("IQ1_M", 29, Importance::Required, 5.8e-1);

/// The points of both.
pub static BOOK: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&tables::IQ1, 8, 2, 2, 3));

/// What the digits stand for, shifted up.
pub const UP: [f32; 3] = [-0.875, 0.125, 1.125];
/// What the digits stand for, shifted down.
pub const DOWN: [f32; 3] = [-1.125, -0.125, 0.875];

/// Writes the eight weights of a packed point.
fn write_point(point: u16, levels: &[f32; 3], scale: f32, out: &mut [f32]) {
    for (j, o) in out.iter_mut().enumerate() {
        *o = scale * levels[((point >> (2 * j) & 3) as usize).min(2)]; // no point has a digit 3
    }
}

/// Indices of the weights in ascending order; equal ones in their order. Sorts NaN somewhere.
fn ascending<const N: usize>(x: &[f32]) -> [usize; N] {
    let mut order = std::array::from_fn(|i| i);
    for end in 1..N {
        let mut at = end;
        while at > 0 && x[order[at]] < x[order[at - 1]] {
            order.swap(at, at - 1);
            at -= 1;
        }
    }
    order
}

/// Digits of weights whose order is split before `first` and before `second`.
fn split<const N: usize>(order: &[usize; N], first: usize, second: usize) -> [u8; N] {
    let mut digits = [1; N];
    order[..first].iter().for_each(|&i| digits[i] = 0);
    order[second..].iter().for_each(|&i| digits[i] = 2);
    digits
}

/// Points for the digits of each eight weights (`levels(k)` is what digits of the `k`-th eight stand for) and the scale refitted
/// to them if any had to move.
fn snap<'a>(
    x: &[f32],
    w: &[f32],
    digits: &[u8],
    scale: f32,
    levels: impl Fn(usize) -> &'a [f32; 3],
    points: &mut [u16],
) -> f32 {
    let book = &*BOOK;
    let mut all_exact = true;
    for (k, ((x, w), digits)) in x.chunks_exact(8).zip(w.chunks_exact(8)).zip(digits.chunks_exact(8)).enumerate() {
        points[k] = book.find(digits.iter().copied()).unwrap_or_else(|near| {
            all_exact = false;
            book.best_of_many(near, 3, |i, d| {
                let difference = scale * levels(k)[d as usize] - x[i];
                w[i] * difference * difference
            })
        });
    }
    if all_exact {
        return scale;
    }
    let (mut qx, mut q2) = (0.0f32, 0.0f32);
    for (k, (x, w)) in x.chunks_exact(8).zip(w.chunks_exact(8)).enumerate() {
        for ((&v, &w), &d) in x.iter().zip(w).zip(&book.points[points[k] as usize]) {
            let q = levels(k)[d as usize];
            qx += w * q * v;
            q2 += w * q * q;
        }
    }
    if qx > 0.0 && q2 > 0.0 { qx / q2 } else { scale }
}

/// A group's scale as an integer of three bits that stands for `2 * l + 1`.
fn integer(inverse: f32, scale: f32) -> u8 {
    nearest(0.5 * (inverse * scale - 1.0)).clamp(0, 7) as u8
}

/// A coded group: 32 weights of IQ1_S, 16 of IQ1_M. All fields are zero where the weights count as zero.
#[derive(Default, Clone, Copy)]
pub struct Shifted {
    /// Its weights are not all zero.
    pub coded: bool,
    /// Least-squares scale.
    pub scale: f32,
    /// Index of the point of each eight weights.
    pub points: [u16; 4],
    /// Shifted down: 1 in IQ1_S; bit `1 - k` for the `k`-th eight in IQ1_M.
    pub shifts: u8,
}

fn largest_scale(groups: &[Shifted]) -> f32 {
    groups.iter().filter(|g| g.coded).fold(0.0, |largest, g| max(largest, g.scale))
}

/// How much the errors of a block's weights count in IQ1_S.
pub fn weighting_s(x: &[f32], importance: Option<&[f32]>) -> [f32; BLOCK] {
    weighting(x, importance, 2.0, |sigma2, x| (sigma2 + x * x).sqrt())
}

/// Groups of IQ1_S with all weights below this are not coded.
pub const ZERO_S: f32 = 1e-12;

/// Writes a block of IQ1_S.
pub fn pack_s(groups: &[Shifted], out: &mut [u8]) {
    out.fill(0);
    for (g, group) in groups.iter().enumerate() {
        let mut high_bits = 0;
        for (k, point) in group.points.iter().enumerate() {
            out[2 + 4 * g + k] = *point as u8;
            high_bits |= (point >> 8) << (3 * k);
        }
        out[34 + 2 * g..][..2].copy_from_slice(&high_bits.to_le_bytes());
    }
    let largest = largest_scale(groups);
    if largest == 0.0 {
        return;
    }
    let d = largest / 15.0;
    put_half(out, 0, d * 1.125);
    for (g, group) in groups.iter().enumerate() {
        out[35 + 2 * g] |= integer(1.0 / d, group.scale) << 4 | group.shifts << 7;
    }
}

/// Finds the best of all splits of 32 sorted weights into three runs, shifted up or down.
/// Returns `(first, second, up, scale)`; `None` if no split has any weight.
fn best_split(x: &[f32], w: &[f32], order: &[usize; 32], start: f32) -> Option<(usize, usize, bool, f32)> {
    let (mut sum_x, mut sum_w) = ([0.0f32; 33], [0.0f32; 33]);
    for (j, &i) in order.iter().enumerate() {
        sum_x[j + 1] = sum_x[j] + w[i] * x[i];
        sum_w[j + 1] = sum_w[j] + w[i];
    }
    let (mut best, mut scale, mut found) = (-f32::MAX, start, None);
    for first in 0..=32 {
        for second in first..=32 {
            let x = [sum_x[first] - sum_x[0], sum_x[second] - sum_x[first], sum_x[32] - sum_x[second]];
            let w = [sum_w[first] - sum_w[0], sum_w[second] - sum_w[first], sum_w[32] - sum_w[second]];
            for (up, v) in [(true, UP), (false, DOWN)] {
                let qx = x[0] * v[0] + x[1] * v[1] + x[2] * v[2];
                let q2 = w[0] * v[0] * v[0] + w[1] * v[1] * v[1] + w[2] * v[2] * v[2];
                if q2 > 0.0 && qx * qx > best * q2 {
                    scale = qx / q2;
                    best = scale * qx;
                    found = Some((first, second, up));
                }
            }
        }
    }
    found.map(|(first, second, up)| (first, second, up, scale))
}

fn fit_s(x: &[f32], w: &[f32]) -> Option<Shifted> {
    let high = largest_magnitude(x);
    if high < ZERO_S {
        return None;
    }
    let order = ascending(x);
    let (first, second, mut up, mut scale) = best_split(x, w, &order, high)?;
    let mut digits = split(&order, first, second);
    if scale < 0.0 {
        digits.iter_mut().for_each(|d| *d = 2 - *d);
        scale = -scale;
        up = !up;
    }
    let mut points = [0; 4];
    scale = snap(x, w, &digits, scale, |_| if up { &UP } else { &DOWN }, &mut points);
    Some(Shifted { coded: true, scale, points, shifts: !up as u8 })
}

struct OfS;

impl GroupCodes for OfS {
    const BYTES: usize = 50;

    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let weighting = weighting_s(x, importance);
        let mut groups = [Shifted::default(); 8];
        for (group, (x, w)) in groups.iter_mut().zip(x.chunks_exact(32).zip(weighting.chunks_exact(32))) {
            *group = fit_s(x, w).unwrap_or_default();
        }
        pack_s(&groups, out);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, 0);
        for (g, (bits, out)) in block[34..].as_chunks::<2>().0.iter().zip(out.chunks_exact_mut(32)).enumerate() {
            let bits = u16::from_le_bytes(*bits);
            let scale = d * (2 * (bits >> 12 & 7) + 1) as f32;
            let levels = if bits >> 15 == 1 { &DOWN } else { &UP };
            for (k, out) in out.chunks_exact_mut(8).enumerate() {
                let point = block[2 + 4 * g + k] as usize | ((bits >> (3 * k) & 7) as usize) << 8;
                write_point(tables::IQ1[point], levels, scale, out);
            }
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half_at(block, 0)
    }
}

/// What digits stand for in half `k` of a group: bit `1 - k` of the shifts tells whether that half is shifted down.
fn levels_of(shifts: u8, k: usize) -> &'static [f32; 3] {
    if shifts >> (1 - k) & 1 == 1 { &DOWN } else { &UP }
}

/// As [`best_split`] for 16 weights whose halves are shifted apart. Returns `(first, second, shifts, scale)`.
fn best_split_in_halves(x: &[f32], w: &[f32], order: &[usize; 16], start: f32) -> Option<(usize, usize, u8, f32)> {
    let (mut sum_x, mut sum_w) = ([[0.0f32; 17]; 2], [[0.0f32; 17]; 2]); // (half, first weights in order)
    for (j, &i) in order.iter().enumerate() {
        for half in 0..2 {
            let (x, w) = if i / 8 == half { (w[i] * x[i], w[i]) } else { (0.0, 0.0) };
            sum_x[half][j + 1] = sum_x[half][j] + x;
            sum_w[half][j + 1] = sum_w[half][j] + w;
        }
    }
    // Neighbouring levels are one apart, so that sums over the three runs collapse: total * v[2] - (sums before the splits).
    let steps = |v: &[f32; 3]| (v[0] * v[0] - v[1] * v[1], v[1] * v[1] - v[2] * v[2]);
    let sides = [(UP[2], steps(&UP)), (DOWN[2], steps(&DOWN))];
    let (mut best, mut scale, mut found) = (-f32::MAX, start, None);
    for first in 0..=16 {
        for second in first..=16 {
            let (mut qx, mut q2) = ([[0.0f32; 2]; 2], [[0.0f32; 2]; 2]); // (half, down)
            for half in 0..2 {
                let (x, w) = (&sum_x[half], &sum_w[half]);
                let before = x[first] + x[second];
                for (down, (top, (step1, step2))) in sides.iter().enumerate() {
                    qx[half][down] = x[16] * top - before;
                    q2[half][down] = w[16] * top * top + w[first] * step1 + w[second] * step2;
                }
            }
            for shifts in 0..4u8 {
                let (down0, down1) = ((shifts >> 1) as usize, (shifts & 1) as usize);
                let (qx, q2) = (qx[0][down0] + qx[1][down1], q2[0][down0] + q2[1][down1]);
                if q2 > 0.0 && qx * qx > best * q2 {
                    scale = qx / q2;
                    best = scale * qx;
                    found = Some((first, second, shifts));
                }
            }
        }
    }
    found.map(|(first, second, shifts)| (first, second, shifts, scale))
}

/// How much the errors of a block's weights count in IQ1_M.
pub fn weighting_m(x: &[f32], importance: Option<&[f32]>) -> [f32; BLOCK] {
    weighting(x, importance, 2.0, |_, x| x * x)
}

/// Groups of IQ1_M with all weights below this are not coded.
pub const ZERO_M: f32 = 1e-7;

fn fit_m(x: &[f32], w: &[f32]) -> Option<Shifted> {
    let high = largest_magnitude(x);
    if high < ZERO_M {
        return None;
    }
    let order = ascending(x);
    let (first, second, mut shifts, mut scale) = best_split_in_halves(x, w, &order, high)?;
    let mut digits = split(&order, first, second);
    if scale < 0.0 {
        digits.iter_mut().for_each(|d| *d = 2 - *d);
        scale = -scale;
        shifts = 3 - shifts;
    }
    let mut points = [0; 4];
    scale = snap(x, w, &digits, scale, |k| levels_of(shifts, k), &mut points);
    Some(Shifted { coded: true, scale, points, shifts })
}

/// Writes a block of IQ1_M, whose scale is fitted to the weights once more.
pub fn pack_m(x: &[f32], weighting: &[f32; BLOCK], groups: &[Shifted], out: &mut [u8]) {
    out.fill(0);
    for (g, Shifted { points: [low, high, ..], .. }) in groups.iter().enumerate() {
        out[2 * g] = *low as u8;
        out[2 * g + 1] = *high as u8;
        out[32 + g] = (low >> 8 | high >> 8 << 4) as u8;
    }
    let largest = largest_scale(groups);
    if largest == 0.0 {
        return;
    }
    let mut d = largest / 15.0;
    let inverse = 1.0 / d;
    let mut words = [0u16; 4]; // four groups' scales in the lower twelve bits, a quarter of `d` above them
    let (mut qx, mut q2) = (0.0f32, 0.0f32);
    for (g, (x, w)) in x.chunks_exact(16).zip(weighting.chunks_exact(16)).enumerate() {
        let Shifted { scale, points, shifts, .. } = groups[g];
        let l = integer(inverse, scale);
        words[g / 4] |= (l as u16) << (3 * (g % 4));
        out[32 + g] |= (shifts & 1) << 7 | (shifts >> 1) << 3;
        for (k, (x, w)) in x.chunks_exact(8).zip(w.chunks_exact(8)).enumerate() {
            let (point, levels) = (&BOOK.points[points[k] as usize], levels_of(shifts, k));
            for ((&v, &w), &digit) in x.iter().zip(w).zip(point) {
                let q = levels[digit as usize] * (2 * l + 1) as f32;
                qx += w * q * v;
                q2 += w * q * q;
            }
        }
    }
    if q2 > 0.0 {
        d = qx / q2;
    }
    let d = f16::from_f32(d * 1.1125).to_bits();
    for (i, word) in words.iter_mut().enumerate() {
        *word |= (d >> (4 * i) & 15) << 12;
        out[48 + 2 * i..][..2].copy_from_slice(&word.to_le_bytes());
    }
}

struct OfM;

impl GroupCodes for OfM {
    const BYTES: usize = 56;

    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let weighting = weighting_m(x, importance);
        let mut groups = [Shifted::default(); 16];
        for (group, (x, w)) in groups.iter_mut().zip(x.chunks_exact(16).zip(weighting.chunks_exact(16))) {
            *group = fit_m(x, w).unwrap_or_default();
        }
        pack_m(x, &weighting, &groups, out);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = Self::scale(block);
        for (g, out) in out.chunks_exact_mut(16).enumerate() {
            let word = u16::from_le_bytes([block[48 + g / 4 * 2], block[49 + g / 4 * 2]]);
            let scale = d * (2 * (word >> (3 * (g % 4)) & 7) + 1) as f32;
            for (k, out) in out.chunks_exact_mut(8).enumerate() {
                let bits = block[32 + g] >> (4 * k) & 15;
                let point = block[2 * g + k] as usize | (bits as usize & 7) << 8;
                write_point(tables::IQ1[point], if bits & 8 != 0 { &DOWN } else { &UP }, scale, out);
            }
        }
    }

    fn scale(block: &[u8]) -> f32 {
        f16::from_bits((0..4).fold(0, |d, i| d | (block[49 + 2 * i] as u16 >> 4) << (4 * i))).to_f32()
    }
}
