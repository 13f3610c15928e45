//! Half-quadratic quantization (Badri & Shaji 2023, <https://mobiusml.github.io/hqq_blog/>), without any data.
//!
//! Scale and minimum of each group minimize `sum |e|^p` of the errors with p < 1, which forgives a few large errors for many
//! small ones. Half-quadratic splitting alternates between an auxiliary error (a generalized soft threshold of the real one)
//! and a least-squares fit of scale and minimum to the weights without it. Differences from the paper, because blocks have
//! headers of their own: the start is the grid that the format's quantizer finds, not the extremes; the scale is fitted
//! too; errors are counted in grid steps, so that the result does not depend on a model's units; scales and minimums are
//! rounded as the block holds them, and the start is kept where it is the better one after that.

use super::{Method, Needs, Work, rtn};
use qconv_formats::block::{BlockFormat, Grid, ScalarCodes, mean_square};

/// Half-quadratic fit.
pub static HQQ: Method = Method {
    name: "hqq",
    help: "half-quadratic fit of scales and minimums (HQQ), no data needed",
    needs: Needs::Nothing,
    work: Work::Rows(rows),
    suits: |format: &BlockFormat| {
        if format.scalar.is_some() || !format.is_quantized() {
            Ok(())
        } else {
            Err("its codes stand for whole groups of a codebook, which have no scale and minimum to fit")
        }
    },
};

/// See [`super::QuantizeRows`].
pub fn rows(format: &'static BlockFormat, cols: usize, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let Some(scalar) = format.scalar else { return rtn::rows(format, cols, weights, importance, out) };
    let row_bytes = out.len() / (weights.len() / cols);
    for (row, out) in weights.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)) {
        let mean = mean_square(row);
        let n = format.block_weights;
        for (b, (x, out)) in row.chunks_exact(n).zip(out.chunks_exact_mut(format.block_bytes)).enumerate() {
            let importance = importance.map(|i| &i[b * n..][..n]);
            block(scalar, x, importance, mean, out);
        }
    }
}

/// `|x|^p` with p = 3/4: of the exponents below 1 the one next to the paper's 0.7 that takes two square roots and no
/// logarithm.
fn norm(x: f32) -> f32 {
    let root = x.abs().sqrt();
    root * root.sqrt()
}

/// Weight of the quadratic penalty at the start, and its growth (the paper's beta and kappa).
const BETA: (f32, f32) = (10.0, 1.05);
/// Alternations at most.
const STEPS: usize = 20;

/// Quantizes one block.
fn block(scalar: &dyn ScalarCodes, x: &[f32], importance: Option<&[f32]>, mean_square: f32, out: &mut [u8]) {
    let mut codes = [0u8; 256];
    let codes = &mut codes[..x.len()];
    let start = scalar.fit(x, importance, mean_square, codes);
    let groups = x.len() / scalar.group();
    let has_minimum = scalar.grid(&start.scale[..groups], &[1.0; 16][..groups], None).min.iter().any(|m| *m != 0.0);

    let (mut scale, mut min) = (start.scale, start.min);
    for g in 0..groups {
        let at = g * scalar.group()..(g + 1) * scalar.group();
        let weighting = importance.map(|i| &i[at.clone()]);
        (scale[g], min[g]) = fit_group(scalar.levels(), &x[at], weighting, scale[g], min[g], has_minimum);
    }
    let count: Option<Vec<f32>> = importance.map(|i| i.chunks(scalar.group()).map(|g| g.iter().sum()).collect());
    let fitted = scalar.grid(&scale[..groups], &min[..groups], count.as_deref());
    let mut better = [0u8; 256];
    let better = &mut better[..x.len()];
    better.iter_mut().enumerate().for_each(|(i, code)| *code = scalar.code(&fitted, i, x[i]));
    let error = |grid: &Grid, codes: &[u8]| -> f64 {
        let each = |i: usize| {
            let weight = importance.map_or(1.0, |w| f64::from(w[i]));
            weight * f64::from(norm(scalar.value(grid, i, codes[i]) - x[i]))
        };
        (0..x.len()).map(each).sum()
    };
    if error(&fitted, better) < error(&start, codes) {
        scalar.pack(&fitted, better, out);
    } else {
        scalar.pack(&start, codes, out);
    }
}

