//! The stream of row slices: threads take the next slice of the next tensor, in file order, until none is left.

use super::journal::Journal;
use super::{Layout, Planned, Request};
use crate::error::{caller, malformed};
use crate::model::ModelTensor;
use crate::output::OutputFile;
use crate::provenance::{self, TensorHashes};
use anyhow::Result;
use indicatif::ProgressBar;
use qconv_kernels::cpu::Isa;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Weights of a slice: 1 MB of floats, so that a thread's slices stay in its cache.
const SLICE: usize = 1 << 18;

/// Some rows of a tensor.
struct Slice {
    tensor: usize,
    rows: Range<usize>,
}

/// What is noted while tensors are made.
pub struct Notes {
    /// Digests of tensors.
    pub hashes: TensorHashes,
    /// Which of them are whole.
    pub journal: Journal,
    /// Tensors that an earlier run made.
    pub done: BTreeSet<usize>,
}

/// Converts the tensors that a layout has into their places in its `files`.
pub fn tensors(
    request: &Request,
    layout: &Layout,
    files: &[OutputFile],
    notes: Option<&Notes>,
    bar: &ProgressBar,
) -> Result<()> {
    Isa::pick(None).map_err(|e| caller(e.to_string()))?; // a wrong QCONV_ISA is an error, not a slow run
    let mut slices = slices(&request.plan.tensors, layout.tensors());
    slices.retain(|slice| notes.is_none_or(|n| !n.done.contains(&slice.tensor)));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let error = Mutex::new(None);
    let hash = |slice: &Slice, bytes: &[u8]| {
        let Some(Notes { hashes, journal, .. }) = notes else { return Ok(()) };
        let planned = &request.plan.tensors[slice.tensor];
        let at = (slice.rows.start * planned.row_bytes()) as u64;
        // Who stops here because of another's failure has nothing to say.
        match hashes.add(slice.tensor, planned.bytes(), at, bytes, || failed.load(Ordering::Relaxed)) {
            Ok(Some(digest)) => journal.done(slice.tensor, &digest),
            Ok(None) | Err(provenance::Failed) => Ok(()),
        }
    };
    rayon::broadcast(|_| {
        let mut scratch = Scratch::default();
        while !failed.load(Ordering::Relaxed) {
            let Some(slice) = slices.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            if let Err(e) = convert(request, layout, files, slice, &mut scratch, &hash) {
                // The first slice in file order is told about, whichever thread came first.
                failed.store(true, Ordering::Relaxed);
                let mut first = error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let at = (slice.tensor, slice.rows.start);
                if first.as_ref().is_none_or(|(other, _)| at < *other) {
                    *first = Some((at, e));
                }
            }
            let planned = &request.plan.tensors[slice.tensor];
            let share =
                planned.tensor.source_bytes as u64 * slice.rows.len() as u64 / planned.tensor.shape.rows() as u64;
            bar.inc(share);
        }
    });
    match error.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some((_, e)) => Err(e),
        None => Ok(()),
    }
}

/// Cuts some of the tensors into slices, in file order.
fn slices(tensors: &[Planned], range: Range<usize>) -> Vec<Slice> {
    let mut out = Vec::new();
    for tensor in range {
        let planned = &tensors[tensor];
        let rows = planned.tensor.shape.rows();
        let step = (SLICE / planned.tensor.shape.cols()).max(1);
        out.extend((0..rows).step_by(step).map(|first| Slice { tensor, rows: first..rows.min(first + step) }));
    }
    out
}

/// Buffers that a thread uses again and again.
#[derive(Default)]
struct Scratch {
    floats: Vec<f32>,
    packed: Vec<u8>,
}

