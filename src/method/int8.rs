//! The weights of LLM.int8() (Dettmers et al. 2022, <https://arxiv.org/abs/2208.07339>), to compare with.
//!
//! Each row has one scale, its largest absolute value over 127. No GGUF block has rows: weights are rounded to that grid and then
//! stored in the format asked for, nearly exactly in F16 and BF16, rounded once more in Q8_0 with its scales for 32 weights. F32 is
//! left alone.
//!
//! The paper's other half, outlier columns in 16 bits, is a matter of activations: bitsandbytes takes the weights of those columns
//! from the same 8-bit codes. `--activations llm-int8` rounds activations in that way when a model is evaluated.

use super::{Method, Needs, Work};
use qconv_formats::block::BlockFormat;

/// LLM.int8(), simulated.
pub static INT8: Method = Method {
    name: "int8",
    help: "rounds to bitsandbytes' LLM.int8, one scale for a row, then stores that: a simulation, close in F16 and BF16, rounded once \
           more in Q8_0; outliers are split with --activations llm-int8 when it is run",
    needs: Needs::Nothing,
    work: Work::Rows(rows),
    suits: |format| match format.name {
        "F32" | "F16" | "BF16" | "Q8_0" => Ok(()),
        _ => Err("its blocks hold no codes of 8 bits; F16, BF16 and Q8_0 do"),
    },
};

/// Rounds one row.
pub(super) fn round(row: &mut [f32]) {
    let largest = row.iter().fold(0f32, |m, w| m.max(w.abs()));
    if largest > 0.0 {
        row.iter_mut().for_each(|w| *w = (*w * 127.0 / largest).round_ties_even() * largest / 127.0);
    }
}

fn rows(format: &'static BlockFormat, cols: usize, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    super::simulated(round, format, cols, weights, importance, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_one_scale() {
        let mut row = vec![127.0, 1.4, -63.6, 0.5];
        round(&mut row);
        assert_eq!(row, [127.0, 1.0, -64.0, 0.0]);
        assert!((INT8.suits)(BlockFormat::by_name("Q4_0").unwrap()).is_err());
    }
}
