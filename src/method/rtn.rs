//! Round to nearest on the grid that the format's reference quantizer fits: llama-quantize's bytes.

use super::{Method, Needs, Work};
use qconv_formats::block::BlockFormat;
use qconv_kernels::cpu::{Isa, quantize};

/// The default method.
pub static RTN: Method = Method {
    name: "rtn",
    help: "round to nearest on the format's own grid, as llama-quantize does",
    needs: Needs::Nothing,
    work: Work::Rows(rows),
    suits: |_| Ok(()),
};

/// See [`super::QuantizeRows`].
pub fn rows(format: &'static BlockFormat, cols: usize, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let row_bytes = out.len() / (weights.len() / cols);
    // Bytes do not depend on the instruction set; a wrong QCONV_ISA is reported where a conversion starts.
    let isa = Isa::pick(None).unwrap_or(Isa::Scalar);
    let quantize = quantize::best(format, isa).expect("the plan holds only formats that can be quantized to");
    for (row, out) in weights.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)) {
        quantize(row, importance, out);
    }
}
