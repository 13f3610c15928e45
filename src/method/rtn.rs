//! Round to nearest on the grid that the format's reference quantizer fits: llama-quantize's bytes.

use super::Method;

/// The default method.
pub static RTN: Method = Method {
    name: "rtn",
    help: "round to nearest on the format's own grid, as llama-quantize does",
    quantize: |format, cols, weights, importance, out| {
        let row_bytes = out.len() / (weights.len() / cols);
        let quantize = format.quantize.expect("the plan holds only formats that can be quantized to");
        for (row, out) in weights.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)) {
            quantize(row, importance, out);
        }
    },
};
