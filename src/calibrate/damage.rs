//! Whose fault activations are that are no numbers.

use crate::error::malformed;
use crate::model::Model;
use anyhow::Result;

/// Rows that are read together, in weights.
const PIECE: usize = 1 << 20;

/// The error of a matrix whose inputs are not finite: the first weight of the model that is no number, or, where all are, that its
/// activations are beyond what an f32 holds. Reads the whole model, for the sake of a sentence that can be acted upon.
pub fn not_finite(model: &Model, name: &str) -> anyhow::Error {
    match damaged(model) {
        Err(e) => e,
        Ok(Some(place)) => malformed(
            model.path(),
            place,
            "NaN or infinite: the weights are damaged, and no text can be run through them",
        ),
        Ok(None) => malformed(
            model.path(),
            format!("inputs of {name}"),
            "are not finite, though all weights are: the model's activations grow beyond what f32 holds",
        ),
    }
}

/// Where the first weight is that is no number.
fn damaged(model: &Model) -> Result<Option<String>> {
    for tensor in model.tensors().iter().filter(|t| t.format.dequantize.is_some()) {
        let (rows, cols) = (tensor.shape.rows(), tensor.shape.cols());
        let step = (PIECE / cols).max(1);
        let mut piece = vec![0f32; step.min(rows) * cols];
        for first in (0..rows).step_by(step) {
            let piece = &mut piece[..step.min(rows - first) * cols];
            model.rows(tensor, first, piece)?;
            if let Some(at) = piece.iter().position(|x| !x.is_finite()) {
                let (row, col) = (first + at / cols, at % cols);
                return Ok(Some(format!("tensor {}, row {row}, column {col}", tensor.name)));
            }
        }
        model.forget(tensor);
    }
    Ok(None)
}
