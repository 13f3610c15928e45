//! AWQ checkpoints (AutoAWQ), version `gemm`: 4 bits, affine groups along the input.
//!
//! Layout, with `in` and `out` features: `qweight` int32 (in, out / 8), `qzeros` int32 (in / group, out / 8), `scales`
//! (in / group, out). The eight codes of a word stand in the order 0 2 4 6 1 3 5 7 from its lowest bits.
//! `w = scale * (code - zero)`. (Layout as AutoAWQ's `WQLinear_GEMM.from_linear` writes it.)

use super::field::{FLOATS, Field, WORDS};
use super::{Decode, Layout, Matrix, Packing, Settings};
use crate::Result;
use crate::checkpoint::Checkpoint;

pub static AWQ: Packing = Packing { methods: &["awq"], open };

/// Where in its word each of eight output features stands.
const PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

fn open(settings: Settings) -> Result<Box<dyn Layout>> {
    let version = settings.str("version").unwrap_or("gemm").to_ascii_lowercase();
    if version != "gemm" {
        return Err(settings.error("version", format!("is {version:?}; gemm is read")));
    }
    settings.bits(&[4])?;
    Ok(Box::new(Awq { group_size: settings.group_size()? }))
}

#[derive(Debug)]
struct Awq {
    group_size: Option<usize>,
}

impl Layout for Awq {
    fn describe(&self) -> String {
        "4 bits".into()
    }

    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>> {
        let Some(codes) = Field::find(checkpoint, &format!("{base}.qweight")) else { return Ok(None) };
        let zeros = Field::require(checkpoint, &format!("{base}.qzeros"), &codes)?;
        let scales = Field::require(checkpoint, &format!("{base}.scales"), &codes)?;
        let (cols, words) = codes.matrix(WORDS)?;
        let size = self.group_size.unwrap_or(cols);
        let groups = cols.div_ceil(size);
        zeros.of(WORDS)?;
        zeros.shaped(&[groups, words])?;
        scales.of(FLOATS)?;
        scales.shaped(&[groups, words * 8])?;
        let fields = vec![codes.clone(), zeros.clone(), scales.clone()];
        Matrix::new(words * 8, cols, fields, Codes { size, words, codes, zeros, scales }).map(Some)
    }
}

#[derive(Debug)]
struct Codes {
    size: usize,
    words: usize,
    codes: Field,
    zeros: Field,
    scales: Field,
}

impl Decode for Codes {
    fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        let (word, shift) = (row / 8, 4 * PLACE[row % 8]);
        for (col, out) in (col..).zip(out) {
            let group = col / self.size;
            let code = (self.codes.word(col * self.words + word) >> shift) & 15;
            let zero = (self.zeros.word(group * self.words + word) >> shift) & 15;
            *out = self.scales.float(group * self.words * 8 + row) * (code as i32 - zero as i32) as f32;
        }
    }
}
