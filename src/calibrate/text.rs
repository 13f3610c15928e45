//! From a text to an importance matrix, in one call.

use super::{Collector, Options, run};
use crate::backend::{self, BackendArgs, Task};
use crate::engine::Engine;
use crate::eval;
use crate::model::Model;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::imatrix::Imatrix;
use qconv_kernels::Backend;
use std::path::Path;
use std::time::Instant;

/// Tokens of a chunk where the caller does not say, and the model was trained on as many.
const CTX: usize = 512;

/// What is to be collected.
pub struct Request<'a> {
    /// The text.
    pub file: &'a Path,
    /// Tokens of a chunk; 512, or the model's context if that is smaller.
    pub ctx: Option<usize>,
    /// At most so many chunks.
    pub chunks: Option<usize>,
    /// Chunks at the beginning that are passed over.
    pub skip: usize,
    /// The output matrix too, if there is one.
    pub output: bool,
    /// Control tokens in the text are taken for what they are.
    pub parse_special: bool,
    /// Where to compute.
    pub computing: BackendArgs,
}

/// What was collected.
pub struct Collected {
    /// The sums.
    pub matrix: Imatrix,
    /// Chunks that were seen.
    pub chunks: usize,
    /// Tokens of a chunk.
    pub ctx: usize,
    /// Where it ran.
    pub backend: String,
    /// Wall time, loading included.
    pub seconds: f64,
}

/// Runs a text through a model and sums up. Whatever is odd is warned about before the work begins, and refused under
/// `--strict`.
pub fn collect(model: &Model, request: &Request, ui: &Ui) -> Result<Collected> {
    backend::with(request.computing, Job { model, request, ui })
}

struct Job<'a> {
    model: &'a Model,
    request: &'a Request<'a>,
    ui: &'a Ui,
}

impl Task for Job<'_> {
    type Output = Collected;

    fn run<B: Backend>(self, backend: &B) -> Result<Collected> {
        let Job { model, request, ui } = self;
        let started = Instant::now();
        let mut warnings = Vec::new();
        let engine = Engine::load(backend, model, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        let mut output = request.output;
        if output && model.tensor("output.weight").is_none() {
            ui.warn("--process-output has no effect: the embeddings serve as output, and they have no entry");
            output = false;
        }
        let trained = engine.plan().context;
        let ctx = request.ctx.unwrap_or(CTX.min(trained));
        if ctx > trained {
            ui.warn(format!("the model was trained on {trained} positions; chunks of {ctx} go beyond"));
        }
        model.require_tokenizer()?;
        let tokenizer = Tokenizer::from_metadata(model.metadata(), model.path())?;
        tokenizer.warnings().iter().for_each(|w| ui.warn(w));
        ui.refuse_warnings()?;
        let text = eval::read_text(request.file)?;
        let tokens = if request.parse_special {
            tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: true })
        } else {
            eval::tokens(&tokenizer, &text)
        };
        let bos = eval::bos(&tokenizer);
        let options = Options { ctx, skip: request.skip, chunks: request.chunks, bos, output };
        let mut collector = Collector::new(engine.plan(), output);
        let bar = ui.steps_bar(0);
        bar.set_message("calibration");
        let chunks = run(&engine, &tokens, &options, &mut collector, |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        let matrix = collector.finish(&request.file.display().to_string(), ctx, model.path())?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Collected { matrix, chunks, ctx, backend: backend.name(), seconds })
    }
}
