//! What may have happened to a tensor that is wrong as a whole: a factor, other weights, other rows.

use super::judge::Pair;
use super::measure::Measure;
use anyhow::Result;

/// Rows of a wrong tensor that are looked for elsewhere.
const SAMPLE: usize = 8;
/// Rows of the source that a row of the file is compared with, at most.
const CANDIDATES: usize = 4096;
/// Two rows with this cosine are the same one, quantized.
const ALIKE: f64 = 0.85;
/// Shorter rows resemble each other by chance.
const LEAST_COLS: usize = 16;

/// The rest of a sentence that begins with the tensor, if something is found. `plain` is the relative error that the
/// format gives.
pub fn guess(m: &Measure, plain: f64, pair: &Pair<'_>) -> Result<Option<String>> {
    // What is left of the error when the best factor is taken out.
    let rest = (1.0 - m.cosine().powi(2)).max(0.0).sqrt();
    if rest <= 1.5 * plain + 1e-3 {
        return Ok(Some(format!("it is the source times {:.4}", m.scale())));
    }
    let (rows, cols) = (pair.info.shape.rows(), pair.info.shape.cols());
    let Some(dequantize) = pair.info.format.dequantize.filter(|_| cols >= LEAST_COLS) else { return Ok(None) };
    let places: Vec<usize> = (0..SAMPLE.min(rows)).map(|i| i * rows / SAMPLE.min(rows)).collect();
    let row_bytes = pair.info.range.len() / rows;
    let mut sample = vec![0.0; places.len() * cols]; // (places, cols)
    for (&r, out) in places.iter().zip(sample.chunks_mut(cols)) {
        dequantize(&pair.file.bytes(pair.info)[r * row_bytes..(r + 1) * row_bytes], out);
    }
    Ok(match other_tensor(pair, &places, &sample)? {
        Some(guess) => Some(guess),
        None => other_rows(pair, &places, &sample)?,
    })
}

/// Another tensor of the source that has these rows.
fn other_tensor(pair: &Pair<'_>, places: &[usize], sample: &[f32]) -> Result<Option<String>> {
    let (rows, cols) = (pair.info.shape.rows(), pair.info.shape.cols());
    let mut row = vec![0.0; cols];
    for other in pair.source.tensors() {
        if other.name == pair.tensor.name || (other.shape.rows(), other.shape.cols()) != (rows, cols) {
            continue;
        }
        let mut alike = 0;
        for (&r, ours) in places.iter().zip(sample.chunks(cols)) {
            pair.source.rows(other, r, &mut row)?;
            alike += usize::from(cosine(ours, &row) > ALIKE);
        }
        if alike > places.len() / 2 {
            return Ok(Some(format!("it holds the weights of {}", other.name)));
        }
    }
    Ok(None)
}

/// The same tensor's rows in another order.
fn other_rows(pair: &Pair<'_>, places: &[usize], sample: &[f32]) -> Result<Option<String>> {
    let (rows, cols) = (pair.info.shape.rows(), pair.info.shape.cols());
    let mut row = vec![0.0; cols];
    let mut found = vec![None; places.len()];
    for candidate in 0..rows.min(CANDIDATES) {
        pair.source.rows(pair.tensor, candidate, &mut row)?;
        for (found, ours) in found.iter_mut().zip(sample.chunks(cols)) {
            if found.is_none() && cosine(ours, &row) > ALIKE {
                *found = Some(candidate);
            }
        }
    }
    pair.source.forget(pair.tensor);
    let moved = places.iter().zip(&found).find_map(|(&r, f)| f.filter(|&f| f != r).map(|f| (r, f)));
    Ok(moved
        .filter(|_| found.iter().flatten().count() > places.len() / 2)
        .map(|(r, f)| format!("its rows are in another order, row {r} is the source's row {f}")))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}
