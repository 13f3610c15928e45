//! AdaRound (Nagel et al. 2020): for each weight, up or down is learned against the layer's output.
//!
//! The expected squared error of the layer's output is `e H e^T` with the Hessian of its inputs, so that no activations are
//! needed again. Each weight lies between two values of its grid, `low` and `high`; a soft choice `h` in `0 ..= 1`, the paper's
//! rectified sigmoid of a free variable, is moved by Adam, while a regularizer `1 - |2h - 1|^beta` with falling `beta` drives it
//! to one end. Differences from the paper: the whole Hessian instead of batches of inputs, so that a few hundred steps do; and
//! at the end each weight is tried once more with all others fixed. A row keeps plain rounding where that is the better one.

use super::descent::Rows;
use super::quadratic::Quadratic;
use super::{Matrix, Method, Needs, Work};
use crate::algebra::product_f32;
use anyhow::{Result, anyhow};
use qconv_formats::block::BlockFormat;
use rayon::prelude::*;

/// Learned rounding.
pub static ADAROUND: Method = Method {
    name: "adaround",
    help: "rounding learned against the layer's output on a text (AdaRound)",
    needs: Needs::Hessian,
    work: Work::Matrix(matrix),
    suits: |format: &BlockFormat| {
        if format.scalar.is_some() || !format.is_quantized() {
            Ok(())
        } else {
            Err("its codes stand for whole groups of a codebook: there is no up and down to choose between")
        }
    },
};

/// Rows that are learned together.
const ROWS: usize = 32;
/// Steps of Adam.
const STEPS: usize = 250;
/// Share of the steps before the regularizer begins.
const WARM_UP: f32 = 0.2;
/// Weight of the regularizer, against a loss that is scaled to about 1 per weight.
const REGULARIZER: f32 = 0.02;
/// Its exponent at first and at last.
const BETA: (f32, f32) = (20.0, 2.0);
/// Adam's step and decays.
const ADAM: (f32, f32, f32) = (0.05, 0.9, 0.99);
/// How far the sigmoid is stretched beyond 0 and 1 (the paper's gamma and zeta).
const STRETCH: (f32, f32) = (-0.1, 1.1);

/// See [`super::QuantizeMatrix`].
fn matrix(m: &Matrix<'_>, out: &mut [u8]) -> Result<()> {
    let row_bytes = out.len() / (m.weights.len() / m.cols);
    let Some(scalar) = m.format.scalar else { unreachable!("`suits` refuses codebooks") };
    let importance = m.hessian.diagonal();
    let problem = m.hessian.quadratic().map_err(|why| anyhow!("{why}"))?;
    m.weights.par_chunks(ROWS * m.cols).zip(out.par_chunks_mut(ROWS * row_bytes)).for_each(|(weights, out)| {
        let mut rows = Rows::fit(problem, m.format, scalar, weights, &importance);
        rows.evaluate();
        let plain: Vec<f64> = rows.losses().collect();
        (0..plain.len()).zip(out.chunks_exact_mut(row_bytes)).for_each(|(r, out)| rows.pack(r, out));
        learn(problem, weights, &mut rows);
        rows.evaluate();
        rows.improve(false);
        for (r, ((loss, plain), out)) in rows.losses().zip(plain).zip(out.chunks_exact_mut(row_bytes)).enumerate() {
            if loss < plain {
                rows.pack(r, out);
            }
        }
    });
    Ok(())
}

/// Picks the codes of some rows.
pub fn learn(problem: &Quadratic, weights: &[f32], rows: &mut Rows<'_>) {
    let n = problem.cols;
    let sides: Vec<_> = (0..weights.len()).map(|i| rows.around(i)).collect();
    let (low, high): (Vec<f32>, Vec<f32>) = sides.iter().map(|s| (s.0.1, s.1.1)).unzip();
    // The soft choice that is the weight itself.
    let (gamma, zeta) = STRETCH;
    let mut free: Vec<f32> = (0..weights.len())
        .map(|i| {
            let width = high[i] - low[i];
            let h = if width > 0.0 { ((weights[i] - low[i]) / width).clamp(0.001, 0.999) } else { 0.5 };
            let p = (h - gamma) / (zeta - gamma);
            (p / (1.0 - p)).ln()
        })
        .collect();
    let scale = typical_cost(problem, weights.len() / n, &low, &high);
    let (mut first, mut second) = (vec![0f32; free.len()], vec![0f32; free.len()]);
    let (mut soft, mut errors) = (vec![0f32; free.len()], vec![0f32; free.len()]);
    let mut gradient = vec![0f32; free.len()];
    let (rate, keep, keep_square) = ADAM;
    for step in 0..STEPS {
        for i in 0..free.len() {
            soft[i] = (sigmoid(free[i]) * (zeta - gamma) + gamma).clamp(0.0, 1.0);
            errors[i] = weights[i] - (low[i] + soft[i] * (high[i] - low[i]));
        }
        product_f32(&errors, &problem.h, n, &mut gradient); // H is symmetric
        let done = step as f32 / STEPS as f32;
        let regularizer = if done < WARM_UP { 0.0 } else { REGULARIZER };
        let beta = BETA.1 + (BETA.0 - BETA.1) * (1.0 - (done - WARM_UP).max(0.0) / (1.0 - WARM_UP));
        let (bias, bias_square) = (1.0 - keep.powi(step as i32 + 1), 1.0 - keep_square.powi(step as i32 + 1));
        for i in 0..free.len() {
            let s = sigmoid(free[i]);
            let inside = soft[i] > 0.0 && soft[i] < 1.0;
            let slope = if inside { s * (1.0 - s) * (zeta - gamma) } else { 0.0 };
            let distance = 2.0 * soft[i] - 1.0;
            let pull = -2.0 * beta * distance.abs().powf(beta - 1.0) * distance.signum();
            let g = slope * (-2.0 * gradient[i] * (high[i] - low[i]) / scale[i / n] + regularizer * pull);
            first[i] = keep * first[i] + (1.0 - keep) * g;
            second[i] = keep_square * second[i] + (1.0 - keep_square) * g * g;
            free[i] -= rate * (first[i] / bias) / ((second[i] / bias_square).sqrt() + 1e-8);
        }
    }
    for (i, (low, high)) in sides.iter().enumerate() {
        let up = sigmoid(free[i]) * (zeta - gamma) + gamma >= 0.5;
        rows.codes[i] = if up { high.0 } else { low.0 };
    }
}

/// Per row, what an error of a whole step costs in a typical column.
fn typical_cost(problem: &Quadratic, rows: usize, low: &[f32], high: &[f32]) -> Vec<f32> {
    let n = problem.cols;
    let of = |r: usize| {
        let cost = |i: usize| f64::from(problem.h[i * (n + 1)]) * f64::from(high[r * n + i] - low[r * n + i]).powi(2);
        ((0..n).map(cost).sum::<f64>() / n as f64) as f32
    };
    (0..rows).map(|r| of(r).max(f32::MIN_POSITIVE)).collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
