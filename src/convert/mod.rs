//! Conversion in one pass: source rows -> floats -> packed rows -> their place in the output.
//!
//! Nothing but a few row slices per thread is ever held: the source is mapped and dropped behind the reader, results are
//! written by offset as they are made. The bytes do not depend on the number of threads.

mod copy;
mod edits;
mod importance;
mod importance_args;
mod journal;
mod layers;
mod layout;
mod metadata;
mod meter;
mod plan;
mod rules;
mod split;
mod stamping;
mod stream;
mod unchanged;
mod writing;

pub use copy::{Copied, copy};
pub use edits::{Edits, Layers, Setting};
pub use importance::{Importance, Weighing};
pub use importance_args::ImportanceArgs;
pub use layout::{Extent, Layout, Part};
pub use metadata::{output_metadata, output_name};
pub use meter::Spent;
pub use plan::{Plan, Planned};
pub use split::Split;

use crate::calibrate::Calibration;
use crate::method::{Methods, Tools};
use crate::model::{Model, Origin};
use crate::output::{self, OutputFile, OutputSet, Start};
use crate::provenance::{Record, TensorHashes};
use crate::recipe::{self, Mix};
use crate::ui::Ui;
use anyhow::Result;
use indicatif::ProgressBar;
use journal::Journal;
use meter::Meter;
use stamping::Stamping;
use std::path::{Path, PathBuf};
use std::time::Instant;
use stream::Notes;

/// What is to be done.
pub struct Request<'a> {
    /// The source.
    pub model: &'a Model,
    /// What becomes of each tensor.
    pub plan: &'a Plan<'a>,
    /// What is changed in its metadata; the plan was made with the same.
    pub edits: &'a Edits,
    /// How weights are quantized. Transforms are done already ([`Methods::transform`]): the model is what they made of it.
    pub methods: &'a Methods,
    /// The text that methods need.
    pub calibration: Option<&'a Calibration>,
    /// A file, or a folder in which the file gets its conventional name.
    pub output: &'a Path,
    /// All of the model in one file, or otherwise.
    pub extent: Extent,
    /// What the file is to say about how it was made, if anything.
    pub record: Option<Record>,
    /// Replace an existing file.
    pub force: bool,
    /// Check the file's structure before it appears.
    pub verify: bool,
    /// Go on with an interrupted run's work, and leave this one's to another if it is interrupted. Needs a record.
    pub resume: bool,
    /// Do nothing if the output is what would be written, else replace it. Needs a record.
    pub if_changed: bool,
}

impl<'a> Request<'a> {
    /// A conversion into one file that records nothing, replaces nothing and is verified.
    pub fn new(model: &'a Model, plan: &'a Plan<'a>, edits: &'a Edits, methods: &'a Methods, output: &'a Path) -> Self {
        let (extent, force, verify) = (Extent::Whole, false, true);
        let (resume, if_changed) = (false, false);
        let (calibration, record) = (None, None);
        Request { model, plan, edits, methods, calibration, output, extent, record, force, verify, resume, if_changed }
    }
}

/// What was done.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    /// The new file; of several, the first that was written.
    pub output: PathBuf,
    /// All files that were written.
    pub files: Vec<PathBuf>,
    /// The mix.
    #[serde(rename = "type")]
    pub mix: String,
    /// Tensors written.
    pub tensors: usize,
    /// Weights of the model.
    pub parameters: u64,
    /// Bytes read.
    pub source_bytes: u64,
    /// Bytes of the new files.
    pub bytes: u64,
    /// Tensor data per weight.
    pub bits_per_weight: f64,
    /// Wall time of the conversion, the file's sync included.
    pub seconds: f64,
    /// CPU time by what it was spent on, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<Spent>,
    /// Tensors that could not take the type that was wanted for them.
    pub fallbacks: usize,
    /// Bits per weight (of the whole model) that they cost.
    pub fallback_bits_per_weight: f64,
    /// What became of the importance matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<Weighing>,
    /// The file's structure was checked.
    pub verified: bool,
    /// What was there is what would have been written.
    pub unchanged: bool,
    /// Tensors that an interrupted run had finished.
    pub resumed: usize,
}

