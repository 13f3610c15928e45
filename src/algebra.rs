//! Dense matrix products, for statistics and for error feedback. Row-major throughout.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder as _, s};
use rayon::prelude::*;

/// A slice as a matrix with rows of `cols`.
fn view<T>(x: &[T], cols: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((x.len() / cols, cols), x).expect("whole rows")
}

/// A slice as a matrix with rows of `cols`, to be written.
fn view_mut<T>(x: &mut [T], cols: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((x.len() / cols, cols), x).expect("whole rows")
}

/// `out = a b^T`: `a` is `(m, k)`, `b` is `(n, k)`, `out` is `(m, n)`; rows may lie further apart than they are long.
///
/// # Panics
/// Where lengths do not fit.
pub fn product_with_transposed(
    (a, a_stride): (&[f64], usize),
    (b, b_stride): (&[f64], usize),
    k: usize,
    factor: f64,
    (out, out_stride): (&mut [f64], usize),
    (m, n): (usize, usize),
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let shape = |rows: usize, cols: usize, stride: usize| (rows, cols).strides((stride, 1));
    let a = ArrayView2::from_shape(shape(m, k, a_stride), a).expect("rows inside");
    let b = ArrayView2::from_shape(shape(n, k, b_stride), b).expect("rows inside");
    let mut out = ArrayViewMut2::from_shape(shape(m, n, out_stride), out).expect("rows inside");
    general_mat_mul(factor, &a, &b.t(), 1.0, &mut out);
}

/// `out -= a b` for matrices that lie inside others: `a` is `(m, k)`, `b` is `(k, n)` and `out` is `(m, n)`; of those two, rows
/// are `stride` apart and begin at `column`.
///
/// # Panics
/// Where lengths do not fit.
pub fn subtract_product(
    a: &[f64],
    (b, b_stride, b_column): (&[f64], usize, usize),
    k: usize,
    (out, stride, column): (&mut [f64], usize, usize),
    (m, n): (usize, usize),
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let b = view(b, b_stride);
    let mut out = view_mut(out, stride);
    let b = b.slice(s![..k, b_column..b_column + n]);
    general_mat_mul(-1.0, &view(a, k), &b, 1.0, &mut out.slice_mut(s![..m, column..column + n]));
}

/// `out = a b`: `a` is `(m, n)`, `b` is `(n, n)`.
///
/// # Panics
/// Where lengths do not fit.
pub fn product_f32(a: &[f32], b: &[f32], n: usize, out: &mut [f32]) {
    general_mat_mul(1.0, &view(a, n), &view(b, n), 0.0, &mut view_mut(out, n));
}

/// `out += a b`: `a` is `(m, k)`, `b` is `(k, n)`, `out` is `(m, n)`; rows of `out` lie `n` apart.
///
/// # Panics
/// Where lengths do not fit.
pub fn add_product(a: &[f32], b: &[f32], k: usize, out: &mut [f32], n: usize) {
    general_mat_mul(1.0, &view(a, k), &view(b, n), 1.0, &mut view_mut(out, n));
}

/// The inner product, in eight sums that a compiler can keep side by side.
#[inline(always)]
pub fn dot<T: Copy + Default + std::ops::Mul<Output = T> + std::ops::Add<Output = T>>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::default(); 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut rest = T::default();
    for (x, y) in a8.remainder().iter().zip(b8.remainder()) {
        rest = rest + *x * *y;
    }
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] = sums[i] + x[i] * y[i];
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    rest + (((a + b) + (c + d)) + ((e + f) + (g + h)))
}

/// `out += sum of factors[i] * row i`; rows are `stride` apart.
#[inline(always)]
pub fn add_rows(factors: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    let n = out.len();
    let row = |i: usize| &rows[i * stride..][..n];
    let four = factors.chunks_exact(4);
    let done = factors.len() - four.remainder().len();
    for (i, f) in four.enumerate() {
        let (a, b, c, d) = (row(4 * i), row(4 * i + 1), row(4 * i + 2), row(4 * i + 3));
        for j in 0..n {
            out[j] += (f[0] * a[j] + f[1] * b[j]) + (f[2] * c[j] + f[3] * d[j]);
        }
    }
    for (i, f) in factors.iter().enumerate().skip(done) {
        out.iter_mut().zip(row(i)).for_each(|(o, x)| *o += f * x);
    }
}

/// Columns that are factored together.
const PANEL: usize = 64;

/// Cholesky: the lower triangle of a symmetric positive definite matrix `(n, n)` becomes `L` with `a = L L^T`; what lies above
/// the diagonal stays. The error is the first column at which the matrix is not positive definite.
pub fn cholesky(a: &mut [f64], n: usize) -> Result<(), usize> {
    for first in (0..n).step_by(PANEL) {
        let end = n.min(first + PANEL);
        let (above, below) = a.split_at_mut(end * n);
        // The panel's own triangle.
        for j in first..end {
            for i in j..end {
                let (upper, lower) = above.split_at_mut(i * n);
                let row_j = if i == j { &lower[first..j] } else { &upper[j * n + first..j * n + j] };
                let rest = lower[j] - dot(row_j, &lower[first..j]);
                if i > j {
                    lower[j] = rest / upper[j * n + j];
                } else if rest > 0.0 && rest.is_finite() {
                    lower[j] = rest.sqrt();
                } else {
                    return Err(j);
                }
            }
        }
        // The rows below it.
        let triangle = &*above;
        below.par_chunks_mut(n).for_each(|row| {
            for j in first..end {
                row[j] = (row[j] - dot(&row[first..j], &triangle[j * n + first..j * n + j])) / triangle[j * n + j];
            }
        });
        // What is left, strip by strip, on and below the diagonal.
        let rest = n - end;
        let mut panel = vec![0.0; rest * (end - first)];
        for (p, row) in panel.chunks_exact_mut(end - first).zip(below.chunks_exact(n)) {
            p.copy_from_slice(&row[first..end]);
        }
        let width = end - first;
        below.par_chunks_mut(PANEL * n).enumerate().for_each(|(strip, rows)| {
            let (top, height) = (strip * PANEL, rows.len() / n);
            let columns = top + height;
            let (a, b) = (&panel[top * width..][..height * width], &panel[..columns * width]);
            let inside = &mut rows[end..(height - 1) * n + end + columns];
            product_with_transposed((a, width), (b, width), width, -1.0, (inside, n), (height, columns));
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_gives_the_matrix_back() {
        for n in [1, 5, 64, 150] {
            let x: Vec<f32> = (0..3 * n * n).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0).collect();
            let product = |i: usize, j: usize| x.chunks(n).map(|r| f64::from(r[i]) * f64::from(r[j])).sum::<f64>();
            let mut a: Vec<f64> = (0..n * n).map(|at| product(at / n, at % n)).collect();
            a.iter_mut().step_by(n + 1).for_each(|x| *x += 1.0);
            let mut l = a.clone();
            cholesky(&mut l, n).unwrap();
            for i in 0..n {
                for j in 0..=i {
                    let back: f64 = (0..=j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                    assert!((back - a[i * n + j]).abs() < 1e-9 * a[i * n + i], "{n}: {i} {j}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_is_told() {
        assert_eq!(cholesky(&mut [1.0, 0.0, 2.0, 1.0], 2), Err(1));
        assert_eq!(cholesky(&mut [f64::NAN], 1), Err(0));
    }
}
