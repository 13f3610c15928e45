//! Weights as the CPU backend holds them: by reference into the mapped file.

use super::memory::Aligned;
use super::products::Fast;
use crate::{Error, Result};
use qconv_formats::QTensor;

/// A weight: the packed tensor, shared with the file; vectors (norms, biases) are kept as floats besides.
pub struct Weight {
    tensor: QTensor,
    vector: Option<Aligned<f32>>,
    fast: Option<&'static Fast>,
}

impl Weight {
    /// Errors: the format holds no weights (integers), or there is no memory for a vector's floats.
    pub(super) fn new(tensor: QTensor) -> Result<Self> {
        let format = tensor.format();
        let Some(dequantize) = format.dequantize else {
            return Err(Error::Unavailable(format!("{} holds no weights that could be computed with", format.name)));
        };
        let mut vector = None;
        if tensor.shape().dims().len() == 1 {
            let mut floats = Aligned::zeroed(tensor.shape().len(), "a weight vector")?;
            dequantize(tensor.bytes(), &mut floats);
            vector = Some(floats);
        }
        Ok(Weight { fast: Fast::find(format.name), tensor, vector })
    }

    /// The packed tensor.
    pub fn tensor(&self) -> &QTensor {
        &self.tensor
    }

    /// Rows: the product of all dimensions but the last.
    pub(super) fn rows(&self) -> usize {
        self.tensor.shape().rows()
    }

    /// Length of a row.
    pub(super) fn cols(&self) -> usize {
        self.tensor.shape().cols()
    }

    /// The packed bytes of row `row`.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        let bytes = self.tensor.row_bytes();
        &self.tensor.bytes()[row * bytes..][..bytes]
    }

    /// The packed bytes of some rows.
    pub(super) fn bytes_of(&self, rows: std::ops::Range<usize>) -> &[u8] {
        let bytes = self.tensor.row_bytes();
        &self.tensor.bytes()[rows.start * bytes..rows.end * bytes]
    }

    /// The integer product of its format, if there is one.
    pub(super) fn fast(&self) -> Option<&'static Fast> {
        self.fast
    }

    /// A vector's floats. Panics for a matrix: norms and biases have one dimension.
    pub(super) fn vector(&self) -> &[f32] {
        self.vector.as_deref().expect("norm weights and biases have one dimension")
    }

    /// Dequantizes columns `start ..` of a row; `start` and `out.len()` are whole blocks.
    pub(super) fn dequantize(&self, row: usize, start: usize, out: &mut [f32]) {
        let format = self.tensor.format();
        let at = start / format.block_weights * format.block_bytes;
        let len = out.len() / format.block_weights * format.block_bytes;
        let dequantize = format.dequantize.expect("checked in the constructor");
        dequantize(&self.row(row)[at..at + len], out);
    }
}
