//! Matrices with their Hessians, in the order in which the model uses them.
//!
//! The hidden states of the text go through the model block by block. Matrices that share their inputs are quantized
//! together, and the block is run with what became of them before the next ones' inputs are looked at: errors that were made
//! can be made up for. One block, its statistics and the hidden states are held, nothing else.
//!
//! Embeddings come first. Where they also serve as output, their Hessian is that of the original model's last norm.

use super::stream::{self, Notes};
use super::{Layout, Planned, Request};
use crate::backend::{self, Sizes, Task};
use crate::calibrate::{Activations, Calibration, Hessian, States};
use crate::engine::{Blockwise, Half, Inputs, Observer, Replaced};
use crate::error::caller;
use crate::method::{Matrix, QuantizeMatrix};
use crate::output::OutputFile;
use crate::ui::Ui;
use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use qconv_formats::QTensor;
use qconv_kernels::Backend;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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

/// What was odd.
#[derive(Default)]
struct Oddities {
    dead: BTreeMap<String, usize>,
    unseen: BTreeMap<String, usize>,
    few: BTreeMap<String, (u64, usize)>,
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
        for layer in 0..walk.blocks.plan().layers {
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
            let mut hessians = Hessians { idle, ..Hessians::wanting(names) };
            if tensors.iter().any(|(_, t)| !self.is_done(*t)) {
                walk.show(half, &mut hessians)?;
            }
            let mut now = Replaced::new();
            for (name, tensor) in &tensors {
                self.make(*tensor, hessians.of(name), &mut now, odd)?;
                made.insert(*tensor);
            }
            if !tensors.is_empty() && self.calibration.from != Activations::Original {
                replaced.extend(now);
                walk.blocks.load(layer, replaced)?;
            }
        }
        walk.advance(half)
    }
}

/// The text on its way through the blocks: behind quantized ones, and beside it, where that is wanted, behind the originals.
struct Walk<'m, 'b, B: Backend> {
    blocks: Blockwise<'m, 'b, B>,
    states: States,
    originals: Option<(Blockwise<'m, 'b, B>, States)>,
}

impl<'m, 'b, B: Backend> Walk<'m, 'b, B> {
    fn new(backend: &'b B, request: &Request<'m>, text: &Calibration, replaced: &Replaced) -> Result<Self> {
        let start = |replaced: &Replaced| -> Result<_> {
            let mut blocks = Blockwise::new(backend, request.model, text.ctx, replaced)?;
            let mut states = States::new(blocks.plan().width, text);
            for (chunk, states) in text.chunks.iter().zip(states.chunks()) {
                blocks.embed(chunk, states)?;
            }
            Ok((blocks, states))
        };
        let (blocks, states) = start(replaced)?;
        let originals = match text.from {
            Activations::Both => Some(start(&Replaced::new())?),
            Activations::Quantized | Activations::Original => None,
        };
        Ok(Walk { blocks, states, originals })
    }

    fn load(&mut self, layer: usize, replaced: &Replaced) -> Result<()> {
        if let Some((blocks, _)) = &mut self.originals {
            blocks.load(layer, &Replaced::new())?;
        }
        self.blocks.load(layer, replaced)
    }

    /// Which weights of half the loaded block share their inputs, in the order of their use.
    fn order(&mut self, half: Half) -> Result<Vec<Vec<String>>> {
        let mut order = Order::default();
        if let Some(first) = self.states.chunks().next() {
            self.blocks.run(half, &mut first.to_vec(), Some(&mut order))?;
        }
        Ok(order.0)
    }

    /// Shows the inputs of half the loaded block; the states stay.
    fn show(&mut self, half: Half, hessians: &mut Hessians) -> Result<()> {
        let Walk { blocks, states, originals } = self;
        let Some((original, there)) = originals else {
            return states.chunks().try_for_each(|chunk| blocks.run(half, &mut chunk.to_vec(), Some(hessians)));
        };
        for (chunk, original_chunk) in states.chunks().zip(there.chunks()) {
            blocks.run(half, &mut chunk.to_vec(), Some(hessians))?;
            hessians.originals = true;
            original.run(half, &mut original_chunk.to_vec(), Some(hessians))?;
            hessians.originals = false;
        }
        Ok(())
    }

    fn show_output(&mut self, hessians: &mut Hessians) -> Result<()> {
        let Walk { blocks, states, originals } = self;
        let Some((original, there)) = originals else {
            return states.chunks().try_for_each(|chunk| blocks.show_output(chunk, hessians));
        };
        for (chunk, original_chunk) in states.chunks().zip(there.chunks()) {
            blocks.show_output(chunk, hessians)?;
            hessians.originals = true;
            original.show_output(original_chunk, hessians)?;
            hessians.originals = false;
        }
        Ok(())
    }

