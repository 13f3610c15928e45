//! Activations rounded to 8 bits as other engines do, simulated: numbers are rounded to the grid, and products stay in f32.
//!
//! It shows what a way of rounding costs in quality, not how fast it could be.

use super::Activations;

/// Activations of at least this size make their column an outlier (LLM.int8's threshold).
const OUTLIER: f32 = 6.0;

/// Rounds `n` rows of `cols` activations to `out`. False where this way of computing rounds nothing here.
pub(super) fn round(how: Activations, x: &[f32], n: usize, cols: usize, out: &mut Vec<f32>) -> bool {
    let rows = &x[..n * cols];
    let largest = |x: &[f32]| x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let to_grid = |row: &mut [f32], largest: f32| {
        if largest > 0.0 {
            let (times, step) = (127.0 / largest, largest / 127.0);
            row.iter_mut().for_each(|x| *x = (*x * times).round_ties_even() * step);
        }
    };
    if matches!(how, Activations::Int8 | Activations::Exact) {
        return false;
    }
    out.clear();
    out.extend_from_slice(rows);
    match how {
        Activations::Int8 | Activations::Exact => {}
        Activations::Int8Token => out.chunks_exact_mut(cols).for_each(|row| to_grid(row, largest(row))),
        Activations::Int8Tensor => to_grid(out, largest(rows)),
        Activations::LlmInt8 => {
            let mut outlier = vec![false; cols];
            for row in rows.chunks_exact(cols) {
                outlier.iter_mut().zip(row).for_each(|(o, x)| *o |= x.abs() >= OUTLIER);
            }
            for (row, from) in out.chunks_exact_mut(cols).zip(rows.chunks_exact(cols)) {
                row.iter_mut().zip(&outlier).filter(|(_, o)| **o).for_each(|(x, _)| *x = 0.0);
                to_grid(row, largest(row));
                let kept = row.iter_mut().zip(from).zip(&outlier).filter(|(_, o)| **o);
                kept.for_each(|((x, from), _)| *x = *from);
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_shared_as_named() {
        let x = [127.0, 1.4, 2.6, 0.0, 5.0, 1.0, 0.02, 0.0, 9.0];
        let mut out = Vec::new();
        let mut rounded = |how| round(how, &x, 2, 4, &mut out).then(|| out.clone());
        assert_eq!(rounded(Activations::Exact), None);
        assert_eq!(rounded(Activations::Int8), None);
        let token = rounded(Activations::Int8Token).unwrap();
        assert_eq!(token[..4], [127.0, 1.0, 3.0, 0.0]);
        let step = 5.0 / 127.0;
        assert!((token[5] - 25.0 * step).abs() < 1e-6 && (token[6] - step).abs() < 1e-6, "{token:?}");
        assert_eq!(rounded(Activations::Int8Tensor).unwrap(), [127.0, 1.0, 3.0, 0.0, 5.0, 1.0, 0.0, 0.0]);
        // The first column is an outlier and stays; the others' scales are smaller for it.
        let split = rounded(Activations::LlmInt8).unwrap();
        assert_eq!((split[0], split[4]), (127.0, 5.0));
        assert!((split[1] - 1.4).abs() < 0.5 * 2.6 / 127.0 && split[2] == 2.6);
    }
}
