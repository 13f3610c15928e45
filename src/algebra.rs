//! Dense matrix products, for statistics and for error feedback. Row-major throughout.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};
use std::ops::Range;

/// `out = x^T x` at some rows and columns of the result: `x` is `(n, cols)`, `out` is `(rows.len(), columns.len())`.
///
/// # Panics
/// Where lengths do not fit.
pub fn transposed_product(x: &[f32], cols: usize, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
    let mut out = view_mut(out, columns.len());
    let x = view(x, cols);
    general_mat_mul(1.0, &x.slice(s![.., rows]).t(), &x.slice(s![.., columns]), 0.0, &mut out);
}

/// A slice as a matrix with rows of `cols`.
fn view<T>(x: &[T], cols: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((x.len() / cols, cols), x).expect("whole rows")
}

/// A slice as a matrix with rows of `cols`, to be written.
fn view_mut<T>(x: &mut [T], cols: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((x.len() / cols, cols), x).expect("whole rows")
}
