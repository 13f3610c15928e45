//! Hadamard matrices: entries 1 and -1, rows orthogonal to each other, `H * H^T = n * I`.
//!
//! Powers of two by Sylvester's doubling, which multiplies in `n log n` steps. Other orders as the Kronecker product of such a one
//! with a matrix by Paley (1933, "On orthogonal matrices"): from the squares of a finite field of `q` elements, order `q + 1`
//! if q is 3 modulo 4, order `2 (q + 1)` if q is 1 modulo 4. Fields here have a prime or the square of a prime of elements.
//! That gives every multiple of 4 up to 88, and most widths of models; 92, 116, 156, 172 and 184 are the first that it does not give.

/// The largest matrix that is multiplied without structure: beyond, a row would cost too much.
const MOST_DENSE: usize = 4096;

/// A Hadamard matrix, ready to multiply with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hadamard {
    /// Order of the matrix without structure, 1 if there is none.
    dense_order: usize,
    /// Its entries, row-major: `(dense_order, dense_order)`.
    dense: Vec<i8>,
    /// A power of two: the order of the fast one.
    fast: usize,
}

impl Hadamard {
    /// Of order `n`, if one is known here.
    pub fn new(n: usize) -> Option<Self> {
        if n == 0 {
            return None;
        }
        (0..=n.trailing_zeros()).rev().find_map(|k| {
            let dense_order = n >> k;
            let dense = if dense_order == 1 { vec![1] } else { paley(dense_order)? };
            Some(Hadamard { dense_order, dense, fast: 1 << k })
        })
    }

    /// Its order.
    pub fn order(&self) -> usize {
        self.dense_order * self.fast
    }

    /// The row vectors that lie in the columns of `x`, times this matrix. `x`: `(order, width)`, row-major;
    /// `scratch` is overwritten.
    pub fn multiply(&self, x: &mut [f32], width: usize, scratch: &mut Vec<f32>) {
        assert_eq!(x.len(), self.order() * width, "one number per column of the matrix and vector");
        for part in x.chunks_exact_mut(self.fast * width) {
            let mut step = width;
            while step < part.len() {
                for pair in part.chunks_exact_mut(2 * step) {
                    let (a, b) = pair.split_at_mut(step);
                    for (a, b) in a.iter_mut().zip(b) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                step *= 2;
            }
        }
        if self.dense_order == 1 {
            return;
        }
        let run = self.fast * width;
        scratch.clear();
        scratch.extend_from_slice(x);
        for (to, out) in x.chunks_exact_mut(run).enumerate() {
            out.fill(0.0);
            for (from, part) in scratch.chunks_exact(run).enumerate() {
                if self.dense[from * self.dense_order + to] > 0 {
                    out.iter_mut().zip(part).for_each(|(o, x)| *o += x);
                } else {
                    out.iter_mut().zip(part).for_each(|(o, x)| *o -= x);
                }
            }
        }
    }
}

/// Paley's matrix of an order, row-major.
fn paley(n: usize) -> Option<Vec<i8>> {
    if n > MOST_DENSE || !n.is_multiple_of(4) {
        return None;
    }
    if let Some(field) = Field::new(n - 1).filter(|f| f.size() % 4 == 3) {
        // I + S with S skew: a border of ones and minus ones around the field's matrix.
        let s = bordered(&field, -1);
        return Some((0..n * n).map(|at| s[at] + i8::from(at / n == at % n)).collect());
    }
    let field = Field::new(n / 2 - 1).filter(|f| f.size() % 4 == 1)?;
    let half = n / 2;
    let s = bordered(&field, 1);
    let entry = |row: usize, col: usize| {
        let (minus, plus) = ([[1, -1], [-1, -1]], [[1, 1], [1, -1]]);
        let (i, j) = (row / 2, col / 2);
        let block = if i == j { minus } else { plus };
        let factor = if i == j { 1 } else { s[i * half + j] };
        factor * block[row % 2][col % 2]
    };
    Some((0..n * n).map(|at| entry(at / n, at % n)).collect())
}

/// Whether differences of a field's elements are squares (1) or not (-1), 0 on the diagonal; with a first row of ones and a first
/// column of `left`.
fn bordered(field: &Field, left: i8) -> Vec<i8> {
    let n = field.size() + 1;
    let entry = |row: usize, col: usize| match (row, col) {
        (0, 0) => 0,
        (0, _) => 1,
        (_, 0) => left,
        _ => field.character(row - 1, col - 1),
    };
    (0..n * n).map(|at| entry(at / n, at % n)).collect()
}

/// A field of `prime` or `prime^2` elements. Of the latter, element `e` is `e % prime + e / prime * sqrt(nonresidue)`.
struct Field {
    prime: usize,
    squared: bool,
    nonresidue: usize,
    residues: Vec<i8>, // Legendre symbols
}

impl Field {
    fn new(q: usize) -> Option<Self> {
        let root = q.isqrt();
        let (prime, squared) = if is_odd_prime(q) {
            (q, false)
        } else if root * root == q && is_odd_prime(root) {
            (root, true)
        } else {
            return None;
        };
        let mut residues = vec![-1; prime];
        (1..prime).for_each(|x| residues[x * x % prime] = 1);
        residues[0] = 0;
        let nonresidue = residues.iter().position(|&r| r == -1)?;
        Some(Field { prime, squared, nonresidue, residues })
    }

