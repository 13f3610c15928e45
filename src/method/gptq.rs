//! GPTQ (Frantar et al. 2022): codes that make up for each other's errors.
//!
//! Columns are taken one after the other, those with the largest inputs first; what a column's rounding does wrong is fed back
//! into the targets of the columns still to come, as the Hessian of the inputs says. Blocks stay contiguous: grids are fitted
//! before ("static groups"). Then, beyond the paper, codes, scales and minimums are improved in turn under the same Hessian; the
//! best of a row's solutions is taken, plain rounding among them.
//!
//! Codebook formats (IQ1 to IQ3) have no code for a single column. Their blocks of 256 are quantized by the format's own search,
//! one after the other, and errors are fed back from block to block: within a block none, and grids stay as they are.

use super::descent::Rows;
use super::quadratic::Quadratic;
use super::{Matrix, Method, Needs, Work, rtn};
use anyhow::{Result, anyhow};
use rayon::prelude::*;

/// Error feedback.
pub static GPTQ: Method = Method {
    name: "gptq",
    help: "error feedback by the Hessian of a text's activations (GPTQ), grids refitted under it; in codebook formats (IQ1 to IQ3) \
           feedback from block to block only",
    needs: Needs::Hessian,
    work: Work::Matrix(matrix),
    suits: |_| Ok(()),
};

/// Rows that go through together.
const ROWS: usize = 32;
/// Rounds of descent behind the error feedback. Feedback once more on the better grids was seen to gain 3 %, for twice the time.
const DESCENTS: usize = 2;

/// See [`super::QuantizeMatrix`].
fn matrix(m: &Matrix<'_>, out: &mut [u8]) -> Result<()> {
    let row_bytes = out.len() / (m.weights.len() / m.cols);
    let importance = m.hessian.diagonal();
    let problem = m.hessian.quadratic().map_err(|why| anyhow!("{why}"))?;
    let Some(scalar) = m.format.scalar else { return blocks(m, problem, &importance, out) };
    m.weights.par_chunks(ROWS * m.cols).zip(out.par_chunks_mut(ROWS * row_bytes)).for_each(|(weights, out)| {
        let mut rows = Rows::fit(problem, m.format, scalar, weights, &importance);
        let mut best = vec![f64::INFINITY; weights.len() / m.cols];
        let mut keep = |rows: &Rows<'_>| {
            for (r, (loss, out)) in rows.losses().zip(out.chunks_exact_mut(row_bytes)).enumerate() {
                if loss < best[r] {
                    best[r] = loss;
                    rows.pack(r, out);
                }
            }
        };
        rows.evaluate();
        keep(&rows);
        rows.feed_back();
        rows.evaluate();
        keep(&rows);
        (0..DESCENTS).for_each(|_| rows.improve(true));
        keep(&rows);
    });
    Ok(())
}

/// Formats without codes for single weights.
fn blocks(m: &Matrix<'_>, problem: &Quadratic, importance: &[f32], out: &mut [u8]) -> Result<()> {
    let Some(dequantize) = m.format.dequantize else { return Err(anyhow!("{} holds no weights", m.format.name)) };
    let (block, bytes) = (m.format.block_weights, m.format.block_bytes);
    let row_bytes = m.cols / block * bytes;
    let problem = problem.in_blocks(block).map_err(|why| anyhow!(why))?;
    m.weights.par_chunks(m.cols).zip(out.par_chunks_mut(row_bytes)).for_each(|(weights, out)| {
        let loss = |packed: &[u8]| {
            let mut errors = vec![0f32; m.cols];
            dequantize(packed, &mut errors);
            errors.iter_mut().zip(weights).for_each(|(e, w)| *e -= w);
            problem.loss(&errors)
        };
        rtn::rows(m.format, m.cols, weights, Some(importance), out);
        let mut fed = vec![0u8; row_bytes];
        problem.feed_back_blocks(block, weights, |b, targets, costs, values| {
            let packed = &mut fed[b * bytes..(b + 1) * bytes];
            rtn::rows(m.format, block, targets, Some(costs), packed);
            dequantize(packed, values);
        });
        if loss(&fed) < loss(out) {
            out.copy_from_slice(&fed);
        }
    });
    Ok(())
}
