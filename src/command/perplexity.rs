//! `qconv perplexity MODEL --file TEXT [--against ORIGINAL]`

use super::Run;
use crate::backend::{self, BackendArgs, Sizes, Task};
use crate::engine::Engine;
use crate::error::caller;
use crate::eval::{self, Base, Options};
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::ui::Ui;
use clap::Args;
use qconv_kernels::Backend;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `qconv perplexity`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qconv perplexity model-Q4_K_M.gguf --file wiki.test.raw
  qconv perplexity model-Q4_K_M.gguf --file text.txt --against hf-folder/ --ctx 256 --json

The definition is llama-perplexity's: the text is tokenized once, cut into windows of --ctx tokens, the first token of each
replaced by BOS where the model uses one, and the second half of each window is scored. With --stride N windows begin N
tokens apart and the last N tokens of each are scored, so that every token has at least ctx - N tokens before it.

--against runs the original beside the model and compares every prediction: KL divergence (in nats), the share of tokens
where both find the same token most likely, and how the right token's probability changes. Shares and probabilities are
fractions in JSON, percents in the table. Numbers after +/- are standard errors.")]
pub struct Perplexity {
    /// A GGUF file or a Hugging Face folder
    model: PathBuf,

    /// The text
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,

    /// Tokens of a window
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    ctx: usize,

    /// Let windows overlap: begin every N tokens, score the last N of each
    #[arg(long, value_name = "N")]
    stride: Option<usize>,

    /// Only the first N windows
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,

    /// Compare with this model: the original, before it was quantized
    #[arg(long, value_name = "ORIGINAL")]
    against: Option<PathBuf>,

    #[command(flatten)]
    backend: BackendArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Run for Perplexity {
    fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let mut warnings = Vec::new();
        let model = Model::open(&self.model, &mut warnings)?;
        let original = self.against.as_ref().map(|path| Model::open(path, &mut warnings)).transpose()?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        let sizes = original.iter().fold(Sizes::of(&model), |sizes, m| sizes.and(&Sizes::of(m)));
        backend::with(self.backend, &sizes, ui, Job { args: self, model, original, ui })
    }
}

struct Job<'a> {
    args: Perplexity,
    model: Model,
    original: Option<Model>,
    ui: &'a Ui,
}

/// The result with what it is about.
#[derive(Serialize)]
struct Report {
    model: String,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<String>,
    backend: String,
    #[serde(flatten)]
    result: eval::Perplexity,
}

impl Task for Job<'_> {
    type Output = ();

    fn run<B: Backend>(self, backend: &B) -> anyhow::Result<()> {
        let Job { args, model, original, ui } = self;
        let mut warnings = Vec::new();
        let engine = Engine::load(backend, &model, &mut warnings)?;
        let base = original.as_ref().map(|m| Engine::load(backend, m, &mut warnings)).transpose()?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        ui.refuse_warnings()?;
        if let Some(original) = &original {
            same_vocabulary(&model, original)?;
        }
        model.require_tokenizer()?;
        let tokenizer = Tokenizer::from_metadata(model.metadata(), model.path())?;
        tokenizer.warnings().iter().for_each(|w| ui.warn(w));
        let text = eval::read_text(&args.file)?;
        let tokens = eval::tokens(&tokenizer, &text);
        let options = Options { ctx: args.ctx, stride: args.stride, chunks: args.chunks, bos: eval::bos(&tokenizer) };
        let trained = engine.plan().context;
        if args.ctx > trained {
            ui.warn(format!("the model was trained on {trained} positions; windows of {} go beyond", args.ctx));
            ui.refuse_warnings()?;
        }
        eval::windows(tokens.len(), &options)?;
        ui.note(memory(&engine, base.as_ref(), args.ctx)?);
        let base = base.as_ref().map_or(Base::Nothing, Base::Beside);
        let bar = ui.steps_bar(0);
        let result = eval::perplexity(&engine, base, &tokens, &options, |done, all, so_far| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(format!("perplexity {so_far:.4}"));
        })?;
        bar.finish_and_clear();
        let report = Report {
            model: args.model.display().to_string(),
            file: args.file.display().to_string(),
            against: args.against.as_ref().map(|p| p.display().to_string()),
            backend: backend.name(),
            result,
        };
        let text = if args.json { serde_json::to_string_pretty(&report)? } else { report.text() };
        writeln!(std::io::stdout(), "{}", text.trim_end())?;
        Ok(())
    }
}

