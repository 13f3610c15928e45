//! The problem that GPTQ and AdaRound solve: codes and grids of a row that minimize `e H e^T`, `e = weights - values`, where `H`
//! is the Hessian of the matrix's inputs. Every row is a problem of its own.

use crate::algebra::{cholesky, dot, product_with_transposed, subtract_product};
use crate::calibrate::Hessian;
use rayon::prelude::*;

/// What all rows of the matrices with the same inputs share.
#[derive(Debug, Clone)]
pub struct Quadratic {
    /// Columns.
    pub cols: usize,
    /// `(cols, cols)`, damped, in the order of the columns.
    pub h: Vec<f32>,
    /// Position in the order -> column; what is chosen first comes last.
    pub order: Vec<u32>,
    /// `(cols, cols)`, unit upper triangular, in the order of `order`: row `j` has the weights of later errors in `j`'s target.
    pub feedback: Vec<f64>,
    /// What the square of a column's distance from its target costs, in the order of `order`.
    pub costs: Vec<f64>,
}

/// Part of the mean of the diagonal that is added to it (Frantar et al. 2022, section 3.3).
const DAMPING: f64 = 0.01;
/// Columns whose errors are fed back to all others together.
const BATCH: usize = 128;

impl Quadratic {
    /// Factors a Hessian. The error is a sentence's end: sums that are no numbers, or no inputs at all.
    pub fn new(hessian: &Hessian) -> Result<Self, String> {
        let n = hessian.cols();
        if hessian.inputs() == 0 {
            return Err("no input of it was seen".into());
        }
        if !hessian.is_finite() {
            return Err("its inputs are not finite".into());
        }
        let mut h = hessian.matrix();
        let mean = (0..n).map(|i| h[i * (n + 1)]).sum::<f64>() / n as f64;
        if mean == 0.0 {
            return Err("all its inputs are zero; use another text, or keep it as it is by --tensor-type".into());
        }
        h.iter_mut().step_by(n + 1).for_each(|x| *x += DAMPING * mean);
        // A column matters the more, the larger its inputs: it is chosen early, while others can still make up for it.
        let mut order: Vec<u32> = (0..n as u32).collect();
        let at = |i: &u32| h[*i as usize * (n + 1)];
        order.sort_by(|a, b| at(a).total_cmp(&at(b)).then(b.cmp(a)));
        Self::factor(h, order)
    }

    /// The same problem, but for the order: blocks of columns, those with the largest inputs last, columns of a block side by side.
    pub fn in_blocks(&self, block: usize) -> Result<Self, String> {
        let n = self.cols;
        let h: Vec<f64> = self.h.iter().map(|x| f64::from(*x)).collect();
        let weight = |b: &u32| -> f64 { (0..block).map(|i| h[(*b as usize * block + i) * (n + 1)]).sum() };
        let mut blocks: Vec<u32> = (0..(n / block) as u32).collect();
        blocks.sort_by(|a, b| weight(a).total_cmp(&weight(b)).then(b.cmp(a)));
        let order = blocks.iter().flat_map(|b| (0..block as u32).map(move |i| b * block as u32 + i)).collect();
        Self::factor(h, order)
    }

    /// `h`: damped.
    fn factor(h: Vec<f64>, order: Vec<u32>) -> Result<Self, String> {
        let n = order.len();
        let mut l = vec![0.0; n * n];
        l.par_chunks_mut(n).zip(&order).for_each(|(row, i)| {
            let from = &h[*i as usize * n..][..n];
            row.iter_mut().zip(&order).for_each(|(x, j)| *x = from[*j as usize]);
        });
        cholesky(&mut l, n).map_err(|j| format!("its Hessian is singular at column {}", order[j]))?;
        // H = L L^T = A^T A with A = L^T: rows of A over their diagonal.
        let mut feedback = vec![0.0; n * n];
        feedback.par_chunks_mut(n).enumerate().for_each(|(j, row)| {
            let diagonal = l[j * (n + 1)];
            (j..n).for_each(|i| row[i] = l[i * n + j] / diagonal);
        });
        let costs = (0..n).map(|j| l[j * (n + 1)].powi(2)).collect();
        let h = h.into_iter().map(|x| x as f32).collect();
        Ok(Quadratic { cols: n, h, order, feedback, costs })
    }

