//! `qconv compare`

use super::Run;
use super::bench::StyleArgs;
use super::convert::{ImportanceArgs, parse_mix};
use crate::backend::BackendArgs;
use crate::compare::{Row, Study, study};
use crate::error::caller;
use crate::method::Methods;
use crate::recipe::Mix;
use crate::report::{self, Style, Table};
use crate::ui::{self, Ui};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `qconv compare`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv compare models/prose-4m --file text.txt
  qconv compare TinyLlama-1.1B --file wiki.test.raw --types q8_0,q4_k_m,iq4_xs --chunks 50 --markdown > study.md
  qconv compare models/prose-4m --file text.txt --types q4_0,q4_k_m --methods rtn,hqq
  qconv compare models/prose-4m --file text.txt --types q3_k_s,q2_k,iq2_xs --calibration other-text.txt

Every type is converted, verified tensor by tensor against the source, measured on the text against the original (both
models run side by side), and timed in a process of its own. The perplexity is llama-perplexity's; \"vs original\" is the
ratio of perplexities minus one; the divergence is that of the predicted distributions, in nats.")]
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

    /// Keep the files in this folder [default: they are removed]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,

    #[command(flatten)]
    importance: ImportanceArgs,

    #[command(flatten)]
    computing: BackendArgs,

    #[command(flatten)]
    style: StyleArgs,
}

impl Run for Compare {
    fn run(self, ui: &Ui) -> Result<()> {
        let text = crate::eval::read_text(&self.file)?;
        let scratch;
        let folder = match &self.keep {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(qconv_formats::Error::io(folder))?;
                folder.as_path()
            }
            None => {
                scratch = crate::output::ScratchFolder::new("qconv-compare")?;
                scratch.path()
            }
        };
        let model = crate::model::Model::open(&self.source, &mut Vec::new())?;
        let context = model.plan()?.context;
        let calibration = self.importance.text(&model, self.computing, ui)?;
        self.methods.iter().try_for_each(|m| m.check_text(calibration.is_some()))?;
        let importance = self.importance.open(&model, calibration.as_ref(), ui)?;
        drop(model);
        if let Some(ctx) = self.ctx.filter(|&c| c > context) {
            return Err(caller(format!("--ctx {ctx}: the model was trained on {context} positions")));
        }
        let generate = self.generate.min(context);
        let request = Study {
            source: &self.source,
            mixes: &self.types,
            importance: importance.as_ref(),
            calibration: calibration.as_ref(),
            methods: &self.methods,
            text: &text,
            ctx: self.ctx.unwrap_or(512.min(context)),
            chunks: self.chunks,
            speed: (self.prompt.min(context), generate),
            folder,
            computing: self.computing,
        };
        let rows = study(&request, ui, |row| ui.note(format!("{}: {}", row.label(), line(row))))?;
        if self.style.json {
            return report::print_json(&serde_json::to_value(&rows)?);
        }
        let style = self.style.table();
        table(&rows).print_as(style);
        if style == Style::Plain {
            let first = &rows[0];
            ui.note(format!(
                "{} tokens of {} scored in windows of {}; pp{} and tg{} on {}",
                first.quality.tokens,
                self.file.display(),
                first.quality.ctx,
                request.speed.0,
                request.speed.1,
                first.backend
            ));
        }
        if let Some(bad) = rows.iter().find(|r| r.verified == Some(false)) {
            anyhow::bail!("{}: the file is not what the source should have become; run qconv verify on it", bad.file.display());
        }
        Ok(())
    }
}

fn line(row: &Row) -> String {
    let quality = format!("perplexity {:.4} ± {:.4}", row.quality.perplexity, row.quality.perplexity_error);
    match row.convert_seconds {
        Some(s) => format!("{} in {}, {quality}", ui::bytes(row.bytes), ui::seconds(s)),
        None => format!("{}, {quality}", ui::bytes(row.bytes)),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "type", "bits/weight", "size", "convert", "verified", "perplexity", "vs original", "KL divergence", "same top",
        "prompt t/s", "gen t/s", "memory",
    ]);
    let text = |x: Option<String>| x.unwrap_or_else(|| "-".into());
    for r in rows {
        let d = r.quality.divergence.as_ref();
        table.row([
            r.label(),
            format!("{:.2}", r.bits_per_weight),
            ui::bytes(r.bytes),
            text(r.convert_seconds.map(ui::seconds)),
            text(r.verified.map(|ok| if ok { "yes".into() } else { "NO".into() })),
            format!("{:.3} ± {:.3}", r.quality.perplexity, r.quality.perplexity_error),
            text(r.perplexity_change.map(|x| format!("{x:+.2}%"))),
            text(d.map(|d| format!("{:.5}", d.kl_divergence))),
            text(d.map(|d| format!("{:.1}%", d.top1_agreement * 100.0))),
            text(r.prompt_tokens_per_second.map(|x| format!("{x:.0}"))),
            text(r.generation_tokens_per_second.map(|x| format!("{x:.0}"))),
            text(r.peak_memory.map(ui::bytes)),
        ]);
    }
    table
}
