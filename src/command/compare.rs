//! `qconv compare`

use super::Run;
use super::bench::StyleArgs;
use super::convert::{ImportanceArgs, parse_mix};
use crate::backend::BackendArgs;
use crate::compare::{self, Outcome, Row, Study, study};
use crate::error::caller;
use crate::method::Methods;
use crate::recipe::Mix;
use crate::report::{self, Style};
use crate::ui::{self, Ui};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// Arguments of `qconv compare`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv compare models/prose-4m --file text.txt
  qconv compare TinyLlama-1.1B --file wiki.test.raw --types q8_0,q4_k_m,iq4_xs --chunks 50 --markdown > study.md
  qconv compare models/prose-4m --file text.txt --types q4_0,q4_k_m --methods rtn,hqq --out study/
  qconv compare models/prose-4m --file text.txt --types q3_k_s,q2_k,iq2_xs --calibration other-text.txt
  qconv compare models/prose-4m models/stories15m --file text.txt --out studies/

Every variant is converted and timed in processes of its own, verified tensor by tensor against the source, and measured on
the text against the original, which runs once: its logits wait on the disk. The perplexity is llama-perplexity's; \"vs
original\" is the ratio of perplexities minus one; the divergence is that of the predicted distributions, in nats. A variant
that fails does not end the study: its row says why.

--out DIR keeps the figures of each variant as JSON, with everything they depend on, and a second run takes what still holds.
It writes results.json, results.csv, results.md, and index.html with charts: one page without any reference to the network.
Of several models each has a folder of its own in DIR, which is what a study of it alone would write, and DIR holds all together.")]
pub struct Compare {
    /// Hugging Face model folders, or GGUF files that are not quantized
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,

    /// The text on which quality is measured
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,

    /// The types to compare
    #[arg(long, value_delimiter = ',', value_parser = parse_mix,
          default_value = "q8_0,q6_k,q5_k_m,q4_k_m,iq4_xs,q4_0,q3_k_m,q2_k")]
    types: Vec<&'static Mix>,

    /// The methods to compare, for every type
    #[arg(long, value_delimiter = ',', value_parser = Methods::parse, default_value = "rtn")]
    methods: Vec<Methods>,

    /// Tokens of a window [default: 512, or the model's context if that is smaller]
    #[arg(short, long, value_name = "N")]
    ctx: Option<usize>,

    /// Only the first windows of the text
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,

    /// Tokens of the prompt in the speed test (0: no prompt test)
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    prompt: usize,

    /// Tokens to generate in the speed test (0: no generation test)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    generate: usize,

    /// Keep the GGUF files in this folder [default: they are removed]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,

    /// Keep the figures in this folder, take from it what still holds, and write tables and a page with charts
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Recommend the best variant of at most this size, such as 700MB (repeatable) [default: 1/4, 1/3 and 1/2 of the original]
    #[arg(long, value_name = "SIZE", value_parser = ui::parse_bytes)]
    at_size: Vec<u64>,

    #[command(flatten)]
    importance: ImportanceArgs,

    #[command(flatten)]
    computing: BackendArgs,

    #[command(flatten)]
    style: StyleArgs,
}

impl Run for Compare {
    fn run(self, ui: &Ui) -> Result<()> {
        let text = self.importance.calibration.is_some();
        self.methods.iter().try_for_each(|m| m.check_text(text))?;
        let models = self.models()?;
        for folder in self.keep.iter().chain(&self.out) {
            std::fs::create_dir_all(folder).map_err(qconv_formats::Error::io(folder))?;
        }
        let several = models.len() > 1;
        let mut outcomes = Vec::new();
        for model in &models {
            let own = |folder: &PathBuf| if several { folder.join(&model.folder) } else { folder.clone() };
            let (keep, out) = (self.keep.as_ref().map(own), self.out.as_ref().map(own));
            let request = Study {
                title: &model.title,
                source: model.source,
                mixes: &self.types,
                methods: &self.methods,
                importance: &self.importance,
                file: &self.file,
                ctx: self.ctx.unwrap_or(512.min(model.context)),
                chunks: self.chunks,
                speed: (self.prompt.min(model.context), self.generate.min(model.context)),
                keep: keep.as_deref(),
                out: out.as_deref(),
                computing: self.computing,
            };
            if several {
                ui.set_topic(&model.title);
            }
            let outcome = study(&request, ui, |row| ui.note(format!("{}: {}", row.label(), line(row))))?;
            outcomes.push(outcome);
            // After each: what is known is not lost where the next fails.
            if let Some(out) = &out {
                compare::write(out, &outcomes[outcomes.len() - 1..], &self.at_size)?;
            }
        }
        ui.set_topic("");
        if let Some(out) = &self.out {
            if several {
                compare::write(out, &outcomes, &self.at_size)?;
            }
            ui.note(format!("written: {} and tables beside it", out.join("index.html").display()));
        }
        self.print(&outcomes, ui)?;
        outcomes.iter().try_for_each(|outcome| {
            let checked = check(&outcome.rows);
            if several { checked.with_context(|| outcome.title.clone()) } else { checked }
        })
    }
}

