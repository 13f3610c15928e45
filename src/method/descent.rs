//! Coordinate descent: codes, scales and minimums of some rows, improved in turn under the same Hessian.
//!
//! A panel of columns at a time: within it, gradients are kept up to date as every change is made; what a panel's changes do
//! to the gradients of all other columns is one matrix product. Only what lowers a row's loss is taken.

use super::quadratic::Quadratic;
use crate::algebra::{add_product, add_rows, dot, product_f32};
use qconv_formats::block::{BlockFormat, Grid, ScalarCodes, Steps, mean_square};
use qconv_kernels::cpu::{Isa, Work, compiled};
use std::ops::Range;

/// Columns of a panel, rounded up to whole blocks.
const PANEL: usize = 256;
/// Most weights of a block.
const MOST: usize = 256;
/// Turns over the codes of a panel.
const TURNS: usize = 2;

/// Some rows of a matrix on their way: codes and grids, and what follows from them.
pub struct Rows<'a> {
    problem: &'a Quadratic,
    format: &'static BlockFormat,
    scalar: &'static dyn ScalarCodes,
    weights: &'a [f32],
    /// `(rows, blocks of a row)`
    grids: Vec<Grid>,
    /// `(rows, cols)`
    pub codes: Vec<u8>,
    errors: Vec<f32>,   // (rows, cols): weights - values
    gradient: Vec<f32>, // (rows, cols): errors H
}

impl<'a> Rows<'a> {
    /// With the grids that the format fits by itself, where errors count by the diagonal of the Hessian.
    pub fn fit(
        problem: &'a Quadratic,
        format: &'static BlockFormat,
        scalar: &'static dyn ScalarCodes,
        weights: &'a [f32],
        importance: &[f32],
    ) -> Self {
        let (n, block) = (problem.cols, format.block_weights);
        let mut codes = vec![0; weights.len()];
        let mut grids = Vec::with_capacity(weights.len() / block);
        for (row, codes) in weights.chunks_exact(n).zip(codes.chunks_exact_mut(n)) {
            let mean = mean_square(row);
            let blocks = row.chunks_exact(block).zip(importance.chunks_exact(block)).zip(codes.chunks_exact_mut(block));
            grids.extend(blocks.map(|((x, i), codes)| scalar.fit(x, Some(i), mean, codes)));
        }
        Self::with(problem, format, scalar, weights, grids, codes)
    }

    /// With grids, one per block, and codes, that are there already.
    pub fn with(
        problem: &'a Quadratic,
        format: &'static BlockFormat,
        scalar: &'static dyn ScalarCodes,
        weights: &'a [f32],
        grids: Vec<Grid>,
        codes: Vec<u8>,
    ) -> Self {
        let (errors, gradient) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        Rows { problem, format, scalar, weights, grids, codes, errors, gradient }
    }

    /// Where column `i % cols` of row `i / cols` has its grid, and its place in the block.
    fn place(&self, i: usize) -> (&Grid, usize) {
        // Rows are whole blocks.
        (&self.grids[i / self.format.block_weights], i % self.format.block_weights)
    }

    /// The code nearest to a target, and its value.
    pub fn choose(&self, i: usize, target: f32) -> (u8, f32) {
        let (grid, at) = self.place(i);
        let code = self.scalar.code(grid, at, target);
        (code, self.scalar.value(grid, at, code))
    }

    /// The grid's values next to a weight, at or below and at or above it, with their codes; the same twice outside the grid.
    pub fn around(&self, i: usize) -> ((u8, f32), (u8, f32)) {
        let (grid, at) = self.place(i);
        let weight = self.weights[i];
        let nearest = self.choose(i, weight);
        let mut sides = [nearest, nearest];
        // Levels are not in order in every format.
        for code in 0..self.scalar.levels().len() as u16 {
            let code = code as u8;
            let value = self.scalar.value(grid, at, code);
            let other = &mut sides[usize::from(value > weight)];
            let farther = (value > weight) == (other.1 > weight) && (value - weight).abs() >= (other.1 - weight).abs();
            if !farther && self.scalar.code(grid, at, value) == code {
                *other = (code, value);
            }
        }
        (sides[0], sides[1])
    }

    fn value(&self, i: usize) -> f32 {
        let (grid, at) = self.place(i);
        self.scalar.value(grid, at, self.codes[i])
    }

    /// Codes anew, by error feedback on the grids as they are.
    pub fn feed_back(&mut self) {
        let mut codes = vec![0; self.codes.len()];
        self.problem.feed_back(self.weights, &mut codes, |r, column, target| {
            self.choose(r * self.problem.cols + column, target)
        });
        self.codes = codes;
    }

