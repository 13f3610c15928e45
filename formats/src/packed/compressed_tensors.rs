//! Checkpoints of compressed-tensors (LLM Compressor, vLLM): `pack-quantized`, `int-quantized`, `float-quantized`,
//! `naive-quantized` and, of its 4-bit floats, `mxfp4-pack-quantized`.
//!
//! `int-` and `float-quantized`: `weight` int8 or F8_E4M3 (out, in), `weight_scale` for all, per row, per group of input
//! features or per block, `weight_zero_point` likewise. `pack-quantized`: `weight_packed` int32 (out, words), each code the
//! signed integer plus 2^(bits-1), as a stream of bits from the lowest on (before version 0.20: 32 / bits whole codes to a
//! word, which is the same for 1, 2, 4 and 8 bits); `weight_scale` (out, groups); `weight_zero_point` packed likewise along
//! the first dimension; `weight_shape`; `weight_g_idx` in activation order.
//! `w = scale * (code - zero)`.

use super::field::{FLOATS, Field, WORDS, stream};
use super::fp8::{CODES, block, scaled};
use super::{Decode, Layout, Matrix, Packing, Settings, mxfp4};
use crate::Result;
use crate::checkpoint::Checkpoint;
use safetensors::Dtype;
use serde_json::Value as Json;

pub static COMPRESSED_TENSORS: Packing = Packing { methods: &["compressed-tensors"], open };

const FORMATS: &[&str] = &[
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mixed-precision",
    "mxfp4-pack-quantized",
    "dense",
];

fn open(settings: Settings) -> Result<Box<dyn Layout>> {
    let format = settings.str("format").unwrap_or("dense").to_owned();
    if !FORMATS.contains(&format.as_str()) {
        return Err(settings.error("format", format!("is {format:?}; {} are read", FORMATS.join(", "))));
    }
    let mut groups = Vec::new();
    for (name, group) in settings.get("config_groups").and_then(Json::as_object).into_iter().flatten() {
        let Some(weights) = group.get("weights").filter(|w| !w.is_null()) else { continue };
        let bits = weights.get("num_bits").and_then(Json::as_u64).filter(|bits| (1..=16).contains(bits));
        let bits =
            bits.ok_or_else(|| settings.error(&format!("config_groups.{name}.weights.num_bits"), "is missing"))?;
        let size = weights.get("group_size").and_then(Json::as_i64).filter(|n| (1..=1 << 31).contains(n));
        let block = weights.get("block_structure").and_then(block);
        groups.push(Group { bits: bits as usize, size: size.map(|n| n as usize), block });
    }
    Ok(Box::new(CompressedTensors { format, groups }))
}

/// How a group of layers is quantized.
#[derive(Debug, Clone, Copy)]
struct Group {
    bits: usize,
    size: Option<usize>,
    block: Option<(usize, usize)>,
}

#[derive(Debug)]
struct CompressedTensors {
    format: String,
    groups: Vec<Group>,
}

impl Layout for CompressedTensors {
    fn describe(&self) -> String {
        self.format.clone()
    }

    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>> {
        let part = |end: &str| Field::find(checkpoint, &format!("{base}.{end}"));
        let idle =
            ["input_scale", "input_zero_point", "input_global_scale"].iter().filter_map(|end| part(end)).collect();
        if let Some(codes) = part("weight_packed") {
            let scales = Field::require(checkpoint, &format!("{base}.weight_scale"), &codes)?;
            if codes.dtype() == Dtype::U8 {
                if self.format == "mxfp4-pack-quantized" {
                    return mxfp4::matrix(codes, scales).map(Some);
                }
                return Err(codes.error("holds 4-bit floats in a layout that is not read"));
            }
            let shape = Field::require(checkpoint, &format!("{base}.weight_shape"), &codes)?;
            let parts =
                Parts { codes, scales, shape, zeros: part("weight_zero_point"), order: part("weight_g_idx"), idle };
            return self.packed(parts).map(Some);
        }
        let Some(codes) = part("weight").filter(|f| f.dtype() == Dtype::I8 || CODES.contains(&f.dtype())) else {
            return Ok(None);
        };
        let scales = Field::require(checkpoint, &format!("{base}.weight_scale"), &codes)?;
        let (rows, cols) = codes.matrix(&[Dtype::I8, Dtype::F8_E4M3, Dtype::F8_E5M2])?;
        // Scales (rows, groups): blocks of one row and a group's columns.
        let block = self
            .groups
            .iter()
            .find_map(|g| g.block.filter(|b| scales.len() == rows.div_ceil(b.0) * cols.div_ceil(b.1)));
        let groups = if scales.dims().first() == Some(&rows) { scales.len() / rows } else { 0 };
        let block = match groups {
            2.. => Some((1, self.group_of(cols, groups).unwrap_or(cols))),
            _ => block,
        };
        scaled(codes, scales, block, part("weight_zero_point"), idle).map(Some)
    }
}

/// The stored tensors of a `pack-quantized` layer.
struct Parts {
    codes: Field,
    scales: Field,
    shape: Field,
    zeros: Option<Field>,
    order: Option<Field>,
    idle: Vec<Field>,
}

