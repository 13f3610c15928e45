//! A text in chunks of tokens, ready to run through a model.

use super::{Collector, Follower, Options, Passage, run};
use crate::backend::{self, BackendArgs, Sizes, Task};
use crate::engine::{Engine, Inputs, Observer, Replaced};
use crate::error::caller;
use crate::eval;
use crate::model::{Model, ModelTensor};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::imatrix::Imatrix;
use qconv_kernels::Backend;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of a chunk where the caller does not say, and the model was trained on as many.
const CTX: usize = 512;

/// `--calibration-from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Activations {
    /// Those behind the layers that are quantized already, and results like the original's: errors of earlier layers are
    /// made up for
    #[default]
    Both,
    /// Those behind the layers that are quantized already
    Quantized,
    /// The original model's
    Original,
}

/// Which text is used, and how.
pub struct Request<'a> {
    /// The text.
    pub file: &'a Path,
    /// Tokens of a chunk; 512, or the model's context if that is smaller.
    pub ctx: Option<usize>,
    /// At most so many chunks.
    pub chunks: Option<usize>,
    /// Chunks at the beginning that are passed over.
    pub skip: usize,
    /// Control tokens in the text are taken for what they are.
    pub parse_special: bool,
    /// Whose activations methods see that go layer by layer.
    pub from: Activations,
    /// Where to compute.
    pub computing: BackendArgs,
    /// What the caller's flags for `ctx` and `chunks` begin with, for errors: `--`, `--calibration-`.
    pub flags: &'static str,
}

/// A text in chunks of tokens.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// The text's file.
    pub file: PathBuf,
    /// Tokens of a chunk.
    pub ctx: usize,
    /// The chunks, each of `ctx` tokens, its first one replaced by BOS where the model's texts begin with one.
    pub chunks: Vec<Vec<u32>>,
    /// Whose activations methods see that go layer by layer.
    pub from: Activations,
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

impl Calibration {
    /// Cuts a text for a model. Warns of chunks that are longer than what the model was trained on, and of a language that the
    /// vocabulary hardly has. Errors, the caller's: a text too short, or in a language of which the vocabulary has nothing; the
    /// model's: no tokenizer.
    pub fn read(model: &Model, request: &Request<'_>, ui: &Ui) -> Result<Self> {
        let trained = model.plan()?.context;
        let ctx = request.ctx.unwrap_or(CTX.min(trained));
        if ctx > trained {
            ui.warn(format!("the model was trained on {trained} positions; chunks of {ctx} go beyond"));
        }
        model.require_tokenizer()?;
        let tokenizer = Tokenizer::from_metadata(model.metadata(), model.path())?;
        tokenizer.warnings().iter().for_each(|w| ui.warn(w));
        let text = eval::read_text(request.file)?;
        let tokens = if request.parse_special {
            tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: true })
        } else {
            eval::tokens(&tokenizer, &text)
        };
        let in_file = |e: anyhow::Error| e.context(request.file.display().to_string());
        language(&tokenizer, &tokens, ui).map_err(in_file)?;
        let options = Options { ctx, skip: request.skip, chunks: request.chunks, flags: request.flags };
        let bos = eval::bos(&tokenizer);
        let chunks = options.chunks(tokens.len()).map_err(in_file)?.into_iter().map(|range| {
            let mut chunk = tokens[range].to_vec();
            chunk[0] = bos.unwrap_or(chunk[0]);
            chunk
        });
        let chunks = chunks.collect();
        let Request { from, computing, .. } = *request;
        Ok(Calibration { file: request.file.to_owned(), ctx, chunks, from, computing })
    }

    /// Whether a chunk is one to search on, and whether it is one to judge on what was found: every fourth is held back for that; of
    /// two or three the last, and a single one is for both.
    pub fn parts(&self, chunk: usize) -> [bool; 2] {
        let n = self.chunks.len();
        let held = if n < 4 { chunk + 1 == n } else { chunk % 4 == 3 };
        [!held || n == 1, held]
    }

    /// Runs the text through a model and shows `observer` what goes into its matrices; with `output` also into the output
    /// matrix, of every token. Returns what it ran on.
    pub fn observe(&self, model: &Model, observer: &mut dyn Observer, output: bool, ui: &Ui) -> Result<String> {
        let job = Job { calibration: self, model, observer, output, ui };
        backend::with(self.computing, &Sizes::of(model), ui, job)
    }
}