/// One of the models.
struct Source<'a> {
    source: &'a Path,
    /// What it is called; no other is called so.
    title: String,
    /// Where its results are kept, in the folder of the whole study.
    folder: String,
    context: usize,
}

impl Compare {
    /// Opens all once, so that what is wrong with the last is said before the first is measured.
    fn models(&self) -> Result<Vec<Source<'_>>> {
        let mut models: Vec<Source> = Vec::new();
        for source in &self.sources {
            let model = crate::model::Model::open(source, &mut Vec::new())?;
            let context = model.plan()?.context;
            if let Some(ctx) = self.ctx.filter(|&c| c > context) {
                let whose = if self.sources.len() > 1 { format!("{}: ", source.display()) } else { String::new() };
                return Err(caller(format!("{whose}--ctx {ctx}: the model was trained on {context} positions")));
            }
            models.push(Source { source, title: model.name(), folder: String::new(), context });
        }
        let shared: Vec<bool> =
            models.iter().map(|m| models.iter().filter(|other| other.title == m.title).count() > 1).collect();
        for (model, shared) in models.iter_mut().zip(shared) {
            if shared {
                model.title = format!("{} ({})", model.title, model.source.display());
            }
            let plain = |c: char| if c.is_alphanumeric() || "-._".contains(c) { c } else { '_' };
            model.folder = model.title.chars().map(plain).collect();
        }
        for (i, model) in models.iter().enumerate() {
            if let Some(other) = models[..i].iter().find(|o| o.folder.eq_ignore_ascii_case(&model.folder)) {
                let (one, two) = (other.source.display(), model.source.display());
                return Err(caller(format!("{one} and {two} are both called {}: give each model once", model.title)));
            }
        }
        Ok(models)
    }

    fn print(&self, outcomes: &[Outcome], ui: &Ui) -> Result<()> {
        if self.style.json {
            return report::print_json(&compare::rows(outcomes)?);
        }
        let style = self.style.table();
        compare::table(outcomes).print_as(style);
        if style != Style::Csv {
            let remarks = compare::remarks(outcomes, &self.at_size);
            let plain = remarks.replace("**", "").replace("## ", "").replace("\n\n-", "\n-");
            crate::outln!("\n{}", if style == Style::Plain { &plain } else { &remarks }.trim_end());
        }
        for outcome in outcomes.iter().filter(|_| style == Style::Plain) {
            let original = &outcome.rows[0];
            let Some(quality) = &original.quality else { continue };
            let of = if outcomes.len() > 1 { format!("{}: ", outcome.title) } else { String::new() };
            let ((prompt, generate), file) = (outcome.speed, self.file.display());
            let (tokens, ctx, backend) = (quality.tokens, quality.ctx, &original.backend);
            ui.note(format!(
                "{of}{tokens} tokens of {file} scored in windows of {ctx}; pp{prompt} and tg{generate} on {backend}"
            ));
        }
        Ok(())
    }
}

/// An error where a file is wrong or a model has no figures at all.
fn check(rows: &[Row]) -> Result<()> {
    if let Some(bad) = rows.iter().find(|r| r.verified == Some(false)) {
        let hint = "the file is not what the source should have become; run qconv verify on it";
        anyhow::bail!("{}: {hint}", bad.file.display());
    }
    let failed: Vec<String> = rows.iter().filter(|r| r.failure.is_some()).map(Row::label).collect();
    let some = failed.is_empty() || failed.len() + 1 < rows.len();
    anyhow::ensure!(some, "every variant failed: {}", failed.join(", "));
    Ok(())
}

fn line(row: &Row) -> String {
    if let Some(why) = &row.failure {
        return format!("failed: {why}");
    }
    let size = ui::bytes(row.bytes.unwrap_or(0));
    let quality = row.quality.as_ref();
    let quality =
        quality.map_or(String::new(), |q| format!("perplexity {:.4} ± {:.4}", q.perplexity, q.perplexity_error));
    match row.convert_seconds {
        Some(s) => format!("{size} in {}, {quality}", ui::seconds(s)),
        None => format!("{size}, {quality}"),
    }
}
