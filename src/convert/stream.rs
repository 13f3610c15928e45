//! The stream of row slices: threads take the next slice of the next tensor, in file order, until none is left.

use super::journal::Journal;
use super::meter::{Lap, Meter, Stage};
use super::writing;
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

/// Weights of a slice: what is taken, hashed and written at a time.
const SLICE: usize = 1 << 19;
/// Weights of a tile: 256 kB of floats, so that they are in the core's cache from reading to quantizing.
const TILE: usize = 1 << 16;

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

/// Converts the tensors that a layout has into their places in its `files`, but for those that are `made` already.
pub fn tensors(
    request: &Request,
    layout: &Layout,
    files: &[OutputFile],
    notes: Option<&Notes>,
    made: &BTreeSet<usize>,
    meter: &Meter,
    bar: &ProgressBar,
) -> Result<()> {
    Isa::pick(None).map_err(|e| caller(e.to_string()))?; // a wrong QCONV_ISA is an error, not a slow run
    let mut slices = slices(&request.plan.tensors, layout.tensors());
    slices.retain(|slice| !made.contains(&slice.tensor));
    slices.retain(|slice| notes.is_none_or(|n| !n.done.contains(&slice.tensor)));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let error = Mutex::new(None);
    let fail = |number: usize, e: anyhow::Error| {
        // The first slice in file order is told about, whichever thread came first.
        failed.store(true, Ordering::Relaxed);
        let mut first = error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if first.as_ref().is_none_or(|(other, _)| number < *other) {
            *first = Some((number, e));
        }
    };
    // What is left to do for each tensor: to write its slices, and to know its digest. Who does the last of it tells the journal.
    let first = layout.tensors().start;
    let mut left = vec![1; layout.tensors().len()];
    slices.iter().for_each(|slice| left[slice.tensor - first] += 1);
    let left: Vec<AtomicUsize> = left.into_iter().map(AtomicUsize::new).collect();
    let step = |tensor: usize| {
        let Some(Notes { hashes, journal, .. }) = notes else { return Ok(()) };
        let last = left[tensor - first].fetch_sub(1, Ordering::AcqRel) == 1;
        hashes.get(tensor).filter(|_| last).map_or(Ok(()), |digest| journal.done(tensor, &digest))
    };
    let hash = |slice: &Slice, bytes: &[u8]| {
        let Some(Notes { hashes, .. }) = notes else { return Ok(()) };
        let planned = &request.plan.tensors[slice.tensor];
        let at = (slice.rows.start * planned.row_bytes()) as u64;
        // Who stops here because of another's failure has nothing to say.
        match hashes.add(slice.tensor, planned.bytes(), at, bytes, || failed.load(Ordering::Relaxed)) {
            Ok(Some(_)) => step(slice.tensor),
            Ok(None) | Err(provenance::Failed) => Ok(()),
        }
    };
    let written = |number: usize, result: Result<()>| {
        if let Err(e) = result.and_then(|()| step(slices[number].tensor)) {
            fail(number, e);
        }
    };
    writing::beside(files, meter, &written, |writing| {
        rayon::broadcast(|_| {
            let (mut floats, mut lap) = (Vec::new(), meter.start());
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(slice) = slices.get(number) else { break };
                let planned = &request.plan.tensors[slice.tensor];
                let (file, range) = layout.place(slice.tensor);
                let offset = range.start + (slice.rows.start * planned.row_bytes()) as u64;
                let mut piece = writing.piece(offset, slice.rows.len() * planned.row_bytes());
                lap.skip();
                let made = convert(request, slice, &mut floats, &mut piece, &mut lap).and_then(|()| {
                    let hashed = hash(slice, &piece);
                    lap.was(Stage::Hashing);
                    hashed
                });
                match made {
                    Ok(()) => writing.write(file, offset, piece, number),
                    Err(e) => fail(number, e),
                }
                let share =
                    planned.tensor.source_bytes as u64 * slice.rows.len() as u64 / planned.tensor.shape.rows() as u64;
                bar.inc(share);
            }
        });
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
        let shape = &tensors[tensor].tensor.shape;
        out.extend(pieces(&(0..shape.rows()), shape.cols(), SLICE).map(|rows| Slice { tensor, rows }));
    }
    out
}

