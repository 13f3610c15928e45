//! Matrices with their Hessians, in the order in which the model uses them.
//!
//! The hidden states of the text go through the model block by block. Matrices that share their inputs are quantized
//! together, and the block is run with what became of them before the next ones' inputs are looked at: errors that were made
//! can be made up for. One block, its statistics and the hidden states are held, nothing else.
//!
//! Embeddings come first. Where they also serve as output, their Hessian is that of the original model's last norm.

mod oddities;
mod walk;
mod watch;

use super::stream::{self, Notes};
use super::{Layout, Planned, Request};
use crate::backend::{self, Sizes, Task};
use crate::calibrate::{self, Activations, Calibration, Hessian};
use crate::engine::{Half, Replaced};
use crate::error::caller;
use crate::method::{Matrix, QuantizeMatrix};
use crate::output::OutputFile;
use crate::ui::Ui;
use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use oddities::Oddities;
use qconv_formats::QTensor;
use qconv_kernels::Backend;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};
use walk::Walk;
use watch::Hessians;

/// Quantizes all matrices that the model uses, into their places in `files`. Returns their numbers; the others are left to
/// the stream of rows.
pub fn matrices(
    request: &Request,
    layout: &Layout,
    files: &[OutputFile],
    notes: Option<&Notes>,
    bar: &ProgressBar,
    ui: &Ui,
) -> Result<BTreeSet<usize>> {
    let Some(quantize) = request.methods.matrix() else { return Ok(BTreeSet::new()) };
    let quantizer = request.methods.quantizer().name;
    let calibration =
        request.calibration.ok_or_else(|| caller(format!("--method {quantizer}: needs --calibration TEXT")))?;
    if request.plan.pruned > 0 {
        let how = "convert without them to a file in the source's precision first, and quantize that";
        return Err(caller(format!(
            "--method {quantizer} follows the text through all layers, which --prune-layers cuts: {how}"
        )));
    }
    let by_name = layout.tensors().filter(|&i| {
        let p = &request.plan.tensors[i];
        p.format.is_quantized() && p.tensor.format.dequantize.is_some() && p.format != p.tensor.format
    });
    let by_name = by_name.map(|i| (request.plan.tensors[i].name.clone(), i)).collect();
    let job = Job { request, layout, files, notes, bar, ui, quantize, calibration, by_name };
    backend::with(calibration.computing, &Sizes::of(request.model), ui, job)
}

struct Job<'a> {
    request: &'a Request<'a>,
    layout: &'a Layout,
    files: &'a [OutputFile],
    notes: Option<&'a Notes>,
    bar: &'a ProgressBar,
    ui: &'a Ui,
    quantize: QuantizeMatrix,
    calibration: &'a Calibration,
    /// What is to be quantized.
    by_name: HashMap<String, usize>,
}

impl Task for Job<'_> {
    type Output = BTreeSet<usize>;

    fn run<B: Backend>(self, backend: &B) -> Result<BTreeSet<usize>> {
        let Job { request, calibration, .. } = self;
        let (mut made, mut odd) = (BTreeSet::new(), Oddities::default());
        let mut replaced = Replaced::new();
        let tied = request.model.tensor("output.weight").is_none();
        if let Some(&tensor) = self.by_name.get(EMBEDDING) {
            let hessians = match tied && !self.is_done(tensor) {
                true => self.of_output_rows()?,
                false => Hessians::default(),
            };
            self.make(tensor, hessians.of(OUTPUT), &mut replaced, &mut odd)?;
            made.insert(tensor);
        }
        if calibration.from == Activations::Original {
            replaced.clear();
        }
        let mut walk = Walk::new(backend, request, calibration, &replaced)?;
        for layer in 0..walk.quantized.plan().layers {
            replaced.clear();
            for half in [Half::Attention, Half::Feed] {
                self.half(&mut walk, (layer, half), &mut replaced, &mut made, &mut odd)?;
            }
        }
        if let Some(&tensor) = self.by_name.get(OUTPUT) {
            let mut hessians = Hessians::wanting(&[OUTPUT]);
            if !self.is_done(tensor) {
                walk.show_output(&mut hessians)?;
            }
            self.make(tensor, hessians.of(OUTPUT), &mut Replaced::new(), &mut odd)?;
            made.insert(tensor);
        }
        odd.warn(&calibration.file.display().to_string(), self.ui);
        self.ui.refuse_warnings()?;
        Ok(made)
    }
}

