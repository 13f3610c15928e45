//! Sums of products of a matrix's inputs: all that second-order quantization has to know about a text.

use crate::method::Quadratic;
use qconv_kernels::cpu::Isa;
use qconv_kernels::cpu::moments::{Batch, STRIP};
use rayon::prelude::*;
use std::sync::OnceLock;

/// `sum of x x^T` over the inputs `x` of a matrix, in f64: half the Hessian of the squared error of its products with
/// respect to any of its rows (Frantar & Alistarh 2022).
#[derive(Debug, Clone)]
pub struct Hessian {
    cols: usize,
    inputs: u64,
    sums: Vec<f64>, // (cols, cols); only on and above the diagonal
    /// `sum of (o - x) x^T`, `o` the original model's inputs: `(cols, cols)`.
    drift: Option<Vec<f64>>,
    factored: OnceLock<Result<Quadratic, String>>,
}

/// Rows of weights that are corrected together.
const ROWS: usize = 64;

fn batch(rows: &[f32], cols: usize) -> Batch {
    Batch::new(Isa::pick(None).unwrap_or(Isa::Scalar), rows, cols)
}

impl Hessian {
    /// Of no inputs yet.
    pub fn new(cols: usize) -> Self {
        Hessian { cols, inputs: 0, sums: vec![0.0; cols * cols], drift: None, factored: OnceLock::new() }
    }

    /// Adds inputs: `rows` is `(n, cols)`.
    pub fn add(&mut self, rows: &[f32]) {
        let cols = self.cols;
        self.factored = OnceLock::new();
        self.inputs += (rows.len() / cols) as u64;
        let x = batch(rows, cols);
        let strips = self.sums.par_chunks_mut(STRIP * cols).enumerate();
        strips.for_each(|(strip, sums)| x.add_products(&x, strip * STRIP, strip * STRIP, sums));
    }

    /// Adds what the original model's inputs are in place of some that were added: both `(n, cols)`.
    pub fn add_drift(&mut self, rows: &[f32], originals: &[f32]) {
        let cols = self.cols;
        let drift = self.drift.get_or_insert_with(|| vec![0.0; cols * cols]);
        let apart: Vec<f32> = originals.iter().zip(rows).map(|(o, x)| o - x).collect();
        let (apart, x) = (batch(&apart, cols), batch(rows, cols));
        let strips = drift.par_chunks_mut(STRIP * cols).enumerate();
        strips.for_each(|(strip, sums)| apart.add_products(&x, strip * STRIP, 0, sums));
    }

    /// The weights whose products with the inputs come closest to those of `weights` with the original model's inputs; `None`
    /// where those were not added. `weights`: `(rows, cols)`.
    ///
    /// Least squares, damped as the Hessian is: `w + w D H^-1`, `D` the drift (Li et al. 2025, GPTAQ).
    pub fn corrected(&self, weights: &[f32]) -> Option<Vec<f32>> {
        let (drift, problem) = (self.drift.as_ref()?, self.quadratic().ok()?);
        let (n, inputs) = (self.cols, self.inputs as f64);
        let drift: Vec<f32> = drift.iter().map(|d| (d / inputs) as f32).collect();
        let mut out = vec![0f32; weights.len()];
        out.par_chunks_mut(ROWS * n).zip(weights.par_chunks(ROWS * n)).for_each(|(out, w)| {
            crate::algebra::product_f32(w, &drift, n, out);
            let mut moved: Vec<f64> = out.iter().map(|x| f64::from(*x)).collect();
            problem.solve(&mut moved);
            out.iter_mut().zip(w).zip(moved).for_each(|((o, w), m)| *o = w + m as f32);
        });
        Some(out)
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Inputs that were added.
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// Mean of the product of two inputs' coordinates; 0 where nothing was added.
    pub fn mean(&self, i: usize, j: usize) -> f64 {
        self.sums[i.min(j) * self.cols + i.max(j)] / self.inputs.max(1) as f64
    }

    /// Mean square of each column's inputs: what an importance matrix holds.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.cols).map(|i| self.mean(i, i) as f32).collect()
    }

