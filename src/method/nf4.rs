//! bitsandbytes' NF4 (QLoRA, Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>), to compare with.
//!
//! Blocks of 64 weights share their largest absolute value, and 16 levels between -1 and 1 have equal shares of a normal
//! distribution. No GGUF block holds those levels: weights are rounded to NF4's and then stored in the format asked for. F16 and
//! BF16 hold them nearly exactly, at 16 bits; IQ4_NL, the nearest block of 4 bits, rounds them once more to levels and scales of
//! its own. F32 is left alone: norms and biases, which bitsandbytes leaves too. It leaves embeddings and the output matrix as well;
//! here they are treated as what `--token-embedding-type` and `--output-tensor-type` say, so that F32 there does the same.
//!
//! Blocks begin anew with each row; bitsandbytes counts them over the whole matrix, which is the same for rows of whole blocks.

use super::{Method, Needs, Work};
use qconv_formats::block::BlockFormat;

/// NF4, simulated.
pub static NF4: Method = Method {
    name: "nf4",
    help: "rounds to bitsandbytes' NF4, blocks of 64, then stores that: a simulation, close in F16 and BF16, rounded once more in \
           IQ4_NL (--pure)",
    needs: Needs::Nothing,
    work: Work::Rows(rows),
    suits: |format| match format.name {
        "F32" | "F16" | "BF16" | "IQ4_NL" => Ok(()),
        _ => Err("its blocks hold no NF4; F16 and BF16 do, and IQ4_NL nearly (--type iq4_nl --pure)"),
    },
};

/// Weights that share a scale.
const BLOCK: usize = 64;

/// What codes stand for (appendix E of the paper).
const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Rounds one row.
pub(super) fn round(row: &mut [f32]) {
    for block in row.chunks_mut(BLOCK) {
        let largest = block.iter().fold(0f32, |m, w| m.max(w.abs()));
        if largest > 0.0 {
            for w in block {
                let x = *w / largest;
                let above = LEVELS.partition_point(|l| *l < x).clamp(1, LEVELS.len() - 1);
                let (a, b) = (LEVELS[above - 1], LEVELS[above]);
                *w = largest * if x > (a + b) / 2.0 { b } else { a };
            }
        }
    }
}

fn rows(format: &'static BlockFormat, cols: usize, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    super::simulated(round, format, cols, weights, importance, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_go_to_the_nearest_level_and_floats_are_left_alone() {
        let mut row = vec![0.5, -1.0, 0.04, 0.039, 0.0, 0.99];
        round(&mut row);
        assert_eq!(row, [0.440_709_83, -1.0, 0.079_580_3, 0.0, 0.0, 1.0]);
        let (x, mut out) = ([0.3f32, 1.0], [0u8; 8]);
        rows(&qconv_formats::block::F32, 2, &x, None, &mut out);
        assert_eq!(out[..4], 0.3f32.to_le_bytes());
        assert!((NF4.suits)(BlockFormat::by_name("Q4_K").unwrap()).unwrap_err().contains("IQ4_NL"));
    }
}