    /// Computes errors and gradients anew.
    pub fn evaluate(&mut self) {
        let errors: Vec<f32> = (0..self.codes.len()).map(|i| self.weights[i] - self.value(i)).collect();
        product_f32(&errors, &self.problem.h, self.problem.cols, &mut self.gradient);
        self.errors = errors;
    }

    /// `e H e^T` of each row, after [`Rows::evaluate`] and whatever was changed since.
    pub fn losses(&self) -> impl Iterator<Item = f64> {
        let rows = self.errors.chunks_exact(self.problem.cols).zip(self.gradient.chunks_exact(self.problem.cols));
        rows.map(|(e, g)| e.iter().zip(g).map(|(e, g)| f64::from(*e) * f64::from(*g)).sum())
    }

    /// One round over all panels. With `grids`, scales and minimums may move too.
    pub fn improve(&mut self, grids: bool) {
        let (n, block) = (self.problem.cols, self.format.block_weights);
        let rows = self.codes.len() / n;
        let width = PANEL.next_multiple_of(block);
        let isa = Isa::pick(None).unwrap_or(Isa::Scalar);
        for first in (0..n).step_by(width) {
            let columns = first..n.min(first + width);
            let k = columns.len();
            let inverses = if grids { self.inverses(&columns) } else { Vec::new() };
            let mut changes = vec![0f32; rows * k];
            for r in 0..rows {
                let before = self.errors[r * n..][columns.clone()].to_vec();
                let panel = Panel { rows: self, first: columns.start, at: r * n + columns.start, width: k };
                compiled(isa, Improve { panel, inverses: &inverses, grids });
                let now = &self.errors[r * n..][columns.clone()];
                let change = changes[r * k..(r + 1) * k].iter_mut();
                change.zip(now).zip(&before).for_each(|((c, now), before)| *c = now - before);
            }
            // The panel's own gradients have it already: it is added once more there, and taken from what was.
            let inside: Vec<f32> = (0..rows).flat_map(|r| self.gradient[r * n..][columns.clone()].to_vec()).collect();
            add_product(&changes, &self.problem.h[columns.start * n..columns.end * n], k, &mut self.gradient, n);
            for (r, inside) in inside.chunks_exact(k).enumerate() {
                self.gradient[r * n..][columns.clone()].copy_from_slice(inside);
            }
        }
    }

    /// For each group of a panel, the inverse of its own part of the Hessian, `(group, group)`.
    fn inverses(&self, columns: &Range<usize>) -> Vec<f32> {
        let group = self.scalar.group();
        let n = self.problem.cols;
        let mut all = Vec::with_capacity(columns.len() * group);
        for first in columns.clone().step_by(group) {
            let mut a: Vec<f64> = (0..group * group)
                .map(|i| f64::from(self.problem.h[(first + i / group) * n + first + i % group]))
                .collect();
            all.extend(invert(&mut a, group).into_iter().map(|x| x as f32));
        }
        all
    }

    /// Packs a row.
    pub fn pack(&self, row: usize, out: &mut [u8]) {
        let (n, block) = (self.problem.cols, self.format.block_weights);
        let codes = self.codes[row * n..(row + 1) * n].chunks_exact(block);
        let grids = &self.grids[row * n / block..];
        for ((codes, out), grid) in codes.zip(out.chunks_exact_mut(self.format.block_bytes)).zip(grids) {
            self.scalar.pack(grid, codes, out);
        }
    }
}

/// The inverse of a small symmetric positive definite matrix.
fn invert(a: &mut [f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    if crate::algebra::cholesky(a, n).is_err() {
        return out; // damped, so that it does not happen; without, groups are fitted to their weights
    }
    for c in 0..n {
        let mut x = vec![0.0; n];
        x[c] = 1.0;
        for i in c..n {
            let sum: f64 = (c..i).map(|k| a[i * n + k] * x[k]).sum();
            x[i] = (x[i] - sum) / a[i * n + i];
        }
        for i in (0..n).rev() {
            let sum: f64 = (i + 1..n).map(|k| a[k * n + i] * x[k]).sum();
            x[i] = (x[i] - sum) / a[i * n + i];
        }
        (0..n).for_each(|i| out[i * n + c] = x[i]);
    }
    out
}

/// A row's part in a panel.
struct Panel<'r, 'a> {
    rows: &'r mut Rows<'a>,
    first: usize, // column
    at: usize,    // the same in all rows
    width: usize,
}

struct Improve<'p, 'r, 'a> {
    panel: Panel<'r, 'a>,
    inverses: &'p [f32],
    grids: bool,
}

