//! Conversion in one pass: source rows -> floats -> packed rows -> their place in the output.
//!
//! Nothing but a few row slices per thread is ever held: the source is mapped and dropped behind the reader, results are
//! written by offset as they are made. The bytes do not depend on the number of threads.

mod edits;
mod importance;
mod metadata;
mod plan;
mod rules;
mod stream;

pub use edits::{Edits, Layers, Setting};
pub use importance::{Importance, Weighing};
pub use metadata::{output_metadata, output_name};
pub use plan::{Plan, Planned};

use crate::method::Method;
use crate::model::{Model, Origin};
use crate::output::{self, OutputFile};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::gguf::Writer;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is to be done.
pub struct Request<'a> {
    /// The source.
    pub model: &'a Model,
    /// What becomes of each tensor.
    pub plan: &'a Plan<'a>,
    /// What is changed in its metadata; the plan was made with the same.
    pub edits: &'a Edits,
    /// How weights are quantized.
    pub method: &'static Method,
    /// A file, or a folder in which the file gets its conventional name.
    pub output: &'a Path,
    /// Replace an existing file.
    pub force: bool,
    /// Check the file's structure before it appears.
    pub verify: bool,
}

/// What was done.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    /// The new file.
    pub output: PathBuf,
    /// The mix.
    #[serde(rename = "type")]
    pub mix: String,
    /// Tensors written.
    pub tensors: usize,
    /// Weights of the model.
    pub parameters: u64,
    /// Bytes read.
    pub source_bytes: u64,
    /// Bytes of the new file.
    pub bytes: u64,
    /// Tensor data per weight.
    pub bits_per_weight: f64,
    /// Wall time of the conversion, the file's sync included.
    pub seconds: f64,
    /// Tensors that could not take the type that was wanted for them.
    pub fallbacks: usize,
    /// Bits per weight (of the whole model) that they cost.
    pub fallback_bits_per_weight: f64,
    /// What became of the importance matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<Weighing>,
    /// The file's structure was checked.
    pub verified: bool,
}

/// Converts. On any error nothing is left at the destination.
pub fn convert(request: &Request, ui: &Ui) -> Result<Summary> {
    let started = Instant::now();
    let Request { model, plan, .. } = request;
    let metadata = output_metadata(model, plan, request.edits, ui)?;
    let writer = Writer::new(&metadata, &plan.entries())?;
    let path = output::or_in_folder(request.output, output_name(model, plan, &metadata));
    output::protect(&path, &sources(model))?;
    ui.refuse_warnings()?;

    let file = OutputFile::create(&path, writer.file_size(), request.force)?;
    file.write_at(0, writer.head())?;
    let bar = ui.bytes_bar(plan.source_bytes());
    stream::tensors(request, &writer, &file, &bar)?;
    bar.finish_and_clear();
    if request.verify {
        crate::verify::written(file.part())?;
    }
    file.finish()?;
    Ok(Summary {
        output: path,
        mix: plan.mix.name.to_owned(),
        tensors: plan.tensors.len(),
        parameters: plan.parameters(),
        source_bytes: plan.source_bytes(),
        bytes: writer.file_size(),
        bits_per_weight: plan.bits_per_weight(),
        seconds: started.elapsed().as_secs_f64(),
        fallbacks: plan.fallbacks().count(),
        fallback_bits_per_weight: plan.fallback_cost(),
        importance: plan.importance.clone(),
        verified: request.verify,
    })
}

/// The files and folders that the destination must not be.
fn sources(model: &Model) -> Vec<&Path> {
    let mut paths = vec![model.path()];
    match model.origin() {
        Origin::Gguf(gguf) => paths.push(gguf.map().path()),
        Origin::Checkpoint(checkpoint) => paths.extend(checkpoint.files().iter().map(|f| f.map().path())),
    }
    paths
}
