//! `qconv calibrate MODEL --file TEXT -o imatrix.gguf`

use super::Run;
use crate::backend::{self, BackendArgs, Task};
use crate::calibrate::{self, Collector, Options};
use crate::engine::Engine;
use crate::eval;
use crate::model::Model;
use crate::output::{self, OutputFile};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::ui::{self, Ui};
use crate::{outln, report};
use clap::Args;
use qconv_formats::imatrix::Imatrix;
use qconv_kernels::Backend;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `qconv calibrate`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qconv calibrate TinyLlama-1.1B-Chat-v1.0 --file text.txt -o imatrix.gguf
  qconv calibrate model-Q8_0.gguf --file text.txt --ctx 1024 --chunks 100 -o imatrix.dat
  qconv convert TinyLlama-1.1B-Chat-v1.0 -t iq2_xs --imatrix imatrix.gguf

The definition is llama-imatrix's, and so are the files: the text is cut into chunks of --ctx tokens, the first token of each
replaced by BOS where the model uses one, and for every matrix in the blocks the squares of its inputs are summed up column by
column, for stacks of experts expert by expert. A name that ends in .dat gets the legacy form, any other GGUF.
`qconv imatrix` shows what is in it and adds several up.")]
pub struct Calibrate {
    /// A GGUF file or a Hugging Face folder; the original is best
    model: PathBuf,

    /// The text
    #[arg(long, value_name = "TEXT")]
    file: PathBuf,

    /// The importance matrix
    #[arg(short, long, value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,

    /// Tokens of a chunk
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    ctx: usize,

    /// At most N chunks
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,

    /// Pass over the first N chunks
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_chunks: usize,

    /// The output matrix too, if the model has one of its own
    #[arg(long)]
    process_output: bool,

    /// Take control tokens in the text for what they are, instead of for their letters
    #[arg(long)]
    parse_special: bool,

    /// Replace an existing file
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    backend: BackendArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Run for Calibrate {
    fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let mut warnings = Vec::new();
        let model = Model::open(&self.model, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        output::protect(&self.output, &[model.path(), &self.file])?;
        backend::with(self.backend, Job { args: self, model, ui })
    }
}

struct Job<'a> {
    args: Calibrate,
    model: Model,
    ui: &'a Ui,
}

impl Task for Job<'_> {
    type Output = ();

    fn run<B: Backend>(self, backend: &B) -> anyhow::Result<()> {
        let Job { args, model, ui } = self;
        let started = Instant::now();
        let mut warnings = Vec::new();
        let engine = Engine::load(backend, &model, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        let mut output = args.process_output;
        if output && model.tensor("output.weight").is_none() {
            ui.warn("--process-output has no effect: the embeddings serve as output, and they have no entry");
            output = false;
        }
        let trained = engine.plan().context;
        if args.ctx > trained {
            ui.warn(format!("the model was trained on {trained} positions; chunks of {} go beyond", args.ctx));
        }
        ui.refuse_warnings()?;
        model.require_tokenizer()?;
        let tokenizer = Tokenizer::from_metadata(model.metadata(), model.path())?;
        tokenizer.warnings().iter().for_each(|w| ui.warn(w));
        let text = eval::read_text(&args.file)?;
        let tokens = if args.parse_special {
            tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: true })
        } else {
            eval::tokens(&tokenizer, &text)
        };
        let bos = eval::bos(&tokenizer);
        let options = Options { ctx: args.ctx, skip: args.skip_chunks, chunks: args.chunks, bos, output };
        let mut collector = Collector::new(engine.plan(), output);
        let bar = ui.steps_bar(0);
        let chunks = calibrate::run(&engine, &tokens, &options, &mut collector, |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        let matrix = collector.finish(&args.file.display().to_string(), args.ctx, model.path())?;
        warn(&matrix, ui);
        save(&matrix, &args.output, args.force, ui)?;
        let seconds = started.elapsed().as_secs_f64();
        let seen = chunks * args.ctx;
        if args.json {
            return report::print_json(&serde_json::json!({
                "output": args.output, "model": args.model, "file": args.file, "entries": matrix.entries.len(),
                "chunks": chunks, "ctx": args.ctx, "tokens": seen, "backend": backend.name(), "seconds": seconds,
                "tokens_per_second": seen as f64 / seconds, "warnings": ui.warnings(),
            }));
        }
        outln!(
            "{}: {} entries from {chunks} chunks of {} tokens in {}, {:.0} tokens/s",
            args.output.display(),
            matrix.entries.len(),
            args.ctx,
            ui::seconds(seconds),
            seen as f64 / seconds
        );
        Ok(())
    }
}

/// What the text never reached.
fn warn(matrix: &Imatrix, ui: &Ui) {
    for (name, entry) in &matrix.entries {
        let (unvisited, all) = (entry.unvisited().count(), entry.counts().len());
        if unvisited > 0 {
            ui.warn(format!("{name}: {unvisited} of {all} experts were never visited; use a longer text"));
        }
        let visited = entry.sums().chunks_exact(entry.columns()).zip(entry.counts()).filter(|(_, n)| **n > 0);
        let inactive = visited.flat_map(|(row, _)| row).filter(|x| **x == 0.0).count();
        if inactive > 0 {
            ui.warn(format!("{name}: {inactive} of {} columns were never active", entry.sums().len()));
        }
    }
}

/// Writes a matrix in the form that its name asks for: legacy for `.dat`, else GGUF.
pub(super) fn save(matrix: &Imatrix, path: &Path, force: bool, ui: &Ui) -> anyhow::Result<()> {
    let bytes = if is_legacy(path) {
        let mut lost = Vec::new();
        let bytes = matrix.to_legacy(&mut lost)?;
        lost.iter().for_each(|what| ui.warn(format!("{}: the legacy form loses this: {what}", path.display())));
        bytes
    } else {
        matrix.to_gguf()?
    };
    ui.refuse_warnings()?;
    let file = OutputFile::create(path, bytes.len() as u64, force)?;
    file.write_at(0, &bytes)?;
    file.finish()
}

/// The name asks for the legacy form.
pub(super) fn is_legacy(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("dat"))
}
