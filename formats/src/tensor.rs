//! Shapes and packed tensors.

use crate::block::BlockFormat;
use crate::{Error, Result, limits};
use std::ops::Range;
use std::sync::Arc;

/// A logical shape, outermost dimension first (rows x columns, as safetensors and numpy write it).
///
/// GGUF's reversed order exists only inside [`crate::gguf`]. The product is known to fit in a `usize`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: Vec<usize>,
}

impl Shape {
    /// Checks that there are 1 to 4 dimensions and that their product does not overflow. Zero-sized dimensions are refused:
    /// no model has them and no GGUF reader takes them. The error is a phrase to be put behind the tensor's name.
    pub fn new(dims: &[usize]) -> Result<Self, String> {
        if dims.is_empty() || dims.len() > limits::MAX_DIMS {
            return Err(format!("has {} dimensions; 1 to {} are possible", dims.len(), limits::MAX_DIMS));
        }
        if dims.contains(&0) {
            return Err(format!("has a dimension of size 0 in {dims:?}"));
        }
        let product = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        match product {
            Some(n) if n <= isize::MAX as usize / 8 => Ok(Shape { dims: dims.to_vec() }),
            _ => Err(format!("has more elements than memory can address in {dims:?}")),
        }
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Never true: a shape has at least one element.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Length of a row: the innermost dimension.
    pub fn cols(&self) -> usize {
        self.dims[self.dims.len() - 1]
    }

    /// Number of rows: the product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.len() / self.cols()
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Shape {
    /// `32000 x 2048`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, d) in self.dims.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { " x " } else { "" })?;
        }
        Ok(())
    }
}

/// Shared read-only bytes: a slice of a mapped file or of an owned buffer. Cloning copies no data.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// A slice of what `owner` holds. Panics if the range is not inside it: callers have checked.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= (*owner).as_ref().len(), "range outside its owner");
        SharedBytes { owner, range }
    }

    /// A part of these bytes. Panics if the range is not inside them.
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self::new(self.owner.clone(), self.range.start + range.start..self.range.start + range.end)
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        SharedBytes { owner: Arc::new(bytes), range }
    }
}

impl std::ops::Deref for SharedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// A tensor in packed form: rows x columns, each row a whole number of blocks. Cloning copies no data.
#[derive(Debug, Clone)]
pub struct QTensor {
    format: &'static BlockFormat,
    shape: Shape,
    bytes: SharedBytes,
}

impl QTensor {
    /// Checks that rows are whole blocks and that `bytes` has exactly the size that shape and format ask for.
    pub fn new(format: &'static BlockFormat, shape: Shape, bytes: impl Into<SharedBytes>) -> Result<Self> {
        let bytes = bytes.into();
        let row = format.row_bytes(shape.cols()).ok_or_else(|| {
            Error::caller(format!("rows of {} weights are no multiple of {}'s block", shape.cols(), format.name))
        })?;
        if row.checked_mul(shape.rows()) != Some(bytes.len()) {
            return Err(Error::caller(format!("{} bytes do not hold {shape} weights of {}", bytes.len(), format.name)));
        }
        Ok(QTensor { format, shape, bytes })
    }

    /// The block format.
    pub fn format(&self) -> &'static BlockFormat {
        self.format
    }

    /// Logical shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Packed bytes, row after row.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.shape.rows()
    }

    /// Rows `range` (counted over all outer dimensions) as a matrix that shares the bytes: one expert of a stack, or
    /// the keys of a fused query-key-value matrix. Panics if the range is empty or not inside the tensor.
    pub fn rows(&self, range: Range<usize>) -> QTensor {
        let row = self.row_bytes();
        let shape = Shape { dims: vec![range.len(), self.shape.cols()] };
        assert!(!range.is_empty() && range.end <= self.shape.rows(), "rows outside the tensor");
        QTensor { format: self.format, shape, bytes: self.bytes.slice(range.start * row..range.end * row) }
    }
}
