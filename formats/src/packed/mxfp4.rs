//! MXFP4 matrices (OCP Microscaling Formats 1.0) as Hugging Face stores them: `NAME_blocks` uint8 (rows, groups, 16), two
//! codes to a byte, the first in the lower half, and `NAME_scales` uint8 (rows, groups), exponents with a bias of 127, one
//! for 32 weights.

use super::field::Field;
use super::{Decode, Layout, Matrix, Packing, Settings};
use crate::Result;
use crate::checkpoint::Checkpoint;
use safetensors::Dtype;

pub static MXFP4: Packing = Packing { methods: &["mxfp4"], open };

/// The values of E2M1.
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

fn open(_: Settings) -> Result<Box<dyn Layout>> {
    Ok(Box::new(Mxfp4))
}

#[derive(Debug)]
struct Mxfp4;

impl Layout for Mxfp4 {
    fn describe(&self) -> String {
        "4-bit floats".into()
    }

    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>> {
        // gpt-oss names its experts without `.weight`.
        let names = [format!("{base}.weight"), base.to_owned()];
        for name in names {
            if let Some(codes) = Field::find(checkpoint, &format!("{name}_blocks")) {
                let scales = Field::require(checkpoint, &format!("{name}_scales"), &codes)?;
                return matrix(codes, scales).map(Some);
            }
        }
        Ok(None)
    }
}

/// Codes (rows, groups, 16) or (rows, groups * 16) with exponents (rows, groups).
pub(super) fn matrix(codes: Field, scales: Field) -> Result<Matrix> {
    codes.of(&[Dtype::U8])?;
    scales.of(&[Dtype::U8, Dtype::F8_E8M0])?;
    let (rows, groups) = match *codes.dims() {
        [rows, groups, 16] if rows > 0 && groups > 0 => (rows, groups),
        [rows, bytes] if rows > 0 && bytes > 0 && bytes.is_multiple_of(16) => (rows, bytes / 16),
        _ => {
            return Err(
                codes.error(format!("has the shape {:?} where rows of 16-byte blocks are expected", codes.dims()))
            );
        }
    };
    scales.shaped(&[rows, groups])?;
    let fields = vec![codes.clone(), scales.clone()];
    Matrix::new(rows, groups * 32, fields, Blocks { groups, codes, scales })
}

#[derive(Debug)]
struct Blocks {
    groups: usize,
    codes: Field,
    scales: Field,
}

impl Decode for Blocks {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        let (codes, scales) = (self.codes.bytes(), self.scales.bytes());
        for (col, out) in (col..).zip(out) {
            let group = row * self.groups + col / 32;
            let byte = codes[group * 16 + col % 32 / 2];
            let code = if col % 2 == 0 { byte & 15 } else { byte >> 4 };
            // 255 stands for NaN, and 2^-127 is a subnormal: f64 holds all others exactly.
            let scale = if scales[group] == 255 { f64::NAN } else { 2f64.powi(i32::from(scales[group]) - 127) };
            *out = (f64::from(E2M1[code as usize]) * scale) as f32;
        }
    }
}