    /// GPTQ's error feedback over some rows: picks codes on given grids, column after column, each for a target that makes up
    /// for the errors of those before.
    ///
    /// In the literature's terms: with `H = A^T A`, `A` upper triangular and columns taken from the last to the first, the target
    /// of column `j` is its weight plus `sum over i > j of A_ji / A_jj * e_i`. That is GPTQ's update with the inverse's Cholesky
    /// factor, without the inverse (Chee et al. 2023, theorem 6).
    ///
    /// `weights`, `codes`: `(rows, cols)`; `values(row, column, code)` and `choose(row, column, target)` are the rows' grids.
    pub fn feed_back(&self, weights: &[f32], codes: &mut [u8], choose: impl Fn(usize, usize, f32) -> (u8, f32)) {
        let n = self.cols;
        let rows = weights.len() / n;
        let mut errors = vec![0f64; rows * n]; // in the order of `order`
        let mut fed = vec![0f64; rows * BATCH];
        let mut end = n;
        while end > 0 {
            let first = end.saturating_sub(BATCH);
            let width = end - first;
            fed[..rows * width].fill(0.0);
            product_with_transposed(
                (&errors[end.min(n - 1)..], n),
                (&self.feedback[first * n + end.min(n - 1)..], n),
                n - end,
                1.0,
                (&mut fed[..rows * width], width),
                (rows, width),
            );
            for r in 0..rows {
                let errors = &mut errors[r * n..(r + 1) * n];
                for j in (first..end).rev() {
                    let inside = dot(&self.feedback[j * n + j + 1..j * n + end], &errors[j + 1..end]);
                    let column = self.order[j] as usize;
                    let weight = weights[r * n + column];
                    let target = f64::from(weight) + fed[r * width + j - first] + inside;
                    let (code, value) = choose(r, column, target as f32);
                    codes[r * n + column] = code;
                    errors[j] = f64::from(weight) - f64::from(value);
                }
            }
            end = first;
        }
    }

    /// Error feedback where whole blocks are quantized at once, each for targets that make up for the errors of the blocks
    /// before (Tseng et al. 2024, QuIP#, section 4.1: block LDLQ). Of a problem [`Quadratic::in_blocks`].
    ///
    /// `weights` is one row; `quantize(block, targets, costs, values)` gives values for the columns of a block, where the
    /// square of an error costs about as much as `costs` says.
    pub fn feed_back_blocks(
        &self,
        block: usize,
        weights: &[f32],
        mut quantize: impl FnMut(usize, &[f32], &[f32], &mut [f32]),
    ) {
        let n = self.cols;
        let mut errors = vec![0f64; n]; // in the order of `order`
        let (mut targets, mut costs, mut values) = (vec![0f32; block], vec![0f32; block], vec![0f32; block]);
        for first in (0..n).step_by(block).rev() {
            let end = first + block;
            let column = self.order[first] as usize;
            // The errors of this block that would be best if it had no grid, the last one first.
            for j in (first..end).rev() {
                errors[j] = -dot(&self.feedback[j * n + j + 1..][..n - j - 1], &errors[j + 1..]);
                targets[j - first] = (f64::from(weights[column + j - first]) - errors[j]) as f32;
            }
            for (i, cost) in costs.iter_mut().enumerate() {
                let part = |j: usize| {
                    self.costs[j] * if first + i == j { 1.0 } else { self.feedback[j * n + first + i].powi(2) }
                };
                *cost = (first..=first + i).map(part).sum::<f64>() as f32;
            }
            quantize(column / block, &targets, &costs, &mut values);
            for (i, value) in values.iter().enumerate() {
                errors[first + i] = f64::from(weights[column + i]) - f64::from(*value);
            }
        }
    }

    /// `e H e^T` of one row's errors.
    pub fn loss(&self, errors: &[f32]) -> f64 {
        let row = |(e, h): (&f32, &[f32])| f64::from(*e) * f64::from(dot(h, errors));
        errors.iter().zip(self.h.chunks_exact(self.cols)).map(row).sum()
    }

    /// Solves `x H = d` for some rows; `d` is `(rows, cols)` in the order of the columns, and becomes `x`.
    pub fn solve(&self, d: &mut [f64]) {
        let n = self.cols;
        let rows = d.len() / n;
        let mut z: Vec<f64> = d.chunks_exact(n).flat_map(|row| self.order.iter().map(|c| row[*c as usize])).collect();
        // With A = diag(a) M, M the feedback: first z M = d, ...
        for first in (0..n).step_by(BATCH) {
            let end = n.min(first + BATCH);
            for row in z.chunks_exact_mut(n) {
                for j in first..end {
                    let (before, after) = row.split_at_mut(j + 1);
                    let m = &self.feedback[j * n + j + 1..j * n + end];
                    after.iter_mut().zip(m).for_each(|(x, m)| *x -= before[j] * m);
                }
            }
            let done: Vec<f64> = z.chunks_exact(n).flat_map(|row| row[first..end].to_vec()).collect();
            let (m, rest) = (&self.feedback[first * n..end * n], n - end);
            subtract_product(&done, (m, n, end), end - first, (&mut z, n, end), (rows, rest));
        }
        // ... then x M^T = z / a^2, from the last column on.
        z.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(&self.costs).for_each(|(x, c)| *x /= c));
        let mut end = n;
        while end > 0 {
            let first = end.saturating_sub(BATCH);
            for row in z.chunks_exact_mut(n) {
                for j in (first..end).rev() {
                    row[j] -= dot(&self.feedback[j * n + j + 1..j * n + end], &row[j + 1..end]);
                }
            }
            // What is known now is taken from everything before it.
            let done: Vec<f64> = z.chunks_exact(n).flat_map(|row| row[first..end].to_vec()).collect();
            product_with_transposed(
                (&done, end - first),
                (&self.feedback[first..], n),
                end - first,
                -1.0,
                (&mut z, n),
                (rows, first),
            );
            end = first;
        }
        for (row, z) in d.chunks_exact_mut(n).zip(z.chunks_exact(n)) {
            self.order.iter().zip(z).for_each(|(c, x)| row[*c as usize] = *x);
        }
    }
}
