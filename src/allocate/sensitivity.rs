//! How much a tensor's product with its inputs changes under each format.

use crate::convert::Importance;
use crate::model::{Model, ModelTensor};
use anyhow::Result;
use qconv_formats::block::{self, BlockFormat};
use qconv_kernels::cpu::{Isa, quantize};
use rayon::prelude::*;

/// Weights of a tensor that are looked at: rows at equal distances, so that time does not grow with the model's width.
const SAMPLE: usize = 1 << 19;

/// One tensor's errors.
#[derive(Debug, Clone)]
pub struct Errors {
    /// Expected square of what the tensor gives, summed over its outputs: `sum E[x_c^2] w_rc^2`.
    pub energy: f64,
    /// The same of its error, for each format.
    pub errors: Vec<f64>,
}

/// Errors of tensors under formats, both in the order given. Inputs are as important as `importance` says, else all alike.
pub fn errors(
    model: &Model,
    wanted: &[(&ModelTensor, &[&'static BlockFormat])],
    importance: Option<&Importance>,
) -> Result<Vec<Errors>> {
    let tasks: Vec<(usize, Option<&'static BlockFormat>)> = wanted
        .iter()
        .enumerate()
        .flat_map(|(i, (_, formats))| std::iter::once((i, None)).chain(formats.iter().map(move |f| (i, Some(*f)))))
        .collect();
    let measured = tasks
        .par_iter()
        .map(|&(i, format)| {
            let tensor = wanted[i].0;
            error(model, tensor, format, importance.and_then(|all| all.of(&tensor.name, &tensor.shape)))
        })
        .collect::<Result<Vec<f64>>>()?;
    let mut measured = measured.into_iter();
    let one = |(_, formats): &(&ModelTensor, &[&'static BlockFormat])| {
        let energy = measured.next().unwrap_or(0.0);
        Errors { energy, errors: measured.by_ref().take(formats.len()).collect() }
    };
    Ok(wanted.iter().map(one).collect())
}

/// Of one format; without a format, the energy.
fn error(
    model: &Model,
    tensor: &ModelTensor,
    format: Option<&'static BlockFormat>,
    importance: Option<&[f32]>,
) -> Result<f64> {
    let (rows, cols) = (tensor.shape.rows(), tensor.shape.cols());
    let dims = tensor.shape.dims();
    let matrix = if dims.len() > 1 { dims[dims.len() - 2] } else { 1 };
    let step = rows.div_ceil((SAMPLE / cols).max(1));
    let mut row = vec![0f32; cols];
    let mut back = vec![0f32; cols];
    let mut bytes = vec![0u8; format.and_then(|f| f.row_bytes(cols)).unwrap_or(0)];
    let isa = Isa::pick(None).unwrap_or(Isa::Scalar);
    let (mut sum, mut seen) = (0f64, 0);
    for r in (0..rows).step_by(step) {
        model.rows(tensor, r, &mut row)?;
        let weights = importance.map(|all| &all[r / matrix * cols..][..cols]);
        if let Some(format) = format {
            let used = weights.filter(|_| format.importance != block::Importance::Unused);
            let coders = quantize::best(format, isa).zip(format.dequantize);
            let (pack, unpack) = coders.expect("candidates can be quantized to");
            pack(&row, used, &mut bytes);
            unpack(&bytes, &mut back);
        }
        for c in 0..cols {
            let e = f64::from(row[c] - back[c]);
            sum += e * e * weights.map_or(1.0, |w| f64::from(w[c]));
        }
        seen += 1;
    }
    Ok(sum * rows as f64 / seen as f64)
}