/// What will be needed, of one model or two.
fn memory<B: Backend>(engine: &Engine<'_, B>, base: Option<&Engine<'_, B>>, ctx: usize) -> anyhow::Result<String> {
    let options = eval::session_options(ctx);
    let mut plan = engine.memory(options)?;
    if let Some(base) = base {
        plan = plan.and(&base.memory(options)?);
    }
    let windows = if engine.backend().takes_several() { options.sequences } else { 1 };
    let several = if windows > 1 { format!(", {windows} windows at a time") } else { String::new() };
    Ok(format!("{plan}{several}"))
}

/// Ids must mean the same to both models.
fn same_vocabulary(model: &Model, original: &Model) -> anyhow::Result<()> {
    let tokens = |m: &Model| m.metadata().get("tokenizer.ggml.tokens").cloned();
    let (ours, theirs) = (tokens(model), tokens(original));
    if ours == theirs {
        return Ok(());
    }
    let list = |v: &Option<qconv_formats::gguf::Value>| v.as_ref().and_then(|v| v.as_strings()).map(<[_]>::to_vec);
    let what = match (list(&ours), list(&theirs)) {
        (Some(a), Some(b)) => match a.iter().zip(&b).position(|(x, y)| x != y) {
            Some(i) => format!("token {i} is {:?} in the one and {:?} in the other", a[i], b[i]),
            None => format!("one has {} tokens, the other {}", a.len(), b.len()),
        },
        _ => "one of them has none".into(),
    };
    Err(caller(format!(
        "{} and {} cannot be compared: their vocabularies differ ({what})",
        model.path().display(),
        original.path().display()
    )))
}

impl Report {
    fn text(&self) -> String {
        let r = &self.result;
        let line = |name: &str, value: String| format!("{name:<28} {value}\n");
        let mut out =
            format!("{} on {}, {} windows of {} tokens, {}\n", self.model, self.file, r.chunks, r.ctx, self.backend);
        out += &line("perplexity", format!("{:.4} +/- {:.4}", r.perplexity, r.perplexity_error));
        if let Some(d) = &r.divergence {
            let percent = |x: f64, e: f64| format!("{:.3} +/- {:.3} %", 100.0 * x, 100.0 * e);
            let tail = [d.kl_divergence_median, d.kl_divergence_99, d.kl_divergence_max];
            for (name, value) in [
                ("perplexity of the original", format!("{:.4} +/- {:.4}", d.base_perplexity, d.base_perplexity_error)),
                ("ratio", format!("{:.5} +/- {:.5}", d.perplexity_ratio, d.perplexity_ratio_error)),
                ("KL divergence", format!("{:.6} +/- {:.6}", d.kl_divergence, d.kl_divergence_error)),
                ("  median, 99%, maximum", tail.map(|x| format!("{x:.6}")).join(", ")),
                ("same most likely token", percent(d.top1_agreement, d.top1_agreement_error)),
                ("change of probability, mean", percent(d.mean_probability_change, d.mean_probability_change_error)),
                ("change of probability, RMS", percent(d.rms_probability_change, d.rms_probability_change_error)),
            ] {
                out += &line(name, value);
            }
        }
        let time = format!("{} in {:.1} s, {:.0} tokens/s evaluated", r.tokens, r.seconds, r.tokens_per_second);
        out + &line("scored tokens", time)
    }
}
