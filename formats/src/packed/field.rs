//! One stored tensor of a quantized matrix, with typed access to its elements.

use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::{Error, Mapped, Result};
use half::{bf16, f16};
use safetensors::Dtype;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// A stored tensor and the file that it is in.
#[derive(Debug, Clone)]
pub struct Field {
    map: Arc<Mapped>,
    tensor: StoredTensor,
}

impl Field {
    pub(super) fn find(checkpoint: &Checkpoint, name: &str) -> Option<Field> {
        let (file, tensor) = checkpoint.tensor(name)?;
        Some(Field { map: file.map().clone(), tensor: tensor.clone() })
    }

    /// A part that the layout cannot do without.
    pub(super) fn require(checkpoint: &Checkpoint, name: &str, beside: &Field) -> Result<Field> {
        Self::find(checkpoint, name).ok_or_else(|| {
            let what = format!("is missing from the checkpoint, which has {}", beside.name());
            Error::malformed(checkpoint.folder(), format!("tensor {name}"), what)
        })
    }

    /// Its name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.tensor.name
    }

    /// The file that holds it.
    pub fn map(&self) -> &Arc<Mapped> {
        &self.map
    }

    /// Its bytes in that file.
    pub fn range(&self) -> Range<usize> {
        self.tensor.range.clone()
    }

    pub(super) fn dims(&self) -> &[usize] {
        &self.tensor.dims
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    /// Number of elements; their bytes are in the file.
    pub(super) fn len(&self) -> usize {
        self.tensor.dims.iter().product()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map.bytes()[self.tensor.range.clone()]
    }

    /// An error that names the tensor.
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::malformed(self.map.path(), format!("tensor {}", self.tensor.name), problem)
    }

    /// Rows and columns of a tensor with two dimensions, neither empty, of one of these types.
    pub(super) fn matrix(&self, types: &[Dtype]) -> Result<(usize, usize)> {
        self.of(types)?;
        match *self.dims() {
            [rows, cols] if rows > 0 && cols > 0 => Ok((rows, cols)),
            _ => Err(self.error(format!("has the shape {:?} where a matrix is expected", self.dims()))),
        }
    }

    /// Checks the type.
    pub(super) fn of(&self, types: &[Dtype]) -> Result<()> {
        if types.contains(&self.dtype()) {
            return Ok(());
        }
        Err(self.error(format!("has the type {:?}; {types:?} can be read here", self.dtype())))
    }

    /// Checks the shape.
    pub(super) fn shaped(&self, dims: &[usize]) -> Result<()> {
        if self.dims() == dims {
            return Ok(());
        }
        Err(self.error(format!("has the shape {:?} where {dims:?} is expected", self.dims())))
    }

    /// Checks the number of elements, whatever the shape.
    pub(super) fn sized(&self, len: usize) -> Result<()> {
        if self.len() == len {
            return Ok(());
        }
        Err(self.error(format!("has {} elements in {:?} where {len} are expected", self.len(), self.dims())))
    }

    /// Element `i` of a 32-bit integer tensor.
    pub(super) fn word(&self, i: usize) -> u32 {
        let bytes = &self.bytes()[i * 4..];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Element `i` of an integer tensor.
    pub(super) fn integer(&self, i: usize) -> i64 {
        let size = self.dtype().bitsize() / 8;
        let bytes = &self.bytes()[i * size..(i + 1) * size];
        let mut wide = [0u8; 8];
        wide[..size].copy_from_slice(bytes);
        let signed = matches!(self.dtype(), Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64);
        if signed && bytes[size - 1] & 0x80 != 0 {
            wide[size..].fill(0xff);
        }
        i64::from_le_bytes(wide)
    }

    /// Element `i` of a float tensor ([`FLOATS`] or 8 bits wide).
    pub(super) fn float(&self, i: usize) -> f32 {
        let bytes = self.bytes();
        let two = || u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        match self.dtype() {
            Dtype::F16 => f16::from_bits(two()).to_f32(),
            Dtype::BF16 => bf16::from_bits(two()).to_f32(),
            Dtype::F8_E4M3 => E4M3[bytes[i] as usize],
            Dtype::F8_E5M2 => f16::from_bits(u16::from(bytes[i]) << 8).to_f32(),
            _ => f32::from_bits(self.word(i)),
        }
    }
}

/// Float types of scales.
pub(super) const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];

/// 32-bit words of codes.
pub(super) const WORDS: &[Dtype] = &[Dtype::I32, Dtype::U32];

/// The 8-bit float with 4 bits of exponent, 3 of mantissa, no infinities and two NaN (OCP 8-bit Floating Point 1.0, E4M3).
static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        let (exponent, mantissa) = ((byte >> 3) & 15, (byte & 7) as f32);
        let size = match (exponent, byte & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 512.0,
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent as i32 - 7),
        };
        if byte & 0x80 != 0 { -size } else { size }
    })
});

/// `bits` wide code number `index` of a stream that begins with the lowest bits of its first word; `word(i)` gives word `i`.
pub(super) fn stream(bits: usize, index: usize, word: impl Fn(usize) -> u32) -> u32 {
    let at = index * bits;
    let (i, shift) = (at / 32, at % 32);
    let mut code = word(i) >> shift;
    if shift + bits > 32 {
        code |= word(i + 1) << (32 - shift);
    }
    code & (u32::MAX >> (32 - bits))
}
