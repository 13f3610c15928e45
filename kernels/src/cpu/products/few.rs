//! Products with few tokens (generation): rows of weights are read once, where they lie.
//!
//! Bound by memory, so what counts is instructions per byte: the scales of 8 or 16 groups are multiplied by those of the
//! activations at once, integer sums of 64 weights become floats in one instruction, and lanes are summed only where a
//! row ends.

use super::panel::{UNIT, Unit};
use super::simd::{Kernel, Simd};
use super::{Codes, Ready};
use std::marker::PhantomData;

/// Rows of one weight and the activations that they meet.
pub(in crate::cpu) struct Few<'a> {
    /// Whole rows.
    pub(in crate::cpu) bytes: &'a [u8],
    pub(in crate::cpu) row_bytes: usize,
    pub(in crate::cpu) cols: usize,
    /// `(units, tokens)`.
    pub(in crate::cpu) x: &'a [Unit],
}

/// Most bytes of a unit in any format.
pub(super) const MOST_BYTES: usize = 272;

/// The last, incomplete unit of a row: its blocks, then zeros. What zeros decode to does not matter, because the
/// activations there are zeros.
#[inline(always)]
pub(super) fn last_unit<F: Codes>(row: &[u8], whole: usize, unit: &mut [u8; MOST_BYTES]) {
    let rest = &row[whole * F::BYTES..];
    unit[..rest.len()].copy_from_slice(rest);
}

/// [`Few`] for `T` tokens, `R` rows at a time.
///
/// The results, `(rows, tokens)`, have room for a multiple of `R` rows.
pub(super) struct Rows<'a, F, const R: usize, const T: usize>(
    pub(super) Few<'a>,
    pub(super) &'a mut [f32],
    pub(super) PhantomData<F>,
);

impl<F: Codes, const R: usize, const T: usize> Kernel for Rows<'_, F, R, T> {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        const { assert!(F::OFFSET == 0 || F::OFFSET.is_power_of_two()) };
        const { assert!(F::BYTES <= MOST_BYTES && (F::GROUP == 16 || F::GROUP == 32)) };
        let rows = self.0.bytes.len() / self.0.row_bytes;
        for row in (0..rows).step_by(R) {
            some_rows::<V, F, R, T>(v, &self.0, row, rows, &mut self.1[row * T..][..R * T]);
        }
    }
}

#[inline(always)]
fn some_rows<V: Simd, F: Codes, const R: usize, const T: usize>(
    v: V,
    few: &Few<'_>,
    row: usize,
    rows: usize,
    out: &mut [f32],
) {
    let zero = v.splat(0.0);
    let mut sums = Sums { products: [[zero; T]; R], plus: [[zero; T]; R] };
    let mut starts = [0; R];
    for (r, start) in starts.iter_mut().enumerate() {
        *start = (row + r).min(rows - 1) * few.row_bytes; // at the end, the last row several times
    }
    let whole = few.cols / UNIT;
    let mut last = [[0; MOST_BYTES]; R];
    for u in 0..few.cols.div_ceil(UNIT) {
        let mut units: [&[u8]; R] = [&[]; R];
        if u < whole {
            for (unit, start) in units.iter_mut().zip(starts) {
                let at = start + u * F::BYTES;
                *unit = &few.bytes[at..at + F::BYTES];
                // The same place of the rows that come next.
                for line in (0..F::BYTES).step_by(64) {
                    v.prefetch(few.bytes, at + R * few.row_bytes + line);
                }
            }
        } else {
            for ((last, unit), start) in last.iter_mut().zip(&mut units).zip(starts) {
                last_unit::<F>(&few.bytes[start..start + few.row_bytes], whole, last);
                *unit = &last[..F::BYTES];
            }
        }
        let x: &[Unit; T] = few.x[u * T..].first_chunk().expect("as many units as the row has");
        one_unit::<V, F, R, T>(v, &units, x, &mut sums);
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
    let mut ready = [Ready::nothing(v); R];
    for r in 0..R {
        ready[r] = F::ready(v, units[r]);
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
    part::<V, F, R, T>(v, 0, units, &ready, x, &scales, sums);
    part::<V, F, R, T>(v, 1, units, &ready, x, &scales, sums);
    part::<V, F, R, T>(v, 2, units, &ready, x, &scales, sums);
    part::<V, F, R, T>(v, 3, units, &ready, x, &scales, sums);
}

/// 64 weights of each row.
#[inline(always)]
fn part<V: Simd, F: Codes, const R: usize, const T: usize>(
    v: V,
    part: usize,
    units: &[&[u8]; R],
    ready: &[Ready<V>; R],
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
        let codes = F::codes(v, units[r], &ready[r], part);
        for t in 0..T {
            let sum = v.to_floats(v.dot(eight, start[t], codes, these[t]));
            sums.products[r][t] = v.fma(sum, v.spread(F::GROUP, part, scales[r][t]), sums.products[r][t]);
        }
    }
}
