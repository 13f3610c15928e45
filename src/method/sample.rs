//! Some rows of a matrix, and what rounding does to them: what transforms are judged by.

use super::{QuantizeRows, Tools};
use crate::model::Model;
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use rayon::prelude::*;

/// Rows of a matrix at most; they are spread over all of it.
const ROWS: usize = 512;
/// Rows that a thread takes at once.
const PIECE: usize = 16;

/// Rows of a matrix that will be quantized.
pub(super) struct Sample<'a> {
    pub name: &'a str,
    pub format: &'static BlockFormat,
    pub quantize: QuantizeRows,
    pub cols: usize,
    pub rows: Vec<f32>, // (n, cols)
}

/// Changes rows before they are rounded.
pub(super) type Change<'a> = &'a (dyn Fn(&mut [f32]) + Sync);

impl<'a> Sample<'a> {
    /// Of the model as it is now. `None` if the tensor is not there, or is not quantized.
    pub fn of(model: &Model, tools: &Tools<'_>, name: &'a str) -> Result<Option<Self>> {
        let (Some(tensor), Some(&format)) = (model.tensor(name), tools.formats.get(name)) else { return Ok(None) };
        if !format.is_quantized() || format.quantize.is_none() || format.dequantize.is_none() {
            return Ok(None);
        }
        let (all, cols) = (tensor.shape.rows(), tensor.shape.cols());
        let step = all.div_ceil(ROWS);
        let mut rows = vec![0f32; all.div_ceil(step) * cols];
        for (i, row) in rows.chunks_exact_mut(cols).enumerate() {
            model.rows(tensor, i * step, row)?;
        }
        model.forget(tensor);
        Ok(Some(Sample { name, format, quantize: tools.quantizer.rows(), cols, rows }))
    }

    /// What becomes of the rows less what they were, `(n, cols)`: multiplied with `columns`, changed, rounded, and divided again.
    pub fn errors(&self, columns: &[f32], importance: Option<&[f32]>, change: Option<Change<'_>>) -> Vec<f32> {
        let Some(dequantize) = self.format.dequantize else {
            unreachable!("{}: what is quantized has weights", self.name)
        };
        let (cols, mut errors) = (self.cols, self.rows.clone());
        let row_bytes = cols / self.format.block_weights * self.format.block_bytes;
        let pieces = errors.par_chunks_mut(PIECE * cols).zip(self.rows.par_chunks(PIECE * cols));
        pieces.for_each(|(piece, weights)| {
            for row in piece.chunks_exact_mut(cols) {
                row.iter_mut().zip(columns).for_each(|(w, s)| *w *= s);
                if let Some(change) = change {
                    change(row);
                }
            }
            let mut packed = vec![0u8; piece.len() / cols * row_bytes];
            (self.quantize)(self.format, cols, piece, importance, &mut packed);
            let rows = piece.chunks_exact_mut(cols).zip(packed.chunks_exact(row_bytes));
            for ((row, bytes), weights) in rows.zip(weights.chunks_exact(cols)) {
                dequantize(bytes, row);
                row.iter_mut().zip(columns).zip(weights).for_each(|((x, s), w)| *x = *x / s - w);
            }
        });
        errors
    }
}