impl Work for Improve<'_, '_, '_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Improve { mut panel, inverses, grids } = self;
        for _ in 0..TURNS {
            if grids {
                let group = panel.rows.scalar.group();
                for g in 0..panel.width / group {
                    panel.group(g * group, &inverses[g * group * group..(g + 1) * group * group]);
                }
                for b in 0..panel.width / panel.rows.format.block_weights {
                    panel.units(b);
                }
            }
            panel.codes();
        }
    }
}

impl Panel<'_, '_> {
    /// The Hessian between a column of the panel and some others, counted from the panel's first.
    #[inline(always)]
    fn h(&self, i: usize, others: Range<usize>) -> &[f32] {
        &self.rows.problem.h[(self.first + i) * self.rows.problem.cols + self.first..][others]
    }

    /// Takes other errors for some columns from `i` on, and brings the panel's gradients up to date.
    #[inline(always)]
    fn shift(&mut self, i: usize, errors: &[f32]) {
        let mut changes = [0f32; MOST];
        let changes = &mut changes[..errors.len()];
        for ((change, old), new) in changes.iter_mut().zip(&mut self.rows.errors[self.at + i..]).zip(errors) {
            *change = new - *old;
            *old = *new;
        }
        let n = self.rows.problem.cols;
        let h = &self.rows.problem.h[(self.first + i) * n + self.first..];
        add_rows(changes, h, n, &mut self.rows.gradient[self.at..][..self.width]);
    }

    /// Each code takes the value that is best while the others stay.
    #[inline(always)]
    fn codes(&mut self) {
        for i in 0..self.width {
            let at = self.at + i;
            let curvature = self.h(i, i..i + 1)[0];
            let gradient = self.rows.gradient[at];
            let now = self.rows.weights[at] - self.rows.errors[at];
            let (code, value) = self.rows.choose(at, now + gradient / curvature);
            if code == self.rows.codes[at] {
                continue;
            }
            let error = self.rows.weights[at] - value;
            let change = error - self.rows.errors[at];
            if change * (2.0 * gradient + change * curvature) < 0.0 {
                self.rows.codes[at] = code;
                self.shift(i, &[error]);
            }
        }
    }

    /// Tries scales and minimums near those of a group, with codes rounded anew to what would be best without a grid.
    #[inline(always)]
    fn group(&mut self, from: usize, inverse: &[f32]) {
        let (n, group) = (self.rows.problem.cols, self.rows.scalar.group());
        let columns = self.at + from..self.at + from + group;
        let block = self.rows.format.block_weights;
        let b = columns.start / block;
        let Some(steps) = self.rows.scalar.steps(&self.rows.grids[b]) else { return };
        let g = columns.start % block / group;
        let (weights, errors) = (&self.rows.weights[columns.clone()], &self.rows.errors[columns.clone()]);
        let gradient = &self.rows.gradient[columns.clone()];
        let h = &self.rows.problem.h[(self.first + from) * n + self.first + from..];
        // Where the group's values should be, if all others stay: a Newton step.
        let mut targets = [0f32; MOST];
        let targets = &mut targets[..group];
        targets.iter_mut().zip(weights).zip(errors).for_each(|((t, w), e)| *t = w - e);
        add_rows(gradient, inverse, group, targets);
        let least = -1e-6 * errors.iter().zip(gradient).map(|(e, g)| (e * g).abs()).sum::<f32>();
        let mut best: (f32, Option<Grid>) = (least, None);
        let (mut codes, mut chosen) = ([0u8; MOST], [0u8; MOST]);
        let (mut values, mut moved) = ([0f32; MOST], [0f32; MOST]);
        let (codes, values, moved) = (&mut codes[..group], &mut values[..group], &mut moved[..group]);
        for candidate in candidates(&steps, g) {
            let Some(grid) = self.rows.scalar.stepped(&candidate) else { continue };
            if !(grid.scale[g].is_finite() && grid.min[g].is_finite()) {
                continue;
            }
            self.rows.scalar.nearest(&grid, g, targets, codes, values);
            for (((m, w), v), e) in moved.iter_mut().zip(weights).zip(&*values).zip(errors) {
                *m = w - v - e;
            }
            let mut gained = [0f32; MOST]; // what the move adds to the group's gradients
            add_rows(moved, h, n, &mut gained[..group]);
            let change = 2.0 * dot(moved, gradient) + dot(moved, &gained[..group]);
            if change < best.0 {
                best = (change, Some(grid));
                chosen[..group].copy_from_slice(codes);
            }
        }
        if let (_, Some(grid)) = best {
            self.rows.grids[b] = grid;
            self.rows.codes[columns.clone()].copy_from_slice(&chosen[..group]);
            self.revalue(from, group);
        }
    }