/// Scale and minimum of one group.
fn fit_group(
    levels: &[f32],
    x: &[f32],
    weighting: Option<&[f32]>,
    mut scale: f32,
    mut min: f32,
    has_minimum: bool,
) -> (f32, f32) {
    let mut beta = BETA.0;
    let mut best = (f32::INFINITY, scale, min);
    for _ in 0..STEPS {
        if scale == 0.0 || !scale.is_finite() {
            break;
        }
        // Weighted sums for the regression of weight - error on level.
        let (mut n, mut sl, mut sy, mut sll, mut sly, mut total) = (0f64, 0f64, 0f64, 0f64, 0f64, 0f32);
        for (i, &w) in x.iter().enumerate() {
            let level = nearest_level(levels, (w + min) / scale);
            let error = (w + min) / scale - level;
            let weight = weighting.map_or(1.0, |v| v[i]);
            total += weight * norm(error * scale);
            let size = error.abs();
            let kept =
                if size > 0.0 { (size - 1.0 / (beta * size.sqrt().sqrt())).max(0.0).copysign(error) } else { 0.0 };
            let y = f64::from(w - kept * scale);
            let (weight, level) = (f64::from(weight), f64::from(level));
            n += weight;
            sl += weight * level;
            sy += weight * y;
            sll += weight * level * level;
            sly += weight * level * y;
        }
        if total >= best.0 {
            break;
        }
        best = (total, scale, min);
        let spread = n * sll - sl * sl;
        if has_minimum && spread > 1e-12 * (n * sll).abs() {
            let slope = (n * sly - sl * sy) / spread;
            let offset = (slope * sl - sy) / n;
            // Minimums are never negative in these formats.
            if offset >= 0.0 && slope > 0.0 {
                (scale, min) = (slope as f32, offset as f32);
            } else if sll > 0.0 {
                (scale, min) = ((sly / sll) as f32, 0.0);
            }
        } else if !has_minimum && sll > 0.0 {
            scale = (sly / sll) as f32;
        }
        beta *= BETA.1;
    }
    (best.1, best.2)
}

/// The level nearest to a position.
fn nearest_level(levels: &[f32], position: f32) -> f32 {
    let (first, last) = (levels[0], levels[levels.len() - 1]);
    if last - first == (levels.len() - 1) as f32 {
        return position.round().clamp(first, last); // whole numbers
    }
    levels
        .iter()
        .copied()
        .fold(levels[0], |best, l| if (l - position).abs() < (best - position).abs() { l } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use qconv_formats::block;

    /// Reproducible numbers with a long tail, as trained weights have.
    fn weights(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>().powi(3) * 0.1).collect()
    }

    fn norm_of(format: &BlockFormat, row: &[f32], bytes: &[u8]) -> f64 {
        let mut back = vec![0f32; row.len()];
        (format.dequantize.unwrap())(bytes, &mut back);
        row.iter().zip(&back).map(|(x, y)| f64::from(super::norm(x - y))).sum()
    }

    #[test]
    fn its_own_norm_is_never_worse_than_rounding_and_mostly_better() {
        let row = weights(4096);
        let mut better = Vec::new();
        for format in block::ALL.iter().copied().filter(|f| f.scalar.is_some() && f.quantize.is_some()) {
            let mut bytes = vec![0u8; format.row_bytes(row.len()).unwrap()];
            (format.quantize.unwrap())(&row, None, &mut bytes);
            let plain = norm_of(format, &row, &bytes);
            super::rows(format, row.len(), &row, None, &mut bytes);
            let fitted = norm_of(format, &row, &bytes);
            assert!(fitted <= plain * (1.0 + 1e-6), "{}: {fitted} after {plain}", format.name);
            if fitted < plain * 0.995 {
                better.push(format.name);
            }
        }
        for name in ["Q4_0", "Q2_K", "Q4_K"] {
            assert!(better.contains(&name), "{name} gains nothing; {better:?} do");
        }
    }

    #[test]
    fn zeros_and_importance_are_taken() {
        let mut row = vec![0f32; 512];
        row[300..].copy_from_slice(&weights(212));
        let importance: Vec<f32> = (0..512).map(|i| if i % 7 == 0 { 0.0 } else { i as f32 }).collect();
        for format in block::ALL.iter().copied().filter(|f| f.scalar.is_some() && f.quantize.is_some()) {
            let mut bytes = vec![0u8; format.row_bytes(512).unwrap()];
            super::rows(format, 512, &row, Some(&importance), &mut bytes);
            assert_eq!((format.find_nonfinite)(&bytes), None, "{}", format.name);
        }
    }

    #[test]
    fn codebooks_are_refused_with_the_reason() {
        let refused = |name| (HQQ.suits)(BlockFormat::by_name(name).unwrap());
        assert!(refused("IQ2_XS").unwrap_err().contains("codebook"));
        assert_eq!(refused("IQ4_XS"), Ok(()));
        assert_eq!(refused("F16"), Ok(()));
    }
}