/// Shares of tokens that are parts of characters, beyond which a text is doubted and refused: a model that reads a language letter
/// by letter may have been trained so, but not byte by byte.
const FRAGMENTS: (f64, f64) = (0.5, 0.9);

/// Warns of a text that the vocabulary has few tokens for. An error, the caller's: it has none.
fn language(tokenizer: &Tokenizer, tokens: &[u32], ui: &Ui) -> Result<()> {
    let parts = tokens.iter().filter(|id| tokenizer.is_fragment(**id)).count();
    let share = parts as f64 / tokens.len().max(1) as f64;
    let what = format!("{:.0}% of the text's tokens are parts of characters", share * 100.0);
    if share > FRAGMENTS.1 {
        return Err(caller(format!(
            "{what}: the model's vocabulary has no words of this language; take a text like those that the model is for"
        )));
    }
    if share > FRAGMENTS.0 {
        ui.warn(format!("{what}: the model's vocabulary has few words of this language"));
    }
    Ok(())
}

struct Job<'a> {
    calibration: &'a Calibration,
    model: &'a Model,
    observer: &'a mut dyn Observer,
    output: bool,
    ui: &'a Ui,
}

impl Task for Job<'_> {
    type Output = String;

    fn run<B: Backend>(self, backend: &B) -> Result<String> {
        if self.model.tensors().iter().any(ModelTensor::is_edited) {
            return self.block_by_block(backend);
        }
        let mut warnings = Vec::new();
        let engine = Engine::load(backend, self.model, &mut warnings)?;
        warnings.into_iter().for_each(|w| self.ui.warn(w));
        self.ui.refuse_warnings()?;
        // Methods take several turns.
        self.ui.note_once(engine.memory(super::session_options(self.calibration.ctx))?.to_string());
        let bar = self.ui.steps_bar(self.calibration.chunks.len() as u64);
        bar.set_message("calibration");
        run(&engine, self.calibration, self.observer, self.output, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        Ok(backend.name())
    }
}

impl Job<'_> {
    /// For weights that lie in no file as they are: only those of one block are made at a time.
    fn block_by_block<B: Backend>(self, backend: &B) -> Result<String> {
        let mut passage = Passage::new(backend, self.model, self.calibration, &Replaced::new())?;
        passage.run(&mut Observing(self.observer), self.ui)?;
        if self.output {
            passage.chunks().try_for_each(|chunk| passage.show_output(chunk, self.observer))?;
        }
        Ok(backend.name())
    }
}

/// An observer to whom it is all the same where the text is.
struct Observing<'a>(&'a mut dyn Observer);

impl Observer for Observing<'_> {
    fn wants(&self, weight: &str) -> bool {
        self.0.wants(weight)
    }

    fn leads_on(&self, weight: &str) -> bool {
        self.0.leads_on(weight)
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        self.0.inputs(inputs);
    }
}

impl Follower for Observing<'_> {}

/// Runs a text through a model and sums up the squares of all inputs; with `output` also those of the output matrix, if
/// there is one. Whatever is odd is warned about before the work begins, and refused under `--strict`.
pub fn collect(model: &Model, calibration: &Calibration, output: bool, ui: &Ui) -> Result<Collected> {
    let started = Instant::now();
    let wanted = output && model.tensor("output.weight").is_some();
    if output && !wanted {
        ui.warn("--process-output has no effect: the embeddings serve as output, and they have no entry");
    }
    let mut collector = Collector::new(&model.plan()?, wanted);
    let backend = calibration.observe(model, &mut collector, wanted, ui)?;
    let matrix = collector.finish(&calibration.file.display().to_string(), calibration.ctx, model)?;
    let (chunks, ctx) = (calibration.chunks.len(), calibration.ctx);
    Ok(Collected { matrix, chunks, ctx, backend, seconds: started.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_no_chunk_in_common_and_are_never_empty() {
        for n in 1..9u32 {
            let chunks: Vec<Vec<u32>> = (0..n).map(|i| vec![i]).collect();
            let (file, computing) = (PathBuf::new(), BackendArgs::default());
            let all = Calibration { file, ctx: 1, chunks, from: Activations::Both, computing };
            let parts: Vec<[bool; 2]> = (0..n as usize).map(|i| all.parts(i)).collect();
            let (searched, judged) = (parts.iter().filter(|p| p[0]).count(), parts.iter().filter(|p| p[1]).count());
            assert!(searched > 0 && judged == (n as usize / 4).max(1), "{n}");
            assert!(n == 1 || parts.iter().all(|[search, judge]| search != judge), "{n}: {parts:?}");
        }
    }
}