    /// Errors and gradients of some columns, behind other grids or codes.
    #[inline(always)]
    fn revalue(&mut self, from: usize, count: usize) {
        let mut errors = [0f32; MOST];
        let at = self.at + from;
        errors[..count]
            .iter_mut()
            .enumerate()
            .for_each(|(i, e)| *e = self.rows.weights[at + i] - self.rows.value(at + i));
        self.shift(from, &errors[..count]);
    }

    /// The least-squares units of one block, codes and whole numbers as they are.
    #[inline(always)]
    fn units(&mut self, b: usize) {
        let block = self.rows.format.block_weights;
        let (from, at) = (b * block, self.at + b * block);
        let Some(steps) = self.rows.scalar.steps(&self.rows.grids[at / block]) else { return };
        if steps.unit == 0.0 {
            return;
        }
        let (levels, group) = (self.rows.scalar.levels(), self.rows.scalar.group());
        let (mut up, mut down) = ([0f32; MOST], [0f32; MOST]);
        let (up, down) = (&mut up[..block], &mut down[..block]);
        for i in 0..block {
            up[i] = f32::from(steps.scale[i / group]) * levels[self.rows.codes[at + i] as usize];
            down[i] = -f32::from(steps.min[i / group]);
        }
        let gradient = &self.rows.gradient[at..at + block];
        let n = self.rows.problem.cols;
        let h = &self.rows.problem.h[(self.first + from) * n + self.first + from..];
        let (mut hu, mut hd) = ([0f32; MOST], [0f32; MOST]);
        add_rows(up, h, n, &mut hu[..block]);
        let (uu, ud) = (f64::from(dot(up, &hu[..block])), f64::from(dot(down, &hu[..block])));
        let dd = match down.iter().any(|d| *d != 0.0) {
            true => {
                add_rows(down, h, n, &mut hd[..block]);
                f64::from(dot(down, &hd[..block]))
            }
            false => 0.0,
        };
        let (u, d) = (f64::from(dot(up, gradient)), f64::from(dot(down, gradient)));
        let determinant = uu * dd - ud * ud;
        let x = if dd > 0.0 && determinant > 1e-9 * uu * dd {
            (u * dd - d * ud) / determinant
        } else if uu > 0.0 {
            u / uu
        } else {
            return;
        };
        let half = |x: f64| half::f16::from_f64(x).to_f32();
        let unit = half(f64::from(steps.unit) + x);
        let x = f64::from(unit) - f64::from(steps.unit);
        let y = if dd > 0.0 { (d - x * ud) / dd } else { 0.0 };
        let min_unit = half(f64::from(steps.min_unit) + y);
        let y = f64::from(min_unit) - f64::from(steps.min_unit);
        let change = -2.0 * (x * u + y * d) + x * x * uu + 2.0 * x * y * ud + y * y * dd;
        if !(change < 0.0 && unit.is_finite() && min_unit.is_finite() && unit != 0.0) {
            return;
        }
        let Some(grid) = self.rows.scalar.stepped(&Steps { unit, min_unit, ..steps }) else { return };
        self.rows.grids[at / block] = grid;
        self.revalue(from, block);
    }
}

/// Steps near those of group `g`: whole numbers up to two away, or, where there are none, units up to some percent away.
fn candidates(steps: &Steps, g: usize) -> Vec<Steps> {
    let mut all = Vec::new();
    let inside = |x: i16, (low, high): (i16, i16)| (low..=high).contains(&x);
    if steps.scales.0 < steps.scales.1 {
        let mins: &[i16] = if steps.mins.0 < steps.mins.1 { &[0, -1, 1] } else { &[0] };
        for ds in [0, -1, 1, -2, 2] {
            for dm in mins {
                let (s, m) = (steps.scale[g] + ds, steps.min[g] + dm);
                if inside(s, steps.scales) && inside(m, steps.mins) {
                    let mut candidate = *steps;
                    (candidate.scale[g], candidate.min[g]) = (s, m);
                    all.push(candidate);
                }
            }
        }
    } else {
        let mins: &[f32] = if steps.mins.1 > 0 { &[0.0, -0.3, 0.3] } else { &[0.0] };
        for k in [0.0, -0.015, 0.015, -0.04, 0.04, -0.08, 0.08] {
            for dm in mins {
                let half = |x: f32| half::f16::from_f32(x).to_f32();
                let unit = half(steps.unit * (1.0 + k));
                all.push(Steps { unit, min_unit: half(steps.min_unit + dm * steps.unit), ..*steps });
            }
        }
    }
    all
}
