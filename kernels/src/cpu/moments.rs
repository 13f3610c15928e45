//! Sums of products of vectors' coordinates, `sum of a b^T`: the statistics that second-order quantization needs.
//!
//! Vectors come in batches, which are packed once: in panels for the one side of the product, in groups of rows for the other,
//! as register tiles want them (see `tile`). Products are summed in f32 over a batch and then added in f64.

use super::isa::Isa;
use super::simd::{Op, Simd, dispatch};
use super::tile::{self, PACKED, Panel, Single, Sums};

/// Rows of the result that are made together: a whole number of panels and of tiles with every instruction set.
pub const STRIP: usize = 96;
/// Vectors whose products a tile sums up in one go: their panel stays in the nearest cache.
const STEPS: usize = 128;
/// Most floats of a panel's width.
const WIDEST: usize = tile::WIDTH * super::simd::MOST_LANES;

/// Some vectors, packed.
#[derive(Debug, Clone)]
pub struct Batch {
    isa: Isa,
    count: usize,
    cols: usize,
    /// `cols`, rounded up to whole strips.
    padded: usize,
    panels: Vec<f32>, // for each STEPS vectors: (padded / width, vectors, width)
    rows: Vec<f32>,   // for each STEPS vectors: (padded / rows, vectors, rows)
}

impl Batch {
    /// Of `vectors`, `(n, cols)`, to be multiplied with an instruction set.
    ///
    /// # Panics
    /// If they are not whole.
    pub fn new(isa: Isa, vectors: &[f32], cols: usize) -> Self {
        assert!(cols > 0 && vectors.len().is_multiple_of(cols), "whole vectors");
        let (count, padded) = (vectors.len() / cols, cols.next_multiple_of(STRIP));
        let (panels, rows) = (vec![0.0; count * padded], vec![0.0; count * padded]);
        let mut batch = Batch { isa, count, cols, padded, panels, rows };
        // What is packed for one instruction set is not for another: `isa` becomes the one that is there.
        if !batch.isa.is_here() {
            batch.isa = Isa::Scalar;
        }
        dispatch(batch.isa, Pack { batch: &mut batch, vectors });
        batch
    }

    /// How many vectors.
    pub fn len(&self) -> usize {
        self.count
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds `sum of self other^T` to `sums`, `(height, cols)`: rows of the result from `first` on, of those the columns from `from`
    /// on.
    ///
    /// # Panics
    /// If batches differ in size, or `first` and `from` are not at the beginning of a strip, or there is more than one strip.
    pub fn add_products(&self, other: &Batch, first: usize, from: usize, sums: &mut [f64]) {
        let alike = (self.isa, self.count, self.cols) == (other.isa, other.count, other.cols);
        assert!(alike, "batches of the same size, for the same instruction set");
        assert!(first.is_multiple_of(STRIP) && from.is_multiple_of(STRIP), "whole strips");
        assert!(first < self.cols && from <= self.cols && sums.len() <= STRIP * self.cols, "inside");
        assert!(
            sums.len().is_multiple_of(self.cols) && first + sums.len() / self.cols <= self.cols,
            "rows of the result"
        );
        dispatch(self.isa, AddProducts { a: self, b: other, first, from, sums });
    }
}

struct Pack<'a> {
    batch: &'a mut Batch,
    vectors: &'a [f32],
}

impl Op for Pack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Pack { batch: Batch { cols, padded, panels, rows, .. }, vectors } = self;
        for (to, width) in [(panels, tile::WIDTH * S::LANES), (rows, S::ROWS)] {
            let batches = vectors.chunks(STEPS * *cols).zip(to.chunks_mut(STEPS * *padded));
            for (vectors, to) in batches {
                let steps = vectors.len() / *cols;
                for (step, vector) in vectors.chunks_exact(*cols).enumerate() {
                    for (piece, x) in vector.chunks(width).enumerate() {
                        to[(piece * steps + step) * width..][..x.len()].copy_from_slice(x);
                    }
                }
            }
        }
    }
}

struct AddProducts<'a> {
    a: &'a Batch,
    b: &'a Batch,
    first: usize,
    from: usize,
    sums: &'a mut [f64], // (height, cols)
}

impl Op for AddProducts<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddProducts { a, b, first, from, sums } = self;
        let (cols, width) = (a.cols, tile::WIDTH * S::LANES);
        let height = sums.len() / cols;
        let rows = height.next_multiple_of(S::ROWS);
        let mut products = [0f32; STRIP * WIDEST]; // (rows, width)
        for column in (from..cols).step_by(width) {
            for at in (0..a.count).step_by(STEPS) {
                let steps = STEPS.min(a.count - at);
                // SAFETY: a batch holds `steps` vectors of `padded` numbers there, in pieces of `width` as of `ROWS` numbers,
                // which both divide a strip and so `padded`; `rows` are one strip at most, and `products` holds one.
                unsafe {
                    let panel = b.panels.as_ptr().add(at * b.padded + column * steps);
                    let panel = Panel { at: panel, step: width, vector: S::LANES };
                    let x = a.rows.as_ptr().add(at * a.padded + first * steps);
                    let sums = Sums { at: products.as_mut_ptr(), stride: width, add: at > 0 };
                    tile::multiply::<S, _, PACKED>(s, Single, steps, panel, rows, x, sums);
                }
            }
            let there = width.min(cols - column);
            for (sums, products) in sums.chunks_exact_mut(cols).zip(products.chunks_exact(width)) {
                let sums = &mut sums[column..column + there];
                sums.iter_mut().zip(products).for_each(|(sum, p)| *sum += f64::from(*p));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn sums_are_those_of_plain_loops() {
        for isa in Cpu::isa_names() {
            let isa = Isa::by_name(isa).unwrap();
            for (n, cols) in [(1, 1), (3, 33), (130, 96), (300, 205)] {
                let numbers = |seed: usize| -> Vec<f32> {
                    (0..n * cols).map(|i| ((i * 7919 + seed) % 1013) as f32 / 300.0 - 1.6).collect()
                };
                let (x, y) = (numbers(1), numbers(500));
                let (a, b) = (Batch::new(isa, &x, cols), Batch::new(isa, &y, cols));
                assert_eq!((a.len(), a.is_empty()), (n, false));
                for first in (0..cols).step_by(STRIP) {
                    let height = STRIP.min(cols - first);
                    let mut sums = vec![1.0; height * cols];
                    a.add_products(&b, first, first, &mut sums);
                    for (i, got) in sums.into_iter().enumerate() {
                        let (r, c) = (first + i / cols, i % cols);
                        let product = |t: usize| f64::from(x[t * cols + r]) * f64::from(y[t * cols + c]);
                        let want = 1.0 + if c < first { 0.0 } else { (0..n).map(product).sum::<f64>() };
                        assert!((got - want).abs() < 1e-5 * n as f64, "{isa:?} {n} {cols}: {r} {c}: {got} {want}");
                    }
                }
            }
        }
    }
}
