//! bitsandbytes checkpoints: NF4 and FP4 (Dettmers et al. 2023), and LLM.int8 (Dettmers et al. 2022).
//!
//! 4 bits: `weight` uint8, two codes to a byte, the first in the upper half, over the flattened matrix; `weight.absmax` per
//! block of weights and `weight.quant_map`, the sixteen values, as floats; `weight.quant_state.bitsandbytes__nf4` (or
//! `__fp4`), JSON in bytes with `shape` and `blocksize`. With double quantization `absmax` is uint8 and stands for
//! `nested_quant_map[code] * nested_absmax[block] + nested_offset`.
//!
//! 8 bits: `weight` int8 (out, in) and `SCB` (out): `w = code * SCB / 127`.

use super::field::{FLOATS, Field};
use super::{Decode, Layout, Matrix, Packing, Settings};
use crate::Result;
use crate::checkpoint::Checkpoint;
use safetensors::Dtype;
use serde::Deserialize;

pub static BITSANDBYTES: Packing =
    Packing { methods: &["bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"], open };

fn open(settings: Settings) -> Result<Box<dyn Layout>> {
    let four = settings.flag("load_in_4bit") || settings.flag("_load_in_4bit");
    Ok(Box::new(BitsAndBytes { four }))
}

#[derive(Debug)]
struct BitsAndBytes {
    four: bool,
}

/// The part of the JSON that says how codes become weights.
#[derive(Debug, Deserialize)]
struct State {
    shape: [usize; 2],
    blocksize: usize,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl Layout for BitsAndBytes {
    fn describe(&self) -> String {
        if self.four { "4 bits".into() } else { "8 bits".into() }
    }

    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>> {
        let Some(codes) = Field::find(checkpoint, &format!("{base}.weight")) else { return Ok(None) };
        if let Some(scales) = Field::find(checkpoint, &format!("{base}.SCB")) {
            return eight_bits(codes, scales, Field::find(checkpoint, &format!("{base}.weight_format"))).map(Some);
        }
        let state = |kind: &str| Field::find(checkpoint, &format!("{base}.weight.quant_state.bitsandbytes__{kind}"));
        let Some(state) = state("nf4").or_else(|| state("fp4")) else { return Ok(None) };
        four_bits(checkpoint, base, codes, state).map(Some)
    }
}

fn eight_bits(codes: Field, scales: Field, layout: Option<Field>) -> Result<Matrix> {
    let (rows, cols) = codes.matrix(&[Dtype::I8])?;
    scales.of(FLOATS)?;
    scales.sized(rows)?;
    if let Some(layout) = layout.as_ref().filter(|f| f.len() != 1 || f.bytes().first() != Some(&0)) {
        return Err(
            layout.error("names another layout than rows (0); save the model again with a current bitsandbytes")
        );
    }
    let mut fields = vec![codes.clone(), scales.clone()];
    fields.extend(layout);
    Matrix::new(rows, cols, fields, Rows { cols, codes, scales })
}

fn four_bits(checkpoint: &Checkpoint, base: &str, codes: Field, state: Field) -> Result<Matrix> {
    codes.of(&[Dtype::U8])?;
    let part = |name: &str| Field::require(checkpoint, &format!("{base}.weight.{name}"), &codes);
    let parsed: State =
        serde_json::from_slice(state.bytes()).map_err(|e| state.error(format!("is no such state: {e}")))?;
    let [rows, cols] = parsed.shape;
    let weights = rows.checked_mul(cols).filter(|n| *n > 0);
    let (Some(weights), 1..) = (weights, parsed.blocksize) else {
        return Err(state.error(format!("has the shape {:?} and blocks of {}", parsed.shape, parsed.blocksize)));
    };
    codes.sized(weights.div_ceil(2))?;
    let (absmax, map) = (part("absmax")?, part("quant_map")?);
    let blocks = weights.div_ceil(parsed.blocksize);
    absmax.sized(blocks)?;
    map.of(FLOATS)?;
    map.sized(16)?;
    let values = std::array::from_fn(|i| map.float(i));
    let mut fields = vec![codes.clone(), absmax.clone(), map, state.clone()];
    let nested = match absmax.dtype() {
        Dtype::U8 => {
            let (map, absmax) = (part("nested_quant_map")?, part("nested_absmax")?);
            let (Some(size @ 1..), Some(offset)) = (parsed.nested_blocksize, parsed.nested_offset) else {
                return Err(state.error("names no nested_blocksize and nested_offset for its 8-bit absmax"));
            };
            map.of(FLOATS)?;
            map.sized(256)?;
            absmax.of(FLOATS)?;
            absmax.sized(blocks.div_ceil(size))?;
            fields.extend([map.clone(), absmax.clone()]);
            Some(Nested { map, absmax, size, offset })
        }
        _ => {
            absmax.of(FLOATS)?;
            None
        }
    };
    let decode = Blocks { cols, size: parsed.blocksize, codes, values, absmax, nested };
    Matrix::new(rows, cols, fields, decode)
}

#[derive(Debug)]
struct Rows {
    cols: usize,
    codes: Field,
    scales: Field,
}

impl Decode for Rows {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        let scale = self.scales.float(row);
        let codes = &self.codes.bytes()[row * self.cols + col..][..out.len()];
        for (out, code) in out.iter_mut().zip(codes) {
            *out = f32::from(*code as i8) * scale / 127.0;
        }
    }
}

#[derive(Debug)]
struct Blocks {
    cols: usize,
    /// Weights that share an absolute maximum.
    size: usize,
    codes: Field,
    values: [f32; 16],
    absmax: Field,
    nested: Option<Nested>,
}

/// Double quantization: the maxima are 8-bit codes themselves.
#[derive(Debug)]
struct Nested {
    map: Field,
    absmax: Field,
    size: usize,
    offset: f32,
}

impl Decode for Blocks {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        let first = row * self.cols + col;
        let codes = self.codes.bytes();
        let mut last = None;
        let mut scale = 0.0;
        for (at, out) in (first..).zip(out) {
            let block = at / self.size;
            if last != Some(block) {
                last = Some(block);
                scale = match &self.nested {
                    None => self.absmax.float(block),
                    Some(n) => {
                        let value = n.map.float(self.absmax.bytes()[block] as usize);
                        value * n.absmax.float(block / n.size) + n.offset
                    }
                };
            }
            let code = if at % 2 == 0 { codes[at / 2] >> 4 } else { codes[at / 2] & 15 };
            *out = self.values[code as usize] * scale;
        }
    }
}