/// Part of [`Job::run`], with what that has made.
impl Job<'_> {
    /// Quantizes the matrices of half a block, those that share their inputs together, and takes the states through it.
    fn half<B: Backend>(
        &self,
        walk: &mut Walk<'_, '_, B>,
        (layer, half): (usize, Half),
        replaced: &mut Replaced,
        made: &mut BTreeSet<usize>,
        odd: &mut Oddities,
    ) -> Result<()> {
        walk.load(layer, replaced)?;
        let order = walk.order(half)?;
        for (i, names) in order.iter().enumerate() {
            let tensors: Vec<(&String, usize)> =
                names.iter().filter_map(|n| Some((n, *self.by_name.get(n)?))).collect();
            let idle = order[i..].iter().flatten().cloned().collect();
            let mut hessians = Hessians::wanting(names);
            hessians.idle = idle;
            if tensors.iter().any(|(_, t)| !self.is_done(*t)) {
                walk.show(half, &mut hessians, i + 1 == order.len())?;
            }
            let mut now = Replaced::new();
            for (name, tensor) in &tensors {
                self.make(*tensor, hessians.of(name), &mut now, odd)?;
                made.insert(*tensor);
            }
            if !tensors.is_empty() && self.calibration.from != Activations::Original {
                replaced.extend(now);
                walk.quantized.load(layer, replaced)?;
            }
        }
        walk.advance(half)
    }
}

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

impl Job<'_> {
    fn is_done(&self, tensor: usize) -> bool {
        self.notes.is_some_and(|n| n.done.contains(&tensor))
    }

    /// The Hessian of the output matrix, in the original model.
    fn of_output_rows(&self) -> Result<Hessians> {
        let mut hessians = Hessians::wanting(&[OUTPUT]);
        self.calibration.observe(self.request.model, &mut hessians, true, self.ui)?;
        Ok(hessians)
    }

    /// Quantizes a tensor, or takes what an earlier run made of it.
    fn make(&self, tensor: usize, hessians: &[Hessian], replaced: &mut Replaced, odd: &mut Oddities) -> Result<()> {
        let planned = &self.request.plan.tensors[tensor];
        let (file, range) = self.layout.place(tensor);
        let mut packed = vec![0u8; planned.bytes() as usize];
        if self.is_done(tensor) {
            self.files[file].read_at(range.start, &mut packed)?;
        } else {
            self.quantize(planned, hessians, &mut packed, odd)?;
            self.files[file].write_at(range.start, &packed)?;
            if let Some(Notes { hashes, journal, .. }) = self.notes
                && let Ok(Some(digest)) = hashes.add(tensor, planned.bytes(), 0, &packed, || false)
            {
                journal.done(tensor, &digest)?;
            }
            self.bar.inc(planned.tensor.source_bytes as u64);
        }
        replaced.insert(planned.name.clone(), QTensor::new(planned.format, planned.tensor.shape.clone(), packed)?);
        Ok(())
    }

    /// `hessians`: one per matrix of a stack, or none at all.
    fn quantize(&self, planned: &Planned, hessians: &[Hessian], out: &mut [u8], odd: &mut Oddities) -> Result<()> {
        let tensor = planned.tensor;
        let (cols, all) = (tensor.shape.cols(), tensor.shape.rows());
        let dims = tensor.shape.dims();
        let matrices = if dims.len() > 2 { all / dims[dims.len() - 2] } else { 1 };
        let rows = all / matrices;
        let mut weights = vec![0f32; rows * cols];
        for (e, out) in out.chunks_exact_mut(rows * planned.row_bytes()).enumerate() {
            self.request.model.rows(tensor, e * rows, &mut weights)?;
            stream::check_finite(self.request, tensor, e * rows, &weights)?;
            let seen = hessians.get(e).filter(|h| h.inputs() > 0);
            if seen.is_some_and(|h| !h.is_finite()) {
                return Err(calibrate::not_finite(self.request.model, &planned.name));
            }
            // Nothing is known of what such a matrix does: as if it had never been used.
            let silent = seen.is_some_and(Hessian::is_zero);
            match seen.filter(|_| !silent) {
                Some(hessian) => {
                    let dead = hessian.diagonal().iter().filter(|x| **x == 0.0).count();
                    if dead > 0 {
                        *odd.dead.entry(planned.name.clone()).or_default() += dead;
                    }
                    if hessian.inputs() < cols as u64 {
                        odd.few.insert(planned.name.clone(), (hessian.inputs(), cols));
                    }
                    let corrected = hessian.corrected(&weights);
                    let weights = corrected.as_deref().unwrap_or(&weights);
                    let matrix = Matrix { format: planned.format, cols, weights, hessian };
                    (self.quantize)(&matrix, out).with_context(|| format!("tensor {}", planned.name))?;
                }
                None => {
                    if silent {
                        *odd.silent.entry(planned.name.clone()).or_default() += 1;
                    } else if !hessians.is_empty() || matrices > 1 {
                        *odd.unseen.entry(planned.name.clone()).or_default() += 1;
                    }
                    let round = self.request.methods.rows();
                    let pieces = weights.par_chunks(64 * cols).zip(out.par_chunks_mut(64 * planned.row_bytes()));
                    pieces.for_each(|(w, out)| round(planned.format, cols, w, None, out));
                }
            }
            stream::check_packed(planned, e * rows, &weights, out)?;
        }
        self.request.model.forget(tensor);
        Ok(())
    }
}