    fn size(&self) -> usize {
        if self.squared { self.prime * self.prime } else { self.prime }
    }

    /// Quadratic character of `a - b`.
    fn character(&self, a: usize, b: usize) -> i8 {
        let p = self.prime;
        let minus = |x: usize, y: usize| (x + p - y) % p;
        if !self.squared {
            return self.residues[minus(a, b)];
        }
        // x is a square where its norm x^(p + 1), which lies in the prime field, is one there.
        let (x, y) = (minus(a % p, b % p), minus(a / p, b / p));
        self.residues[minus(x * x % p, self.nonresidue * y % p * y % p)]
    }
}

fn is_odd_prime(n: usize) -> bool {
    n > 2 && n % 2 == 1 && (3..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole matrix: what it makes of unit vectors.
    fn matrix(h: &Hadamard) -> Vec<f32> {
        let n = h.order();
        let mut all = vec![0.0; n * n];
        let mut row = vec![0.0; n];
        for i in 0..n {
            row.fill(0.0);
            row[i] = 1.0;
            h.multiply(&mut row, 1, &mut Vec::new());
            all[i * n..(i + 1) * n].copy_from_slice(&row);
        }
        all
    }

    #[test]
    fn rows_are_orthogonal_for_every_order() {
        let mut none = Vec::new();
        for n in (1..=2).chain((4..=300).step_by(4)).chain([576]) {
            let Some(h) = Hadamard::new(n) else {
                none.push(n);
                continue;
            };
            assert_eq!(h.order(), n);
            let all = matrix(&h);
            assert!(all.iter().all(|x| x.abs() == 1.0), "order {n}");
            let rows: Vec<&[f32]> = all.chunks_exact(n).collect();
            for (i, a) in rows.iter().enumerate() {
                for (j, b) in rows[..i].iter().enumerate() {
                    let differing = a.iter().zip(*b).filter(|(x, y)| x != y).count();
                    assert_eq!(2 * differing, n, "order {n}, rows {i} and {j}");
                }
            }
        }
        // Orders that exist, but not by Paley's construction.
        assert_eq!(none, [92, 116, 156, 172, 184, 188, 232, 236, 260, 268, 292]);
        for odd in [0, 3, 5, 6, 10, 18, 30] {
            assert_eq!(Hadamard::new(odd), None);
        }
    }

    #[test]
    fn widths_of_known_models_are_there() {
        let heads = [48, 64, 80, 96, 128, 256];
        let widths = [288, 576, 768, 896, 960, 1152, 1536, 2048, 2304, 2560, 3072, 3584, 4096, 5120, 5376, 8192];
        for n in heads.into_iter().chain(widths) {
            assert!(Hadamard::new(n).is_some(), "{n}");
        }
    }

    #[test]
    fn columns_are_multiplied_like_single_vectors() {
        for n in [8, 12, 40, 72] {
            let h = Hadamard::new(n).unwrap();
            let all = matrix(&h);
            let width = 3;
            let x: Vec<f32> = (0..n * width).map(|i| ((i * i * 7 + i) % 23) as f32 - 11.0).collect();
            let mut y = x.clone();
            h.multiply(&mut y, width, &mut Vec::new());
            for c in 0..width {
                for j in 0..n {
                    let expected: f32 = (0..n).map(|i| x[i * width + c] * all[i * n + j]).sum();
                    assert_eq!(y[j * width + c], expected, "order {n}, vector {c}");
                }
            }
        }
    }
}
