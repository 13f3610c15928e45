//! Coordinate descent: codes, scales and minimums of some rows, improved in turn under the same Hessian.
//!
//! A panel of columns at a time: within it, gradients are kept up to date as every change is made; what a panel's changes do
//! to the gradients of all other columns is one matrix product. Only what lowers a row's loss is taken.

use super::quadratic::Quadratic;
use crate::algebra::{add_product, dot, product_f32};
use qconv_formats::block::{BlockFormat, Grid, ScalarCodes, Steps, mean_square};
use std::ops::Range;

/// Columns of a panel, rounded up to whole blocks.
const PANEL: usize = 256;
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
        for first in (0..n).step_by(width) {
            let columns = first..n.min(first + width);
            let k = columns.len();
            let inverses = if grids { self.inverses(&columns) } else { Vec::new() };
            let mut changes = vec![0f32; rows * k];
            for r in 0..rows {
                let before = self.errors[r * n..][columns.clone()].to_vec();
                let mut panel = Panel { rows: self, first: columns.start, at: r * n + columns.start, width: k };
                panel.improve(&inverses, grids);
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

impl Panel<'_, '_> {
    fn improve(&mut self, inverses: &[f32], grids: bool) {
        for _ in 0..TURNS {
            if grids {
                let group = self.rows.scalar.group();
                for g in 0..self.width / group {
                    self.group(g * group, &inverses[g * group * group..(g + 1) * group * group]);
                }
                for b in 0..self.width / self.rows.format.block_weights {
                    self.units(b);
                }
            }
            self.codes();
        }
    }

    /// The Hessian between a column of the panel and some others, counted from the panel's first.
    fn h(&self, i: usize, others: Range<usize>) -> &[f32] {
        &self.rows.problem.h[(self.first + i) * self.rows.problem.cols + self.first..][others]
    }

    /// Takes another error for a column, and brings the panel's gradients up to date.
    fn shift(&mut self, i: usize, error: f32) {
        let change = error - self.rows.errors[self.at + i];
        if change != 0.0 {
            self.rows.errors[self.at + i] = error;
            let n = self.rows.problem.cols;
            let row = &self.rows.problem.h[(self.first + i) * n + self.first..][..self.width];
            let gradient = &mut self.rows.gradient[self.at..][..self.width];
            gradient.iter_mut().zip(row).for_each(|(g, h)| *g += change * h);
        }
    }

    /// Each code takes the value that is best while the others stay.
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
                self.shift(i, error);
            }
        }
    }

    /// Tries scales and minimums near those of a group, with codes rounded anew to what would be best without a grid.
    fn group(&mut self, from: usize, inverse: &[f32]) {
        let group = self.rows.scalar.group();
        let columns = self.at + from..self.at + from + group;
        let block = self.rows.format.block_weights;
        let b = columns.start / block;
        let Some(steps) = self.rows.scalar.steps(&self.rows.grids[b]) else { return };
        let g = columns.start % block / group;
        let gradient = self.rows.gradient[columns.clone()].to_vec();
        // Where the group's values should be, if all others stay: a Newton step.
        let targets: Vec<f32> = (0..group)
            .map(|i| {
                let step = dot(&inverse[i * group..(i + 1) * group], &gradient);
                self.rows.weights[columns.start + i] - self.rows.errors[columns.start + i] + step
            })
            .collect();
        let mut best: (f32, Option<(Grid, Vec<u8>)>) = (
            -1e-6 * self.rows.errors[columns.clone()].iter().zip(&gradient).map(|(e, g)| (e * g).abs()).sum::<f32>(),
            None,
        );
        let (mut codes, mut moved) = (vec![0u8; group], vec![0f32; group]);
        for candidate in candidates(&steps, g) {
            let Some(grid) = self.rows.scalar.stepped(&candidate) else { continue };
            if !(grid.scale[g].is_finite() && grid.min[g].is_finite()) {
                continue;
            }
            for i in 0..group {
                let at = columns.start + i;
                codes[i] = self.rows.scalar.code(&grid, at % block, targets[i]);
                let value = self.rows.scalar.value(&grid, at % block, codes[i]);
                moved[i] = self.rows.weights[at] - value - self.rows.errors[at];
            }
            let mut change = 2.0 * dot(&moved, &gradient);
            for i in 0..group {
                change += moved[i] * dot(self.h(from + i, from..from + group), &moved);
            }
            if change < best.0 {
                best = (change, Some((grid, codes.clone())));
            }
        }
        if let (_, Some((grid, codes))) = best {
            self.rows.grids[b] = grid;
            self.rows.codes[columns.clone()].copy_from_slice(&codes);
            for i in 0..group {
                let error = self.rows.weights[columns.start + i] - self.rows.value(columns.start + i);
                self.shift(from + i, error);
            }
        }
    }

    /// The least-squares units of one block, codes and whole numbers as they are.
    fn units(&mut self, b: usize) {
        let block = self.rows.format.block_weights;
        let (from, at) = (b * block, self.at + b * block);
        let Some(steps) = self.rows.scalar.steps(&self.rows.grids[at / block]) else { return };
        if steps.unit == 0.0 {
            return;
        }
        let (levels, group) = (self.rows.scalar.levels(), self.rows.scalar.group());
        let up: Vec<f32> =
            (0..block).map(|i| f32::from(steps.scale[i / group]) * levels[self.rows.codes[at + i] as usize]).collect();
        let down: Vec<f32> = (0..block).map(|i| -f32::from(steps.min[i / group])).collect();
        let gradient = &self.rows.gradient[at..at + block];
        let (mut uu, mut ud, mut dd) = (0f64, 0f64, 0f64);
        for i in 0..block {
            let row = self.h(from + i, from..from + block);
            let (hu, hd) = (f64::from(dot(row, &up)), f64::from(dot(row, &down)));
            uu += f64::from(up[i]) * hu;
            ud += f64::from(up[i]) * hd;
            dd += f64::from(down[i]) * hd;
        }
        let (u, d) = (f64::from(dot(&up, gradient)), f64::from(dot(&down, gradient)));
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
        for i in 0..block {
            let error = self.rows.weights[at + i] - self.rows.value(at + i);
            self.shift(from + i, error);
        }
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
