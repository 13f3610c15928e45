//! Weights in device memory.

use super::device::Device;
use super::memory::{Memory, floats_as_bytes};
use crate::{Error, Result};
use qconv_formats::QTensor;

/// A weight matrix or vector.
pub struct Weight {
    pub(super) memory: Memory, // (rows, cols)
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Weight {
    /// Copies a weight to the device. Errors: no room, or a format without weights.
    pub(super) fn upload(device: &Device, tensor: &QTensor) -> Result<Self> {
        let format = tensor.format();
        let Some(dequantize) = format.dequantize else {
            return Err(Error::Unavailable(format!("{} holds no weights that could be computed with", format.name)));
        };
        let mut floats = vec![0.0; tensor.shape().len()];
        let (cols, row_bytes) = (tensor.shape().cols(), tensor.row_bytes());
        for (row, out) in tensor.bytes().chunks(row_bytes).zip(floats.chunks_mut(cols)) {
            dequantize(row, out);
        }
        let memory = Memory::upload(device, floats_as_bytes(&floats), "a weight")?;
        Ok(Weight { memory, rows: tensor.shape().rows(), cols })
    }

    /// Bytes of all of it.
    pub(super) fn bytes(&self) -> usize {
        self.memory.len()
    }
}