/// Cuts rows into pieces of at most `weights`, but of one row at least.
fn pieces(rows: &Range<usize>, cols: usize, weights: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let (step, end) = ((weights / cols).max(1), rows.end);
    rows.clone().step_by(step).map(move |first| first..end.min(first + step))
}

/// Makes the packed rows of a slice. `floats` is memory to use again.
fn convert(request: &Request, slice: &Slice, floats: &mut Vec<f32>, out: &mut [u8], lap: &mut Lap) -> Result<()> {
    let planned = &request.plan.tensors[slice.tensor];
    let tensor = planned.tensor;
    let (cols, row_bytes) = (tensor.shape.cols(), planned.row_bytes());
    // Quantized or integer data that stays as it is must not go through floats.
    if planned.format == tensor.format && (tensor.format.is_quantized() || tensor.format.dequantize.is_none()) {
        let packed = request.model.packed(tensor)?;
        let bytes = &packed.bytes()[slice.rows.start * row_bytes..slice.rows.end * row_bytes];
        if let Some(block) = (tensor.format.find_nonfinite)(bytes) {
            let at = slice.rows.start * cols + block * tensor.format.block_weights;
            return Err(not_finite(request, tensor, at, "NaN or infinite scale"));
        }
        out.copy_from_slice(bytes);
        lap.was(Stage::Reading);
    } else {
        let mut left = out;
        for rows in pieces(&slice.rows, cols, TILE) {
            let tile;
            (tile, left) = left.split_at_mut(rows.len() * row_bytes);
            floats.resize(rows.len() * cols, 0.0);
            request.model.rows(tensor, rows.start, floats)?;
            lap.was(Stage::Reading);
            check_finite(request, tensor, rows.start, floats)?;
            quantize(request, planned, rows, floats, tile)?;
            lap.was(Stage::Quantizing);
        }
    }
    request.model.forget_rows(tensor, slice.rows.clone());
    lap.was(Stage::Reading);
    Ok(())
}

/// Rows of finite floats to packed rows.
fn quantize(request: &Request, planned: &Planned, rows: Range<usize>, floats: &[f32], out: &mut [u8]) -> Result<()> {
    let (cols, row_bytes) = (planned.tensor.shape.cols(), planned.row_bytes());
    // Rows of different experts differ in importance.
    let (mut weights, mut packed) = (floats, &mut out[..]);
    for (importance, rows) in planned.runs(rows.clone()) {
        let (now, later) = weights.split_at(rows * cols);
        let (out, later_out) = packed.split_at_mut(rows * row_bytes);
        request.methods.rows()(planned.format, cols, now, importance, out);
        (weights, packed) = (later, later_out);
    }
    check_packed(planned, rows.start, floats, out)
}

/// An error that names the first weight that is no number. `weights` begin with row `first`.
pub fn check_finite(request: &Request, tensor: &ModelTensor, first: usize, weights: &[f32]) -> Result<()> {
    match first_nonfinite(weights) {
        Some(at) => Err(not_finite(request, tensor, first * tensor.shape.cols() + at, &weights[at].to_string())),
        None => Ok(()),
    }
}

/// An error if weights are beyond what the format can hold. `weights` and what became of them begin with row `first`.
pub fn check_packed(planned: &Planned, first: usize, weights: &[f32], packed: &[u8]) -> Result<()> {
    let Some(block) = (planned.format.find_nonfinite)(packed) else { return Ok(()) };
    let at = block * planned.format.block_weights;
    let largest = weights[at..at + planned.format.block_weights].iter().fold(0f32, |m, x| m.max(x.abs()));
    let row = first + at / planned.tensor.shape.cols();
    Err(caller(format!(
        "tensor {}, row {row}: weights up to {largest:e} are beyond the range of {}; keep this model in BF16 or F32",
        planned.tensor.name, planned.format.name
    )))
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
