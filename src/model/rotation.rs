//! Random rotations that are fast to apply: random signs, then a Hadamard matrix (QuaRot, Ashkboos et al. 2024).

use super::hadamard::Hadamard;
use crate::engine::Rng;

/// Vectors that are rotated side by side: 256 KB at 4096 channels, which stay in the second-level cache.
const STRIPE: usize = 16;

/// `R = diag(signs) * H / sqrt(n)`, orthogonal. A row vector `x` becomes `x * R`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    signs: Vec<f32>, // 1 or -1, over sqrt(n)
    hadamard: Hadamard,
}

impl Rotation {
    /// Of `n` channels, with signs that follow from the seed. `None` where no Hadamard matrix of that order is known.
    pub fn new(n: usize, seed: u64) -> Option<Self> {
        let hadamard = Hadamard::new(n)?;
        let mut rng = Rng::new(seed);
        let size = 1.0 / (n as f64).sqrt();
        let signs = (0..n).map(|_| if rng.next_u64() >> 63 == 0 { size as f32 } else { -size as f32 }).collect();
        Some(Rotation { signs, hadamard })
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.signs.len()
    }

    /// Rotates every run of so many channels of a row.
    pub fn row(&self, row: &mut [f32], scratch: &mut Vec<f32>) {
        for run in row.chunks_exact_mut(self.channels()) {
            run.iter_mut().zip(&self.signs).for_each(|(x, s)| *x *= s);
            self.hadamard.multiply(run, 1, scratch);
        }
    }

    /// Rotates down the columns: `x` is `(channels, cols)`, and every column becomes `R^T` times itself.
    pub fn columns(&self, x: &mut [f32], cols: usize) {
        let n = self.channels();
        assert_eq!(x.len(), n * cols, "as many rows as channels");
        let (mut stripe, mut scratch) = (Vec::new(), Vec::new());
        for first in (0..cols).step_by(STRIPE) {
            let width = STRIPE.min(cols - first);
            stripe.clear();
            for (row, sign) in x.chunks_exact(cols).zip(&self.signs) {
                stripe.extend(row[first..first + width].iter().map(|x| x * sign));
            }
            self.hadamard.multiply(&mut stripe, width, &mut scratch);
            for (row, rotated) in x.chunks_exact_mut(cols).zip(stripe.chunks_exact(width)) {
                row[first..first + width].copy_from_slice(rotated);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_rotated_vectors_are_kept() {
        for n in [16, 12, 288] {
            let rotation = Rotation::new(n, 7).unwrap();
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let y: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (mut a, mut b) = (x.clone(), y.clone());
            rotation.row(&mut a, &mut Vec::new());
            rotation.columns(&mut b, 1);
            assert!((dot(&a, &b) - dot(&x, &y)).abs() < 1e-4, "{n}");
            assert!(a != x, "{n}");
            assert_ne!(Rotation::new(n, 8).unwrap(), rotation, "another seed is another rotation");
        }
    }

    #[test]
    fn columns_are_rotated_like_rows() {
        let (n, cols) = (24, 37);
        let rotation = Rotation::new(n, 1).unwrap();
        let x: Vec<f32> = (0..n * cols).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut all = x.clone();
        rotation.columns(&mut all, cols);
        for c in 0..cols {
            let mut one: Vec<f32> = (0..n).map(|r| x[r * cols + c]).collect();
            rotation.row(&mut one, &mut Vec::new());
            assert!((0..n).all(|r| one[r] == all[r * cols + c]), "column {c}");
        }
    }
}
