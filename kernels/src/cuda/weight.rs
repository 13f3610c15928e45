//! Weights in device memory: vectors as floats, matrices packed as their format's decoder wants them.

use super::device::Device;
use super::layout::Layout;
use super::memory::{Memory, floats_as_bytes};
use crate::{Error, Result};
use qconv_formats::QTensor;
use qconv_formats::block::{BlockFormat, F32};
use std::sync::Arc;
use std::thread;

/// Bytes of a matrix that are laid out and copied at a time.
const PIECE: usize = 64 << 20;

/// A weight matrix or vector.
pub struct Weight {
    /// A vector: `(cols)` floats. A matrix: `(rows)` rows as `layout` says. Shared with the tables that name it.
    pub(super) memory: Arc<Memory>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// The format that kernels see: the tensor's, or F32.
    pub(super) format: &'static BlockFormat,
}

impl Weight {
    /// Copies a weight to the device. Errors: no room, or a format without weights.
    pub(super) fn upload(device: &Device, tensor: &QTensor) -> Result<Self> {
        let format = tensor.format();
        let (rows, cols) = (tensor.shape().rows(), tensor.shape().cols());
        let Some(dequantize) = format.dequantize else {
            return Err(Error::Unavailable(format!("{} holds no weights that could be computed with", format.name)));
        };
        let floats = |bytes: &[u8]| {
            let mut floats = vec![0.0; bytes.len() / format.block_bytes * format.block_weights];
            dequantize(bytes, &mut floats);
            floats
        };
        if tensor.shape().dims().len() == 1 {
            let memory = Memory::upload(device, floats_as_bytes(&floats(tensor.bytes())), "a weight vector")?;
            return Ok(Weight { memory: Arc::new(memory), rows, cols, format: &F32 });
        }
        // Formats that no kernel decodes (F64) are kept as F32.
        let (format, layout, native) = match Layout::of(format) {
            Some(layout) => (format, layout, true),
            None => (&F32, Layout::of(&F32).expect("floats have a layout"), false),
        };
        let blocks = cols / format.block_weights;
        let row_bytes = layout.row_bytes(blocks);
        let mut memory = Memory::zeroed(device, rows * row_bytes, "a weight")?;
        let at_a_time = (PIECE / row_bytes.max(1)).max(1);
        let mut packed = vec![0; at_a_time.min(rows) * row_bytes];
        for (i, rows) in tensor.bytes().chunks(at_a_time * tensor.row_bytes()).enumerate() {
            let count = rows.len() / tensor.row_bytes();
            let packed = &mut packed[..count * row_bytes];
            // Rows are laid out by all cores: copying should not wait for it.
            let share = count.div_ceil(thread::available_parallelism().map_or(1, usize::from));
            thread::scope(|scope| {
                let shares = rows.chunks(share * tensor.row_bytes()).zip(packed.chunks_mut(share * row_bytes));
                for (rows, packed) in shares {
                    scope.spawn(move || {
                        if native {
                            layout.pack(blocks, rows, packed);
                        } else {
                            layout.pack(blocks, floats_as_bytes(&floats(rows)), packed);
                        }
                    });
                }
            });
            memory.write(device, i * at_a_time * row_bytes, packed)?;
        }
        Ok(Weight { memory: Arc::new(memory), rows, cols, format })
    }

    /// Bytes of all of it.
    pub(super) fn bytes(&self) -> usize {
        self.memory.len()
    }
}
