//! `qconv calibrate MODEL --file TEXT -o imatrix.gguf`

use super::Run;
use crate::backend::BackendArgs;
use crate::calibrate::{self, Activations, Calibration, Collected, Request};
use crate::model::Model;
use crate::output::{self, OutputFile};
use crate::ui::{self, Ui};
use crate::{outln, report};
use clap::Args;
use qconv_formats::imatrix::Imatrix;
use std::path::{Path, PathBuf};

/// Arguments of `qconv calibrate`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qconv calibrate TinyLlama-1.1B-Chat-v1.0 --file text.txt -o imatrix.gguf
  qconv calibrate model-Q8_0.gguf --file text.txt --ctx 1024 --chunks 100 -o imatrix.dat
  qconv convert TinyLlama-1.1B-Chat-v1.0 -t iq2_xs --imatrix imatrix.gguf

The definition is llama-imatrix's, and so are the files: the text is cut into chunks of --ctx tokens, the first token of each
replaced by BOS where the model uses one, and for every matrix in the blocks the squares of its inputs are summed up column by
column, for stacks of experts expert by expert. Weights of less than 32 bits meet rounded activations, as in llama.cpp, unless
--exact is given. A name that ends in .dat gets the legacy form, any other GGUF.
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

    /// Tokens of a chunk [default: 512, or the model's context if that is smaller]
    #[arg(short, long, value_name = "N")]
    ctx: Option<usize>,

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
        let request = Request {
            file: &self.file,
            ctx: self.ctx,
            chunks: self.chunks,
            skip: self.skip_chunks,
            parse_special: self.parse_special,
            from: Activations::Original,
            computing: self.backend,
            flags: "--",
        };
        let Collected { matrix, chunks, ctx, backend, seconds } = {
            let text = Calibration::read(&model, &request, ui)?;
            calibrate::collect(&model, &text, self.process_output, ui)?
        };
        warn(&matrix, ui);
        save(&matrix, &self.output, self.force, ui)?;
        let seen = chunks * ctx;
        if self.json {
            return report::print_json(&serde_json::json!({
                "output": self.output, "model": self.model, "file": self.file, "entries": matrix.entries.len(),
                "chunks": chunks, "ctx": ctx, "tokens": seen, "backend": backend, "seconds": seconds,
                "tokens_per_second": seen as f64 / seconds, "warnings": ui.warnings(),
            }));
        }
        outln!(
            "{}: {} entries from {chunks} chunks of {ctx} tokens in {}, {:.0} tokens/s",
            self.output.display(),
            matrix.entries.len(),
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
