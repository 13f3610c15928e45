//! HQQ checkpoints (Badri & Shaji 2023) as transformers stores them: `W_q`, `scale`, `zero`, and the layer's settings as
//! small tensors beside them (`shape`, `group_size`, `axis`, `nbits`, `packing`).
//!
//! The matrix is reshaped to (groups, group size) for axis 1 or (group size, groups) for axis 0; its first dimension is cut
//! into as many parts as codes fit a word, and code `i` of each part shares one word, the first part in the highest bits.
//! `w = (code - zero) * scale`. Words are bytes, but int32 with ten codes for 3 bits. (Layout of hqq's `BitPack`.)

use super::field::{FLOATS, Field};
use super::{Decode, Layout, Matrix, Packing, Settings};
use crate::Result;
use crate::checkpoint::Checkpoint;
use safetensors::Dtype;
use serde_json::Value as Json;

pub static HQQ: Packing = Packing { methods: &["hqq"], open };

fn open(settings: Settings) -> Result<Box<dyn Layout>> {
    // The setting may be one for all layers or one per kind of layer; per-layer tensors say the rest.
    let config = settings.get("quant_config").cloned().unwrap_or(Json::Null);
    let mut weights = Vec::new();
    collect(&config, &mut weights);
    let number = |v: &Json, key: &str| v.get(key).and_then(Json::as_u64).map(|n| n as usize);
    let settings = weights.iter().map(|w| Setting {
        bits: number(w, "nbits"),
        size: number(w, "group_size"),
        axis: number(w, "axis"),
    });
    Ok(Box::new(Hqq { settings: settings.collect() }))
}

/// Every `weight_quant_params` at any depth.
fn collect(value: &Json, out: &mut Vec<Json>) {
    let Some(map) = value.as_object() else { return };
    for (key, value) in map {
        if key == "weight_quant_params" {
            out.push(value.clone());
        } else {
            collect(value, out);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    bits: Option<usize>,
    size: Option<usize>,
    axis: Option<usize>,
}

#[derive(Debug)]
struct Hqq {
    settings: Vec<Setting>,
}

impl Layout for Hqq {
    fn describe(&self) -> String {
        let bits: Vec<String> = self.settings.iter().filter_map(|s| s.bits).map(|b| b.to_string()).collect();
        format!("{} bits", if bits.is_empty() { "unknown".into() } else { bits.join("/") })
    }

    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>> {
        let part = |end: &str| Field::find(checkpoint, &format!("{base}.{end}"));
        let Some(codes) = part("W_q") else { return Ok(None) };
        let scales = Field::require(checkpoint, &format!("{base}.scale"), &codes)?;
        let zeros = Field::require(checkpoint, &format!("{base}.zero"), &codes)?;
        let shape = Field::require(checkpoint, &format!("{base}.shape"), &codes)?;
        for name in ["quant_scale", "quant_zero", "view_as_float"] {
            if let Some(flag) = part(name).filter(|f| f.len() == 1 && whole(f, 0).is_ok_and(|n| n != 0)) {
                return Err(
                    flag.error("is set: scales that are quantized themselves, or codes viewed as floats, are not read")
                );
            }
        }
        shape.sized(2)?;
        let (rows, cols) = (whole(&shape, 0)?, whole(&shape, 1)?);
        let weights = rows.checked_mul(cols).filter(|n| *n > 0).ok_or_else(|| shape.error("has no weights"))?;

        // A layer's own figures first, then the configuration's.
        let only = self.settings.first().filter(|_| self.settings.len() == 1);
        let said = |name: &str, other: Option<usize>| -> Result<Option<usize>> {
            match part(name) {
                Some(field) if field.len() == 1 => whole(&field, 0).map(Some),
                _ => Ok(other),
            }
        };
        let missing = |name: &str| codes.error(format!("has no {name} beside it, and config.json names none"));
        let bits = said("nbits", only.and_then(|s| s.bits))?.ok_or_else(|| missing("nbits"))?;
        let axis = said("axis", only.and_then(|s| s.axis))?.ok_or_else(|| missing("axis"))?;
        let per_row = if axis == 1 { cols } else { rows };
        let size = said("group_size", only.and_then(|s| s.size))?.unwrap_or(per_row);
        let (per_word, word) = match bits {
            8 => (1, 1),
            4 => (2, 1),
            3 => (10, 4),
            2 => (4, 1),
            1 => (8, 1),
            _ => return Err(codes.error(format!("has {bits} bits; 1, 2, 3, 4 and 8 are read"))),
        };
        if axis > 1 || size == 0 || !weights.is_multiple_of(size) {
            return Err(codes.error(format!("has axis {axis} and groups of {size} for {rows} x {cols} weights")));
        }
        let groups = weights / size;
        // (outer, inner): the reshaped matrix.
        let (outer, inner) = if axis == 1 { (groups, size) } else { (size, groups) };
        let step = outer.div_ceil(per_word);
        codes.of(if word == 4 { &[Dtype::I32] } else { &[Dtype::U8] })?;
        codes.sized(step * inner)?;
        for field in [&scales, &zeros] {
            field.of(FLOATS)?;
            if field.len() != 1 || groups == 1 {
                field.sized(groups)?;
            }
        }
        let fields: Vec<Field> = [codes.clone(), scales.clone(), zeros.clone(), shape]
            .into_iter()
            .chain(COMPANIONS.iter().filter_map(|end| part(end)))
            .collect();
        let decode = Codes { bits, axis, per_word, word, cols, inner, step, groups, codes, scales, zeros };
        Matrix::new(rows, cols, fields, decode).map(Some)
    }
}

/// Tensors that a layer's state holds besides codes, scales and zero points.
const COMPANIONS: &[&str] = &[
    "nbits",
    "group_size",
    "axis",
    "packing",
    "view_as_float",
    "unpack_view_dtype",
    "channel_wise",
    "compute_dtype",
    "encoded_state_dict",
    "offload_meta",
    "optimize",
    "quant_scale",
    "quant_zero",
    "round_zero",
    "stores_quant_config",
];

/// A whole number that is stored as an integer or a float.
fn whole(field: &Field, i: usize) -> Result<usize> {
    let value = match field.dtype() {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => f64::from(field.float(i)),
        Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 => field.integer(i) as f64,
        other => return Err(field.error(format!("has the type {other:?} where a whole number is expected"))),
    };
    if value.fract() == 0.0 && (0.0..=4e9).contains(&value) {
        return Ok(value as usize);
    }
    Err(field.error(format!("is {value} where a whole number is expected")))
}

#[derive(Debug)]
struct Codes {
    bits: usize,
    axis: usize,
    per_word: usize,
    /// Bytes of a word.
    word: usize,
    cols: usize,
    /// Columns of the reshaped matrix.
    inner: usize,
    /// Rows of words.
    step: usize,
    groups: usize,
    codes: Field,
    scales: Field,
    zeros: Field,
}

impl Decode for Codes {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        for (at, out) in (row * self.cols + col..).zip(out) {
            let (outer, inner) = (at / self.inner, at % self.inner);
            let (part, line) = (outer / self.step, outer % self.step);
            let word = match self.word {
                4 => self.codes.word(line * self.inner + inner),
                _ => u32::from(self.codes.bytes()[line * self.inner + inner]),
            };
            let code = (word >> ((self.per_word - 1 - part) * self.bits)) & ((1 << self.bits) - 1);
            let group = if self.axis == 1 { outer } else { inner };
            let of = |field: &Field| field.float(if field.len() == self.groups { group } else { 0 });
            *out = (code as f32 - of(&self.zeros)) * of(&self.scales);
        }
    }
}
