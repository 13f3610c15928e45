//! Stored matrices as a checkpoint keeps them: plain floats, or quantized by some library; and the fix-ups on the way to
//! GGUF's order.

use anyhow::Result;
use qconv_formats::block::{self, BlockFormat, DequantizeRow};
use qconv_formats::checkpoint::StoredTensor;
use qconv_formats::packed::Matrix;
use qconv_formats::{Error, Mapped, Shape, SharedBytes};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A [`crate::arch::Fix`] with the numbers that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Rows (or the elements of a vector) of this many heads from half-split to interleaved order.
    RopeHeads(usize),
    Transpose,
    AddOne,
    /// The first (0) or second (1) half of every matrix's rows.
    Half(usize),
}

/// One stored matrix or vector.
#[derive(Debug)]
pub(super) enum Part {
    /// Floats in a file.
    Plain { map: Arc<Mapped>, tensor: StoredTensor, shape: Shape, format: &'static BlockFormat, decode: DequantizeRow },
    /// Quantized.
    Packed(Matrix),
}

impl Part {
    /// Errors: a type that holds no weights, an empty tensor or a scalar.
    pub fn plain(map: Arc<Mapped>, tensor: StoredTensor) -> Result<Part> {
        let fail = |problem: String| Error::malformed(map.path(), format!("tensor {}", tensor.name), problem);
        let format = match tensor.dtype {
            safetensors::Dtype::F32 => Some(&block::F32),
            safetensors::Dtype::F16 => Some(&block::F16),
            safetensors::Dtype::BF16 => Some(&block::BF16),
            _ => None,
        };
        let known = format.and_then(|f| Some((f, f.dequantize?)));
        let (format, decode) =
            known.ok_or_else(|| fail(format!("has the type {:?}; F32, F16 and BF16 are read", tensor.dtype)))?;
        let shape = tensor.shape.clone().ok_or_else(|| fail("is empty or a scalar".into()))?;
        Ok(Part::Plain { map, tensor, shape, format, decode })
    }

    /// The stored tensor's name; of a quantized matrix, its codes'.
    pub fn name(&self) -> &str {
        match self {
            Part::Plain { tensor, .. } => &tensor.name,
            Part::Packed(matrix) => matrix.fields()[0].name(),
        }
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        match self {
            Part::Plain { map, .. } => map.path(),
            Part::Packed(matrix) => matrix.fields()[0].map().path(),
        }
    }

    pub fn shape(&self) -> &Shape {
        match self {
            Part::Plain { shape, .. } => shape,
            Part::Packed(matrix) => matrix.shape(),
        }
    }

    /// Precision of its weights; F32 where they have to be computed.
    pub fn format(&self) -> &'static BlockFormat {
        match self {
            Part::Plain { format, .. } => format,
            Part::Packed(_) => &block::F32,
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        match self {
            Part::Plain { tensor, .. } => tensor.range.len(),
            Part::Packed(matrix) => matrix.fields().iter().map(|f| f.range().len()).sum(),
        }
    }

    /// The file's own bytes, if they are weights of this format.
    pub fn shared(&self, wanted: &'static BlockFormat) -> Option<SharedBytes> {
        match self {
            Part::Plain { map, tensor, format, .. } if *format == wanted => {
                Some(SharedBytes::new(map.clone(), tensor.range.clone()))
            }
            _ => None,
        }
    }

    /// Whether two matrices hold the same floats, byte for byte. Quantized ones are not looked into.
    pub fn is_same(&self, other: &Part) -> bool {
        let same = match (self, other) {
            (Part::Plain { map: a, tensor: x, .. }, Part::Plain { map: b, tensor: y, .. }) => {
                a.bytes()[x.range.clone()] == b.bytes()[y.range.clone()]
            }
            _ => false,
        };
        self.forget();
        other.forget();
        same
    }

    /// Consecutive weights, from element `first` on, all of one row.
    fn read(&self, first: usize, out: &mut [f32]) {
        match self {
            Part::Plain { map, tensor, format, decode, .. } => {
                let start = tensor.range.start + first * format.block_bytes;
                decode(&map.bytes()[start..start + out.len() * format.block_bytes], out);
            }
            Part::Packed(matrix) => {
                let cols = matrix.shape().cols();
                matrix.read(first / cols, first % cols, out);
            }
        }
    }

    /// Drops the mapped pages.
    pub fn forget(&self) {
        match self {
            Part::Plain { map, tensor, .. } => map.forget(tensor.range.clone()),
            Part::Packed(matrix) => matrix.fields().iter().for_each(|f| f.map().forget(f.range())),
        }
    }

    /// Drops the mapped pages of some of `total` rows. A quantized matrix may keep its rows spread over all of its
    /// tensors: their pages go with the last row.
    pub fn forget_rows(&self, rows: Range<usize>, total: usize) {
        match self {
            Part::Plain { map, tensor, .. } => map.forget(share(&tensor.range, rows, total)),
            Part::Packed(_) if rows.end == total => self.forget(),
            Part::Packed(_) => {}
        }
    }
}

/// The bytes of some of `total` equal rows.
pub(super) fn share(range: &Range<usize>, rows: Range<usize>, total: usize) -> Range<usize> {
    let row = range.len() / total;
    range.start + rows.start * row..range.start + rows.end * row
}

/// Rows of a tensor of this shape out of its parts, with the fix-up, from row `first` on.
pub(super) fn rows(shape: &Shape, parts: &[Part], change: Change, first: usize, out: &mut [f32]) {
    let cols = shape.cols();
    match change {
        Change::Transpose => {
            // The source is (cols, rows): each of its rows holds one column of ours, contiguous in our row index.
            let rows = shape.rows();
            let mut column = vec![0f32; out.len() / cols];
            for c in 0..cols {
                parts[0].read(c * rows + first, &mut column);
                column.iter().enumerate().for_each(|(r, &x)| out[r * cols + c] = x);
            }
        }
        Change::RopeHeads(heads) if shape.dims().len() == 1 => {
            let mut stored = vec![0f32; cols];
            parts[0].read(0, &mut stored);
            out.iter_mut().enumerate().for_each(|(i, x)| *x = stored[interleaved(i, cols / heads)]);
        }
        _ => {
            let rows_per_part = shape.rows() / parts.len();
            for (r, row) in (first..).zip(out.chunks_mut(cols)) {
                let at = r % rows_per_part;
                let source = match change {
                    Change::RopeHeads(heads) => interleaved(at, shape.rows() / heads),
                    Change::Half(half) => {
                        let rows = shape.dims()[shape.dims().len() - 2];
                        (at / rows) * 2 * rows + half * rows + at % rows
                    }
                    _ => at,
                };
                parts[r / rows_per_part].read(source * cols, row);
                if change == Change::AddOne {
                    row.iter_mut().for_each(|x| *x += 1.0);
                }
            }
        }
    }
}

/// Where row `r` of the interleaved RoPE order lies in the half-split order: pairs `(2i, 2i + 1)` of a head come from
/// `(i, i + half)`.
fn interleaved(r: usize, head_dim: usize) -> usize {
    let (head, at) = (r / head_dim, r % head_dim);
    head * head_dim + (at % 2) * (head_dim / 2) + at / 2
}
