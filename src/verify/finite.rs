//! NaN and infinity in tensor data.

use super::Findings;
use qconv_formats::gguf::Gguf;
use rayon::prelude::*;

/// Bytes that one thread looks at between two looks at the work list.
const SLICE: usize = 1 << 20;

/// Reads every tensor and names those with NaN or infinite weights, with the first row and block. `progress` is told
/// the bytes read.
pub fn nonfinite(gguf: &Gguf, findings: &mut Findings, progress: impl Fn(u64)) {
    for t in gguf.tensors() {
        let format = t.format;
        let slice = (SLICE / format.block_bytes).max(1);
        let first = gguf
            .bytes(t)
            .par_chunks(slice * format.block_bytes)
            .enumerate()
            .find_map_first(|(i, bytes)| (format.find_nonfinite)(bytes).map(|block| i * slice + block));
        gguf.forget(t, 0..t.range.len());
        progress(t.range.len() as u64);
        if let Some(block) = first {
            let place = format!("tensor {}", t.name);
            findings.problem(place, format!("holds NaN or infinite weights, first in {}", block_place(t, block)));
        }
    }
}

/// `row 3, block 2 of 8 (Q4_K)`, or `row 3, column 2` for floats. `block` counts from the tensor's first.
pub fn block_place(t: &qconv_formats::gguf::TensorInfo, block: usize) -> String {
    let per_row = t.shape.cols() / t.format.block_weights;
    let (row, at) = (block / per_row, block % per_row);
    if t.format.block_weights == 1 {
        format!("row {row}, column {at}")
    } else {
        format!("row {row}, block {at} of {per_row} ({})", t.format.name)
    }
}