    /// The whole symmetric matrix of means, `(cols, cols)`.
    pub fn matrix(&self) -> Vec<f64> {
        let n = self.cols;
        let mut out = vec![0.0; n * n];
        out.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            row.iter_mut().enumerate().for_each(|(j, x)| *x = self.mean(i, j));
        });
        out
    }

    /// Sum of the products of two matrices' entries: of the sums here and the means there. With the errors of a matrix's rows
    /// here and its inputs there that is the squared error of its outputs, per input.
    ///
    /// # Panics
    /// If they differ in size.
    pub fn dot(&self, means: &Hessian) -> f64 {
        let n = self.cols;
        assert_eq!(n, means.cols, "products of as many columns");
        let row = |i: usize| {
            let (a, b) = (&self.sums[i * n + i..(i + 1) * n], &means.sums[i * n + i..(i + 1) * n]);
            2.0 * a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() - a[0] * b[0]
        };
        (0..n).map(row).sum::<f64>() / means.inputs.max(1) as f64
    }

    /// The problem that it poses, factored once for all matrices that share their inputs. The error is a sentence's end.
    pub fn quadratic(&self) -> Result<&Quadratic, &str> {
        self.factored.get_or_init(|| Quadratic::new(self)).as_ref().map_err(String::as_str)
    }

    /// All inputs were zero, if there were any.
    pub fn is_zero(&self) -> bool {
        (0..self.cols).all(|i| self.sums[i * (self.cols + 1)] == 0.0)
    }

    /// Some sum is NaN or infinite: the model's activations are.
    pub fn is_finite(&self) -> bool {
        self.sums.iter().all(|x| x.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_plain_loops() {
        let (n, cols) = (300, 150); // several strips and batches, none of them whole
        let x: Vec<f32> = (0..n * cols).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0).collect();
        let mut h = Hessian::new(cols);
        h.add(&x[..100 * cols]);
        h.add(&x[100 * cols..]);
        assert_eq!((h.inputs(), h.cols()), (n as u64, cols));
        let all = h.matrix();
        for (i, j) in [(0, 0), (3, 140), (140, 3), (64, 63), (149, 149), (70, 130)] {
            let want: f64 = x.chunks(cols).map(|r| f64::from(r[i]) * f64::from(r[j])).sum::<f64>() / n as f64;
            assert!((all[i * cols + j] - want).abs() < 1e-5 * (1.0 + want.abs()), "{i} {j}");
            assert_eq!(all[i * cols + j], all[j * cols + i]);
        }
        // Inputs that were twice as large ask for weights twice as large, but for the damping.
        let twice: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
        assert_eq!(h.corrected(&x[..cols]), None);
        h.add_drift(&x, &twice);
        let weights: Vec<f32> = (0..2 * cols).map(|i| (i % 7) as f32 - 3.0).collect();
        let corrected = h.corrected(&weights).unwrap();
        let problem = h.quadratic().unwrap();
        let mut solved: Vec<f64> = (0..2)
            .flat_map(|r| {
                let (w, all) = (&weights[r * cols..(r + 1) * cols], &all);
                (0..cols).map(move |j| (0..cols).map(|i| f64::from(w[i]) * all[i * cols + j]).sum::<f64>())
            })
            .collect();
        problem.solve(&mut solved);
        for (i, (c, s)) in corrected.iter().zip(&solved).enumerate() {
            assert!((f64::from(*c) - f64::from(weights[i]) - s).abs() < 1e-3, "{i}: {c} {s}");
        }
        // solve is what it says: H times it gives the right side back.
        let back: f64 = (0..cols).map(|i| solved[i] * f64::from(problem.h[i * cols + 5])).sum();
        let want: f64 = (0..cols).map(|i| f64::from(weights[i]) * all[i * cols + 5]).sum();
        assert!((back - want).abs() < 1e-3 * (1.0 + want.abs()), "{back} {want}");
        assert_eq!(h.diagonal()[149], h.mean(149, 149) as f32);
        let want: f64 = all.iter().map(|m| m * m).sum::<f64>() * n as f64;
        assert!((h.dot(&h) - want).abs() < 1e-9 * want);
    }
}