    /// Takes the states through half the loaded block.
    fn advance(&mut self, half: Half) -> Result<()> {
        if let Some((blocks, states)) = &mut self.originals {
            states.chunks().try_for_each(|chunk| blocks.run(half, chunk, None))?;
        }
        self.states.chunks().try_for_each(|chunk| self.blocks.run(half, chunk, None))
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
            self.quantize(planned, hessians, &mut packed, odd).with_context(|| format!("tensor {}", planned.name))?;
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
            match hessians.get(e).filter(|h| h.inputs() > 0) {
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
                    let matrix = Matrix { name: &planned.name, format: planned.format, cols, weights, hessian };
                    (self.quantize)(&matrix, out)?;
                }
                None => {
                    if !hessians.is_empty() || matrices > 1 {
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

/// Which weights share their inputs, in the order of their use.
#[derive(Default)]
struct Order(Vec<Vec<String>>);

impl Observer for Order {
    fn wants(&self, _: &str) -> bool {
        true
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let names: Vec<String> = inputs.weights.iter().map(|n| (*n).to_owned()).collect();
        // Every expert shows the same stacks.
        if !self.0.contains(&names) {
            self.0.push(names);
        }
    }
}

/// Hessians of some weights, one per matrix of a stack.
#[derive(Default)]
struct Hessians {
    wanted: BTreeSet<String>,
    /// Weights whose products nothing depends on that is wanted.
    idle: BTreeSet<String>,
    shared: BTreeMap<String, String>,
    sums: BTreeMap<String, Vec<Hessian>>,
    /// What is shown now is what the original model has in place of the inputs before.
    originals: bool,
    before: Vec<f32>,
}

impl Hessians {
    fn wanting<S: AsRef<str>>(weights: &[S]) -> Self {
        Hessians { wanted: weights.iter().map(|w| w.as_ref().to_owned()).collect(), ..Hessians::default() }
    }

    fn of(&self, name: &str) -> &[Hessian] {
        self.shared.get(name).and_then(|first| self.sums.get(first)).map_or(&[], Vec::as_slice)
    }
}

impl Observer for Hessians {
    fn wants(&self, weight: &str) -> bool {
        self.wanted.contains(weight)
    }

    fn leads_on(&self, weight: &str) -> bool {
        !self.idle.contains(weight)
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let first = inputs.weights[0];
        for name in inputs.weights {
            self.shared.entry((*name).to_owned()).or_insert_with(|| first.to_owned());
        }
        let sums = self.sums.entry(first.to_owned()).or_default();
        let at = inputs.expert.unwrap_or(0);
        if self.originals {
            // The models route tokens differently: only what all tokens go through can be compared.
            if inputs.expert.is_none() {
                sums[at].add_drift(&self.before, inputs.rows);
            }
            return;
        }
        if inputs.expert.is_none() {
            self.before.clear();
            self.before.extend_from_slice(inputs.rows);
        }
        while sums.len() <= at {
            sums.push(Hessian::new(inputs.cols));
        }
        sums[at].add(inputs.rows);
    }
}

impl Oddities {
    fn warn(&self, text: &str, ui: &Ui) {
        let list = |all: Vec<String>| {
            let more = if all.len() > 4 { ", ..." } else { "" };
            format!("{}{more}", all.into_iter().take(4).collect::<Vec<_>>().join(", "))
        };
        if !self.dead.is_empty() {
            let n: usize = self.dead.values().sum();
            let all = list(self.dead.iter().map(|(name, n)| format!("{name} {n}")).collect());
            ui.warn(format!("{text}: {n} columns were never active, their weights are rounded: {all}"));
        }
        if !self.unseen.is_empty() {
            let n: usize = self.unseen.values().sum();
            let all = list(self.unseen.iter().map(|(name, n)| format!("{name} {n}")).collect());
            ui.warn(format!("{text}: {n} matrices were never used, they are rounded; use a longer text: {all}"));
        }
        if !self.few.is_empty() {
            let all = list(self.few.iter().map(|(name, (n, cols))| format!("{name} {n} of {cols}")).collect());
            ui.warn(format!(
                "{text}: fewer inputs than columns in {} tensors, which nothing but damping makes definite; use a longer text: {all}",
                self.few.len()
            ));
        }
    }
}
