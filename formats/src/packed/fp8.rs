//! FP8 checkpoints (DeepSeek's and Qwen's fine-grained FP8, FBGEMM's rows, ModelOpt's and others' whole tensors).
//!
//! `weight` F8_E4M3 or F8_E5M2 (out, in) with scales beside it, `weight_scale_inv` or `weight_scale`: one for all, one per
//! row, or one per block of `weight_block_size` (128 x 128). `w = code * scale`, for `_inv` as well.

use super::field::{FLOATS, Field};
use super::{Decode, Layout, Matrix, Packing, Settings};
use crate::Result;
use crate::checkpoint::Checkpoint;
use safetensors::Dtype;
use serde_json::Value as Json;

pub static FP8: Packing = Packing { methods: &["fp8", "fbgemm_fp8", "modelopt"], open };

/// 8-bit float types.
pub(super) const CODES: &[Dtype] = &[Dtype::F8_E4M3, Dtype::F8_E5M2];

fn open(settings: Settings) -> Result<Box<dyn Layout>> {
    let block = match settings.get("weight_block_size") {
        None => None,
        Some(value) => Some(block(value).ok_or_else(|| {
            settings.error("weight_block_size", format!("is {value} where two positive numbers are expected"))
        })?),
    };
    Ok(Box::new(Fp8 { block }))
}

/// Two positive numbers: rows and columns of a block.
pub(super) fn block(value: &Json) -> Option<(usize, usize)> {
    let sizes: Option<Vec<usize>> = value
        .as_array()?
        .iter()
        .map(|v| v.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize))
        .collect();
    match sizes?[..] {
        [rows, cols] => Some((rows, cols)),
        _ => None,
    }
}

#[derive(Debug)]
struct Fp8 {
    block: Option<(usize, usize)>,
}

impl Layout for Fp8 {
    fn describe(&self) -> String {
        "8-bit floats".into()
    }

    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>> {
        let Some(codes) = Field::find(checkpoint, &format!("{base}.weight")) else { return Ok(None) };
        if !CODES.contains(&codes.dtype()) {
            return Ok(None);
        }
        let name = |end: &str| format!("{base}.{end}");
        let scales = Field::find(checkpoint, &name("weight_scale_inv"));
        let scales = match scales {
            Some(scales) => scales,
            None => Field::require(checkpoint, &name("weight_scale"), &codes)?,
        };
        // Scales of activations: of no use for weights, but known.
        let idle = ["input_scale", "activation_scale", "input_scale_ub"];
        let idle = idle.iter().filter_map(|end| Field::find(checkpoint, &name(end))).collect();
        scaled(codes, scales, self.block, None, idle).map(Some)
    }
}

/// A matrix of 8-bit floats or integers with scales (and zero points in the same shape) for all, per row, or per block.
pub(super) fn scaled(
    codes: Field,
    scales: Field,
    block: Option<(usize, usize)>,
    zeros: Option<Field>,
    idle: Vec<Field>,
) -> Result<Matrix> {
    let (rows, cols) = match *codes.dims() {
        [rows, cols] if rows > 0 && cols > 0 => (rows, cols),
        _ => return Err(codes.error(format!("has the shape {:?} where a matrix is expected", codes.dims()))),
    };
    scales.of(FLOATS)?;
    let n = scales.len();
    let grid = block.map(|(r, c)| (rows.div_ceil(r), cols.div_ceil(c)));
    let (block, grid) = match (block, grid) {
        (Some(block), Some((r, c))) if n == r * c => (block, c),
        _ if n == 1 => ((rows, cols), 1),
        _ if n == rows => ((1, cols), 1),
        _ => {
            let what =
                format!("has the shape {:?}, which fits no rows or blocks of {rows} x {cols} weights", scales.dims());
            return Err(scales.error(what));
        }
    };
    if let Some(zeros) = &zeros {
        zeros.of(&[Dtype::I8, Dtype::U8, Dtype::I32])?;
        zeros.sized(n)?;
    }
    let mut fields = vec![codes.clone(), scales.clone()];
    fields.extend(zeros.clone());
    fields.extend(idle);
    Matrix::new(rows, cols, fields, Scaled { cols, block, grid, codes, scales, zeros })
}

#[derive(Debug)]
struct Scaled {
    cols: usize,
    /// Rows and columns that share a scale.
    block: (usize, usize),
    /// Scales in a row of blocks.
    grid: usize,
    codes: Field,
    scales: Field,
    zeros: Option<Field>,
}

impl Decode for Scaled {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        for (col, out) in (col..).zip(out) {
            let scale = row / self.block.0 * self.grid + col / self.block.1;
            let at = row * self.cols + col;
            let zero = self.zeros.as_ref().map_or(0, |z| z.integer(scale));
            let code = match self.codes.dtype() {
                Dtype::I8 => (i64::from(self.codes.bytes()[at] as i8) - zero) as f32,
                _ => self.codes.float(at),
            };
            *out = code * self.scales.float(scale);
        }
    }
}
