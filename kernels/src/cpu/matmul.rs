//! Products of activations with packed weights.

use super::memory::Split;
use super::pool::Pool;
use super::{Cpu, Weight};
use crate::Product;

/// Rows of a weight that are one item of the parallel loop.
const ROWS: usize = 16;

/// Weights that are dequantized at a time: fits the first-level cache and is a whole number of blocks of every format.
const PIECE: usize = 1024;

/// `out = x * w^T + bias` for several weights: `x`: `(n, cols)`, each `out`: `(n, rows)`.
pub(super) fn matmul(pool: &Pool, x: &[f32], n: usize, products: &mut [Product<'_, Cpu>]) {
    let parts: Vec<Part<'_>> = products.iter_mut().map(|p| Part::new(p, n)).collect();
    for part in &parts {
        assert!(n * part.weight.cols() <= x.len(), "activations are shorter than n rows of the weight's columns");
    }
    let items: usize = parts.iter().map(Part::items).sum();
    pool.run(items, |mut item| {
        for part in &parts {
            if item < part.items() {
                return part.compute(x, n, item * ROWS);
            }
            item -= part.items();
        }
    });
}

/// One product with its output open to several threads.
struct Part<'a> {
    weight: &'a Weight,
    bias: Option<&'a [f32]>,
    out: Split<'a, f32>,
}

impl<'a> Part<'a> {
    fn new(p: &'a mut Product<'_, Cpu>, n: usize) -> Self {
        let rows = p.weight.rows();
        let bias = p.bias.map(Weight::vector);
        assert!(bias.is_none_or(|b| b.len() == rows), "a bias has one float per row");
        assert!(p.out.len() >= n * rows, "the output is shorter than n rows");
        Part { weight: p.weight, bias, out: Split::new(p.out) }
    }

    fn items(&self) -> usize {
        self.weight.rows().div_ceil(ROWS)
    }

    /// Rows `first .. first + ROWS` (as far as there are) for all `n` activations.
    fn compute(&self, x: &[f32], n: usize, first: usize) {
        let (rows, cols) = (self.weight.rows(), self.weight.cols());
        let mut piece = [0.0; PIECE];
        for row in first..rows.min(first + ROWS) {
            for start in (0..cols).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(cols - start)];
                self.weight.dequantize(row, start, piece);
                for i in 0..n {
                    // SAFETY: element (i, row) of the output belongs to this item alone.
                    let out = &mut unsafe { self.out.slice(i * rows + row, 1) }[0];
                    let before = if start == 0 { self.bias.map_or(0.0, |b| b[row]) } else { *out };
                    *out = before + dot(piece, &x[i * cols + start..][..piece.len()]);
                }
            }
        }
    }
}

/// Sum of products, in sixteen interleaved partial sums.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