impl CompressedTensors {
    /// The group size that makes `groups` of `cols`: a configured one, else equal parts.
    fn group_of(&self, cols: usize, groups: usize) -> Option<usize> {
        let configured = self.groups.iter().filter_map(|g| g.size).find(|size| cols.div_ceil(*size) == groups);
        configured.or_else(|| (groups > 0 && cols.is_multiple_of(groups)).then(|| cols / groups))
    }

    fn packed(&self, parts: Parts) -> Result<Matrix> {
        let Parts { codes, scales, shape, zeros, order, idle } = parts;
        let (rows, words) = codes.matrix(WORDS)?;
        shape.of(&[Dtype::I64, Dtype::I32])?;
        shape.sized(2)?;
        let cols = u32::try_from(shape.integer(1)).unwrap_or(0) as usize;
        if shape.integer(0) != rows as i64 || cols == 0 {
            let what = format!("says {} x {}, but the codes have {rows} rows", shape.integer(0), shape.integer(1));
            return Err(shape.error(what));
        }
        let widths = || self.groups.iter().map(|g| g.bits).filter(|bits| (1..=8).contains(bits));
        let dense = widths().find(|bits| (cols * bits).div_ceil(32) == words).map(|bits| (bits, true));
        let sparse = || widths().find(|bits| cols.div_ceil(32 / bits) == words).map(|bits| (bits, false));
        let Some((bits, dense)) = dense.or_else(sparse) else {
            let what =
                format!("has {words} words in a row, which no configured width (num_bits) makes of {cols} weights");
            return Err(codes.error(what));
        };
        scales.of(FLOATS)?;
        let groups = match *scales.dims() {
            [n, groups] if n == rows && groups > 0 => groups,
            [1] | [1, 1] | [] => 0, // one for all
            [n] if n == rows => 1,
            _ => return Err(scales.error(format!("has the shape {:?} for {rows} rows", scales.dims()))),
        };
        let size = if groups <= 1 { Some(cols) } else { self.group_of(cols, groups) };
        let Some(size) = size else {
            return Err(
                scales.error(format!("has {groups} groups, which no configured group_size makes of {cols} weights"))
            );
        };
        let zero_words = if dense { (rows * bits).div_ceil(32) } else { rows.div_ceil(32 / bits) };
        if let Some(zeros) = &zeros {
            zeros.of(&[Dtype::I32, Dtype::I8])?;
            let packed = zeros.dtype() == Dtype::I32;
            let each = if packed { zero_words } else { rows };
            zeros.sized(if groups == 0 && !packed { 1 } else { groups.max(1) * each })?;
        }
        let group = match &order {
            Some(order) if in_use(order, cols)? => {
                let group: Vec<usize> =
                    (0..cols).map(|i| usize::try_from(order.integer(i)).unwrap_or(usize::MAX)).collect();
                if let Some(i) = group.iter().position(|g| *g >= groups.max(1)) {
                    return Err(
                        order.error(format!("puts input feature {i} into a group beyond the {groups} there are"))
                    );
                }
                Some(group)
            }
            _ => None,
        };
        let mut fields = vec![codes.clone(), scales.clone(), shape];
        fields.extend(zeros.clone().into_iter().chain(order).chain(idle));
        Matrix::new(rows, cols, fields, Words { bits, dense, words, groups, size, group, codes, scales, zeros })
    }
}

/// Whether an order of input features is one: where there is none, it is -1 throughout.
fn in_use(order: &Field, cols: usize) -> Result<bool> {
    order.of(&[Dtype::I32, Dtype::I64])?;
    order.sized(cols)?;
    Ok(order.integer(0) != -1)
}

#[derive(Debug)]
struct Words {
    bits: usize,
    /// Codes are a stream of bits; else each word holds whole codes.
    dense: bool,
    /// Words in a row.
    words: usize,
    /// Groups in a row; 0 for one scale for the whole matrix.
    groups: usize,
    size: usize,
    /// Group of each input feature where they are out of order.
    group: Option<Vec<usize>>,
    codes: Field,
    scales: Field,
    zeros: Option<Field>,
}

impl Decode for Words {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        let offset = 1i64 << (self.bits - 1);
        let code = |index: usize, word: &dyn Fn(usize) -> u32| {
            let code = if self.dense {
                stream(self.bits, index, word)
            } else {
                let per_word = 32 / self.bits;
                stream(self.bits, index % per_word, |_| word(index / per_word))
            };
            i64::from(code) - offset
        };
        for (col, out) in (col..).zip(out) {
            let group = self.group.as_ref().map_or(col / self.size, |g| g[col]);
            let (scale, zero) = if self.groups == 0 { (0, 0) } else { (row * self.groups + group, group) };
            let zero = match &self.zeros {
                None => 0,
                Some(z) if z.dtype() == Dtype::I8 => z.integer(scale),
                Some(z) => code(row, &|word| z.word(word * self.groups.max(1) + zero)),
            };
            let code = code(col, &|word| self.codes.word(row * self.words + word));
            *out = (code - zero) as f32 * self.scales.float(scale);
        }
    }
}