fn convert(
    request: &Request,
    layout: &Layout,
    files: &[OutputFile],
    slice: &Slice,
    scratch: &mut Scratch,
    hash: &dyn Fn(&Slice, &[u8]) -> Result<()>,
) -> Result<()> {
    let planned = &request.plan.tensors[slice.tensor];
    let tensor = planned.tensor;
    let (cols, row_bytes) = (tensor.shape.cols(), planned.row_bytes());
    let (file, range) = layout.place(slice.tensor);
    let (file, offset) = (&files[file], range.start + (slice.rows.start * row_bytes) as u64);

    // Quantized or integer data that stays as it is must not go through floats.
    if planned.format == tensor.format && (tensor.format.is_quantized() || tensor.format.dequantize.is_none()) {
        let packed = request.model.packed(tensor)?;
        let bytes = &packed.bytes()[slice.rows.start * row_bytes..slice.rows.end * row_bytes];
        if let Some(block) = (tensor.format.find_nonfinite)(bytes) {
            let at = slice.rows.start * cols + block * tensor.format.block_weights;
            return Err(not_finite(request, tensor, at, "NaN or infinite scale"));
        }
        file.write_at(offset, bytes)?;
        hash(slice, bytes)?;
    } else {
        scratch.floats.resize(slice.rows.len() * cols, 0.0);
        scratch.packed.resize(slice.rows.len() * row_bytes, 0);
        request.model.rows(tensor, slice.rows.start, &mut scratch.floats)?;
        if let Some(at) = first_nonfinite(&scratch.floats) {
            let value = scratch.floats[at];
            return Err(not_finite(request, tensor, slice.rows.start * cols + at, &value.to_string()));
        }
        // Rows of different experts differ in importance.
        let (mut floats, mut packed) = (&scratch.floats[..], &mut scratch.packed[..]);
        for (importance, rows) in planned.runs(slice.rows.clone()) {
            let (now, later) = floats.split_at(rows * cols);
            let (out, later_out) = packed.split_at_mut(rows * row_bytes);
            request.methods.rows()(planned.format, cols, now, importance, out);
            (floats, packed) = (later, later_out);
        }
        if let Some(block) = (planned.format.find_nonfinite)(&scratch.packed) {
            let at = block * planned.format.block_weights;
            let largest =
                scratch.floats[at..at + planned.format.block_weights].iter().fold(0f32, |m, x| m.max(x.abs()));
            let row = slice.rows.start + at / cols;
            return Err(caller(format!(
                "tensor {}, row {row}: weights up to {largest:e} are beyond the range of {}; keep this model in BF16 or F32",
                tensor.name, planned.format.name
            )));
        }
        file.write_at(offset, &scratch.packed)?;
        hash(slice, &scratch.packed)?;
    }
    request.model.forget_rows(tensor, slice.rows.clone());
    Ok(())
}

/// The first NaN or infinite number. Whole pieces are looked at without branches, which compilers vectorize.
fn first_nonfinite(x: &[f32]) -> Option<usize> {
    const PIECE: usize = 1024;
    let finite = |piece: &&[f32]| piece.iter().fold(true, |all, x| all & x.is_finite());
    let (i, piece) = x.chunks(PIECE).enumerate().find(|(_, piece)| !finite(piece))?;
    piece.iter().position(|x| !x.is_finite()).map(|at| i * PIECE + at)
}

fn not_finite(request: &Request, tensor: &ModelTensor, at: usize, what: &str) -> anyhow::Error {
    let (row, col) = (at / tensor.shape.cols(), at % tensor.shape.cols());
    let place = format!("tensor {}, row {row}, column {col}", tensor.name);
    malformed(request.model.path(), place, format!("{what}: the weights are damaged, and no conversion can mend them"))
}

#[cfg(test)]
mod tests {
    use super::first_nonfinite;

    #[test]
    fn the_first_nonfinite_number_is_found() {
        let mut x = vec![f32::MAX; 3000];
        assert_eq!(first_nonfinite(&x), None);
        for (at, bad) in [(2999, f32::NAN), (2048, f32::INFINITY), (1023, f32::NEG_INFINITY), (0, -f32::NAN)] {
            x[at] = bad;
            assert_eq!(first_nonfinite(&x), Some(at));
        }
        assert_eq!(first_nonfinite(&[]), None);
    }
}
