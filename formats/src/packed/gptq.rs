//! GPTQ checkpoints (AutoGPTQ, GPTQModel): 2, 3, 4 or 8 bits, affine groups along the input, optionally in activation order.
//!
//! Layout, with `in` and `out` features: `qweight` int32 (in * bits / 32, out), the codes of one output feature are a stream
//! of bits down a column; `qzeros` int32 (groups, out * bits / 32), a stream along a row; `scales` (groups, out); `g_idx`
//! int32 (in), the group of each input feature. `w = scale * (code - zero)`; the stored zero is one less than the real one,
//! but not in `checkpoint_format: gptq_v2`. (Layout as AutoGPTQ's `QuantLinear.pack` writes it.)

use super::field::{FLOATS, Field, WORDS, stream};
use super::{Decode, Layout, Matrix, Packing, Settings};
use crate::Result;
use crate::checkpoint::Checkpoint;

pub static GPTQ: Packing = Packing { methods: &["gptq"], open };

fn open(settings: Settings) -> Result<Box<dyn Layout>> {
    let format = settings.str("checkpoint_format").unwrap_or("gptq");
    let zero_offset = match format {
        "gptq" => 1,
        "gptq_v2" => 0,
        other => {
            let what = format!("is {other:?}; gptq and gptq_v2 are read");
            return Err(settings.error("checkpoint_format", what));
        }
    };
    Ok(Box::new(Gptq { bits: settings.bits(&[2, 3, 4, 8])?, group_size: settings.group_size()?, zero_offset }))
}

#[derive(Debug)]
struct Gptq {
    bits: usize,
    group_size: Option<usize>,
    zero_offset: i32,
}

impl Layout for Gptq {
    fn describe(&self) -> String {
        format!("{} bits", self.bits)
    }

    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>> {
        let Some(codes) = Field::find(checkpoint, &format!("{base}.qweight")) else { return Ok(None) };
        let zeros = Field::require(checkpoint, &format!("{base}.qzeros"), &codes)?;
        let scales = Field::require(checkpoint, &format!("{base}.scales"), &codes)?;
        let order = Field::find(checkpoint, &format!("{base}.g_idx"));
        let (words, rows) = codes.matrix(WORDS)?;
        // A layer may have its own width (GPTQModel's `dynamic`): with g_idx, the shapes tell it.
        let inputs = order.as_ref().map(Field::len).filter(|n| *n > 0);
        let bits = match inputs {
            Some(n) => [2, 3, 4, 8].into_iter().find(|bits| n.checked_mul(*bits) == words.checked_mul(32)),
            None => (words * 32 / self.bits * self.bits == words * 32).then_some(self.bits),
        };
        let Some(bits) = bits else {
            let what =
                format!("has {words} rows of words, which hold no codes of 2, 3, 4 or 8 bits for {inputs:?} inputs");
            return Err(codes.error(what));
        };
        let cols = words * 32 / bits;
        let groups = scales.matrix(FLOATS)?.0;
        scales.shaped(&[groups, rows])?;
        zeros.of(WORDS)?;
        if !(rows * bits).is_multiple_of(32) {
            return Err(codes.error(format!("has {rows} columns, whose zero points fill no whole words")));
        }
        zeros.shaped(&[groups, rows * bits / 32])?;
        let size = self.group_size.unwrap_or(cols);
        let group: Vec<u32> = match &order {
            Some(order) if order.len() == cols => {
                order.of(WORDS)?;
                (0..cols).map(|i| order.word(i)).collect()
            }
            _ => (0..cols).map(|i| (i / size) as u32).collect(),
        };
        if let Some(i) = group.iter().position(|g| *g as usize >= groups) {
            let what = format!("has {groups} groups, but input feature {i} is in group {}", group[i]);
            return Err(scales.error(what));
        }
        let mut fields = vec![codes.clone(), zeros.clone(), scales.clone()];
        fields.extend(order);
        let decode = Codes { bits, zero_offset: self.zero_offset, group, codes, zeros, scales, rows };
        Matrix::new(rows, cols, fields, decode).map(Some)
    }
}

#[derive(Debug)]
struct Codes {
    bits: usize,
    zero_offset: i32,
    /// Group of each input feature.
    group: Vec<u32>,
    codes: Field,
    zeros: Field,
    scales: Field,
    rows: usize,
}

impl Decode for Codes {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        let zero_words = self.rows * self.bits / 32;
        let mut last = None;
        let (mut zero, mut scale) = (0, 0.0);
        for (i, out) in out.iter_mut().enumerate() {
            let group = self.group[col + i] as usize;
            if last != Some(group) {
                let stored = stream(self.bits, row, |word| self.zeros.word(group * zero_words + word));
                (last, zero) = (Some(group), stored as i32 + self.zero_offset);
                scale = self.scales.float(group * self.rows + row);
            }
            let code = stream(self.bits, col + i, |word| self.codes.word(word * self.rows + row));
            *out = scale * (code as i32 - zero) as f32;
        }
    }
}