/// Applies the transforms of a run to a model, before it is planned.
pub fn transform(
    model: &mut Model,
    methods: &Methods,
    (mix, options, edits): (&'static Mix, &recipe::Options, &Edits),
    calibration: Option<&Calibration>,
    ui: &Ui,
) -> Result<()> {
    if methods.transforms().is_empty() {
        return Ok(());
    }
    let formats = Plan::formats(model, mix, options, edits)?;
    methods
        .transform(model, &Tools { calibration, formats: &formats, quantizer: methods.quantizer(), setting: 0.0, ui })
}

/// Bytes of all files that [`convert`] would write. Nothing is written, and nothing said.
pub fn file_size(request: &Request) -> Result<u64> {
    let (Request { model, plan, .. }, muted) = (request, Ui::muted());
    let metadata = output_metadata(model, plan, request.edits, &muted)?;
    let path = output::or_in_folder(request.output, output_name(model, plan, &metadata));
    let stamping = request.record.as_ref().map(|r| Stamping::new(model, r, request.extent)).transpose()?;
    let stamp = stamping.as_ref().map(|s| &s.stamp);
    Ok(Layout::new(&metadata, plan.entries(), request.extent, &path, stamp, &muted)?.bytes())
}

/// Converts. On any error nothing is left at the destination.
pub fn convert(request: &Request, ui: &Ui) -> Result<Summary> {
    let started = Instant::now();
    let Request { model, plan, .. } = request;
    for planned in &plan.tensors {
        request.methods.suits(planned.format).map_err(|why| {
            let format = planned.format.name;
            crate::error::caller(format!(
                "--method: tensor {} becomes {format}, which does not go with {why}",
                planned.name
            ))
        })?;
    }
    let metadata = output_metadata(model, plan, request.edits, ui)?;
    let path = output::or_in_folder(request.output, output_name(model, plan, &metadata));
    let mut stamping = request.record.as_ref().map(|r| Stamping::new(model, r, request.extent)).transpose()?;
    let stamp = stamping.as_ref().map(|s| &s.stamp);
    let layout = Layout::new(&metadata, plan.entries(), request.extent, &path, stamp, ui)?;
    let sources = sources(model);
    layout.written().iter().try_for_each(|part| output::protect(&part.path, &sources))?;
    ui.refuse_warnings()?;

    let mut journal = Journaling { fingerprint: String::new(), path: journal::path_of(&layout.written()[0].path) };
    let mut said = None;
    if let Some(Stamping { stamp, sources, .. }) = &stamping {
        if request.if_changed && unchanged::unchanged(&layout, stamp, sources, request.force)? {
            return Ok(Summary { unchanged: true, ..summary(request, &layout, started) });
        }
        journal.fingerprint = journal::fingerprint(plan, &layout, stamp.fingerprint(), sources)?;
        if request.resume && journal.path.exists() {
            said = journal::read(&journal.path, &journal.fingerprint);
            if said.is_none() {
                let what = "unfinished work is of another source, recipe or version: it starts from the beginning";
                ui.warn(format!("--resume: {}: {what}", journal.path.display()));
                ui.refuse_warnings()?;
            } else {
                journal::take_back(&layout, stamp.fingerprint())?;
            }
        }
    }
    let start = Start { force: request.force || request.if_changed, go_on: said.is_some(), keep: request.resume };
    let mut set = OutputSet::create(&layout.files(), start)?;
    for (part, file) in layout.written().iter().zip(set.files()) {
        file.write_at(0, part.writer.head())?;
    }
    let done = journal::proved(&layout, set.files(), said.unwrap_or_default());
    let bytes = |i: usize| plan.tensors[i].tensor.source_bytes as u64;
    let bar = ui.bytes_bar(layout.tensors().map(bytes).sum());
    bar.inc(done.keys().map(|&i| bytes(i)).sum());
    bar.reset_eta();
    let meter = Meter::default();
    match &mut stamping {
        None => work(request, &layout, set.files(), None, &meter, &bar, ui)?,
        Some(stamping) => {
            set.accompany(journal.path.clone())?;
            let notes = Notes {
                hashes: TensorHashes::new(layout.tensors()),
                journal: Journal::create(&journal.path, &journal.fingerprint, &done)?,
                done: done.keys().copied().collect(),
            };
            done.iter().for_each(|(tensor, digest)| notes.hashes.set(*tensor, *digest));
            let work = || work(request, &layout, set.files(), Some(&notes), &meter, &bar, ui);
            let heads = stamping.during(&layout, &notes.hashes, &meter, work)?;
            for (writer, file) in heads.iter().zip(set.files()) {
                file.write_at(0, writer.head())?;
            }
        }
    }
    bar.finish_and_clear();
    if request.verify {
        let parts: Vec<PathBuf> = set.files().iter().map(|f| f.part().to_owned()).collect();
        crate::verify::written(&parts, layout.is_complete())?;
    }
    set.finish()?;
    // Matrices that are quantized with their Hessians keep all threads busy at once, and nobody tells their time apart.
    let cpu_seconds = meter.spent().filter(|_| request.methods.matrix().is_none());
    let verified = request.verify;
    Ok(Summary { verified, cpu_seconds, resumed: done.len(), ..summary(request, &layout, started) })
}

/// Writes all tensors: those that are quantized with their Hessians, then the others.
#[allow(clippy::too_many_arguments)] // what a conversion consists of
fn work(
    request: &Request,
    layout: &Layout,
    files: &[OutputFile],
    notes: Option<&Notes>,
    meter: &Meter,
    bar: &ProgressBar,
    ui: &Ui,
) -> Result<()> {
    let made = layers::matrices(request, layout, files, notes, bar, ui)?;
    stream::tensors(request, layout, files, notes, &made, meter, bar)
}

/// Where unfinished work is noted.
struct Journaling {
    path: PathBuf,
    fingerprint: String,
}

fn summary(request: &Request, layout: &Layout, started: Instant) -> Summary {
    let plan = request.plan;
    let files: Vec<PathBuf> = layout.written().iter().map(|p| p.path.clone()).collect();
    Summary {
        output: files[0].clone(),
        files,
        mix: plan.mix.name.to_owned(),
        tensors: layout.tensors().len(),
        parameters: plan.parameters(),
        source_bytes: plan.tensors[layout.tensors()].iter().map(|p| p.tensor.source_bytes as u64).sum(),
        bytes: layout.bytes(),
        bits_per_weight: plan.bits_per_weight(),
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: None,
        fallbacks: plan.fallbacks().count(),
        fallback_bits_per_weight: plan.fallback_cost(),
        importance: plan.importance.clone(),
        verified: false,
        unchanged: false,
        resumed: 0,
    }
}

/// The files and folders that the destination must not be.
fn sources(model: &Model) -> Vec<&Path> {
    let mut paths = vec![model.path()];
    match model.origin() {
        Origin::Gguf(gguf) => paths.extend(gguf.files().iter().map(|f| f.map().path())),
        Origin::Checkpoint(checkpoint) => paths.extend(checkpoint.files().iter().map(|f| f.map().path())),
    }
    paths
}
