//! `qconv compare`

use super::Run;
use super::bench::StyleArgs;
use super::convert::{ImportanceArgs, parse_mix};
use crate::backend::BackendArgs;
use crate::compare::{self, Row, Study, study};
use crate::error::caller;
use crate::method::Methods;
use crate::recipe::Mix;
use crate::report::{self, Style};
use crate::ui::{self, Ui};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `qconv compare`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv compare models/prose-4m --file text.txt
  qconv compare TinyLlama-1.1B --file wiki.test.raw --types q8_0,q4_k_m,iq4_xs --chunks 50 --markdown > study.md
  qconv compare models/prose-4m --file text.txt --types q4_0,q4_k_m --methods rtn,hqq --out study/
  qconv compare models/prose-4m --file text.txt --types q3_k_s,q2_k,iq2_xs --calibration other-text.txt

Every variant is converted and timed in processes of its own, verified tensor by tensor against the source, and measured on
the text against the original, which runs once: its logits wait on the disk. The perplexity is llama-perplexity's; \"vs
original\" is the ratio of perplexities minus one; the divergence is that of the predicted distributions, in nats. A variant
that fails does not end the study: its row says why.

--out DIR keeps the figures of each variant as JSON, with everything they depend on, and a second run takes what still holds.
It writes results.json, results.csv, results.md, and index.html with charts: one page without any reference to the network.")]
pub struct Compare {
    /// A Hugging Face model folder, or a GGUF file that is not quantized
    source: PathBuf,

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
        for folder in self.keep.iter().chain(&self.out) {
            std::fs::create_dir_all(folder).map_err(qconv_formats::Error::io(folder))?;
        }
        let model = crate::model::Model::open(&self.source, &mut Vec::new())?;
        let context = model.plan()?.context;
        let title = model.name();
        drop(model);
        let text = self.importance.calibration.is_some();
        self.methods.iter().try_for_each(|m| m.check_text(text))?;
        if let Some(ctx) = self.ctx.filter(|&c| c > context) {
            return Err(caller(format!("--ctx {ctx}: the model was trained on {context} positions")));
        }
        let request = Study {
            source: &self.source,
            mixes: &self.types,
            methods: &self.methods,
            importance: &self.importance,
            file: &self.file,
            ctx: self.ctx.unwrap_or(512.min(context)),
            chunks: self.chunks,
            speed: (self.prompt.min(context), self.generate.min(context)),
            keep: self.keep.as_deref(),
            out: self.out.as_deref(),
            computing: self.computing,
        };
        let outcome = study(&request, ui, |row| ui.note(format!("{}: {}", row.label(), line(row))))?;
        let rows = &outcome.rows;
        if let Some(out) = &self.out {
            compare::write(out, &title, &outcome, &self.at_size)?;
            ui.note(format!("written: {} and tables beside it", out.join("index.html").display()));
        }
        let advice = compare::advice(rows, &self.at_size);
        match self.style.table() {
            _ if self.style.json => report::print_json(&serde_json::to_value(rows)?)?,
            style => {
                compare::table(rows).print_as(style);
                if style != Style::Csv {
                    let remarks = compare::remarks(rows, &advice);
                    let plain = remarks.replace("**", "").replace("\n\n-", "\n-");
                    crate::outln!("\n{}", if style == Style::Plain { &plain } else { &remarks }.trim_end());
                }
                if let (Style::Plain, Some(quality)) = (style, &rows[0].quality) {
                    let ((prompt, generate), file) = (request.speed, self.file.display());
                    let (tokens, ctx) = (quality.tokens, quality.ctx);
                    let backend = &rows[0].backend;
                    ui.note(format!("{tokens} tokens of {file} scored in windows of {ctx}; pp{prompt} and tg{generate} on {backend}"));
                }
            }
        }
        if let Some(bad) = rows.iter().find(|r| r.verified == Some(false)) {
            let hint = "the file is not what the source should have become; run qconv verify on it";
            anyhow::bail!("{}: {hint}", bad.file.display());
        }
        let failed: Vec<String> = rows.iter().filter(|r| r.failure.is_some()).map(Row::label).collect();
        anyhow::ensure!(failed.is_empty() || failed.len() + 1 < rows.len(), "every variant failed: {}", failed.join(", "));
        Ok(())
    }
}

fn line(row: &Row) -> String {
    if let Some(why) = &row.failure {
        return format!("failed: {why}");
    }
    let size = ui::bytes(row.bytes.unwrap_or(0));
    let quality = row.quality.as_ref();
    let quality = quality.map_or(String::new(), |q| format!("perplexity {:.4} ± {:.4}", q.perplexity, q.perplexity_error));
    match row.convert_seconds {
        Some(s) => format!("{size} in {}, {quality}", ui::seconds(s)),
        None => format!("{size}, {quality}"),
    }
}
