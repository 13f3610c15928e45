//! Products with few tokens (generation): rows of weights are read once, where they lie.
//!
//! Bound by memory, so what counts is instructions per byte: the scales of 8 or 16 groups are multiplied by those of the
//! activations at once, integer sums of 64 weights become floats in one instruction, and lanes are summed only where a
//! row ends.

use super::Codes;
use super::panel::{UNIT, Unit};
use super::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// Rows of one weight and the activations that they meet.
pub(in crate::cpu) struct Few<'a> {
    /// Whole rows.
    pub(in crate::cpu) bytes: &'a [u8],
    pub(in crate::cpu) row_bytes: usize,
    pub(in crate::cpu) cols: usize,
    /// `(units, tokens)`.
    pub(in crate::cpu) x: &'a [Unit],
    /// `(rows, tokens)`.
    pub(in crate::cpu) out: &'a mut [f32],
}

/// Most bytes of a unit in any format.
pub(super) const MOST_BYTES: usize = 272;

/// The last, incomplete unit of a row: its blocks, then zeros. What zeros decode to does not matter, because the
/// activations there are zeros.
#[inline(always)]
pub(super) fn last_unit<F: Codes>(row: &[u8], whole: usize) -> [u8; MOST_BYTES] {
    let mut unit = [0; MOST_BYTES];
    let rest = &row[whole * F::BYTES..];
    unit[..rest.len()].copy_from_slice(rest);
    unit
}

/// [`Few`] for `T` tokens, `R` rows at a time.
pub(super) struct Rows<'a, F, const R: usize, const T: usize>(pub(super) Few<'a>, pub(super) PhantomData<F>);

impl<F: Codes, const R: usize, const T: usize> Kernel for Rows<'_, F, R, T> {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        let Few { bytes, row_bytes, cols, x, out } = self.0;
        let rows = bytes.len() / row_bytes;
        let whole = rows / R * R;
        for (row, out) in (0..whole).step_by(R).zip(out.chunks_exact_mut(R * T)) {
            some_rows::<V, F, R, T>(v, &bytes[row * row_bytes..], row_bytes, cols, x, out);
        }
        for (row, out) in (whole..rows).zip(out[whole * T..].chunks_exact_mut(T)) {
            some_rows::<V, F, 1, T>(v, &bytes[row * row_bytes..], row_bytes, cols, x, out);
        }
    }
}

#[inline(always)]
fn some_rows<V: Simd, F: Codes, const R: usize, const T: usize>(
    v: V,
    bytes: &[u8],
    row_bytes: usize,
    cols: usize,
    x: &[Unit],
    out: &mut [f32],
) {
    let zero = v.splat(0.0);
    let mut sums = Sums { products: [[zero; T]; R], plus: [[zero; T]; R] };
    let whole = cols / UNIT;
    let tokens = |u: usize| -> &[Unit; T] { x[u * T..].first_chunk().expect("as many units as the row has") };
    for u in 0..whole {
        let mut units: [&[u8]; R] = [&[]; R];
        for (r, unit) in units.iter_mut().enumerate() {
            let at = r * row_bytes + u * F::BYTES;
            *unit = &bytes[at..at + F::BYTES];
            // The same place of the rows that come next.
            for line in (0..F::BYTES).step_by(64) {
                v.prefetch(bytes, at + R * row_bytes + line);
            }
        }
        one_unit::<V, F, R, T>(v, &units, tokens(u), &mut sums);
    }
    if !cols.is_multiple_of(UNIT) {
        let mut last = [[0; MOST_BYTES]; R];
        let mut units: [&[u8]; R] = [&[]; R];
        for ((r, last), unit) in last.iter_mut().enumerate().zip(&mut units) {
            *last = last_unit::<F>(&bytes[r * row_bytes..][..row_bytes], whole);
            *unit = &last[..F::BYTES];
        }
        one_unit::<V, F, R, T>(v, &units, tokens(whole), &mut sums);
    }
    for r in 0..R {
        for t in 0..T {
            let mut sum = sums.products[r][t];
            if F::PLUS {
                sum = v.add_floats(sum, sums.plus[r][t]);
            }
            out[r * T + t] = v.sum(sum);
        }
    }
}

struct Sums<V: Simd, const R: usize, const T: usize> {
    products: [[V::Floats; T]; R],
    /// Lanes are groups here.
    plus: [[V::Floats; T]; R],
}

#[inline(always)]
fn one_unit<V: Simd, F: Codes, const R: usize, const T: usize>(
    v: V,
    units: &[&[u8]; R],
    x: &[Unit; T],
    sums: &mut Sums<V, R, T>,
) {
    let mut scales = [[v.splat(0.0); T]; R];
    for r in 0..R {
        let (scale, plus) = F::scales(v, units[r]);
        for t in 0..T {
            let of_x = if F::GROUP == 16 { v.floats(&x[t].scale16) } else { v.eight(&x[t].scale) };
            scales[r][t] = v.mul(scale, of_x);
            if F::PLUS {
                let sum = if F::GROUP == 16 { v.floats(&x[t].sum16) } else { v.eight(&x[t].sum) };
                sums.plus[r][t] = v.fma(plus, sum, sums.plus[r][t]);
            }
        }
    }
    part::<V, F, R, T>(v, 0, units, x, &scales, sums);
    part::<V, F, R, T>(v, 1, units, x, &scales, sums);
    part::<V, F, R, T>(v, 2, units, x, &scales, sums);
    part::<V, F, R, T>(v, 3, units, x, &scales, sums);
}

/// 64 weights of each row.
#[inline(always)]
fn part<V: Simd, F: Codes, const R: usize, const T: usize>(
    v: V,
    part: usize,
    units: &[&[u8]; R],
    x: &[Unit; T],
    scales: &[[V::Floats; T]; R],
    sums: &mut Sums<V, R, T>,
) {
    let eight = F::OFFSET == 128;
    let mut these = [v.load(&x[0].q, 64 * part); T];
    let mut start = [v.start(eight, F::OFFSET, these[0]); T];
    for t in 1..T {
        these[t] = v.load(&x[t].q, 64 * part);
        start[t] = v.start(eight, F::OFFSET, these[t]);
    }
    for r in 0..R {
        let codes = F::codes(v, units[r], part);
        for t in 0..T {
            let sum = v.to_floats(v.dot(eight, start[t], codes, these[t]));
            sums.products[r][t] = v.fma(sum, v.spread(F::GROUP, part, scales[r][t]), sums.products[r][t]);
        }
    }
}
