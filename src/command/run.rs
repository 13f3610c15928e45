//! `qconv run MODEL -p "..."`: text, a conversation, or raw logits.

mod conversation;
mod generate;
mod logits;
mod report;

use crate::backend::{self, BackendArgs, Choice, Sizes, Task};
use crate::engine::{Engine, Rng, Sampling, SessionOptions};
use crate::error::caller;
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::ui::Ui;
use anyhow::Context;
use clap::Args;
use qconv_kernels::Backend;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `qconv run`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qconv run model.gguf -p \"Once upon a time\" -n 64
  qconv run model.gguf --chat --system \"Answer in one sentence.\"
  qconv run hf-folder/ -f prompt.txt --temp 0
  echo '[1, 15, 27]' > ids.json && qconv run model.gguf --tokens ids.json --logits out.f32

A Hugging Face folder runs in its own precision. The text goes to standard output, figures to standard error. The same
seed gives the same text, whatever the number of threads. --logits computes with f32 activations and an f32 cache.")]
pub struct Run {
    /// A GGUF file, a Hugging Face folder, or the name of a model in its cache
    model: PathBuf,

    /// The text to continue, or with --chat what the user says
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,

    /// Read the prompt from a file; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,

    /// Most tokens to generate (per answer with --chat)
    #[arg(short = 'n', long = "predict", value_name = "N", default_value_t = 128)]
    predict: usize,

    /// Positions of the context; by default as many as prompt and -n need, up to the trained context (with --chat: the
    /// trained context, up to 8192)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,

    /// Tokens of the prompt that are computed at a time: fewer take less memory; 1 computes all as generation does
    #[arg(short, long, value_name = "N", default_value_t = SessionOptions::BATCH as u32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Talk through the model's chat template; without -p or -f in turns on the terminal
    #[arg(long)]
    chat: bool,

    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Write the logits of these tokens (a JSON array of ids) instead of generating
    #[arg(long, value_name = "FILE", requires = "logits", conflicts_with_all = ["prompt", "file", "chat"])]
    tokens: Option<PathBuf>,

    /// Where to write logits: rows x vocabulary, little-endian f32; a file that exists is replaced
    #[arg(long, value_name = "FILE", requires = "tokens")]
    logits: Option<PathBuf>,

    #[command(flatten)]
    backend: BackendArgs,

    /// Print one JSON object at the end instead of streaming the text
    #[arg(long)]
    json: bool,
}

/// How to choose tokens.
#[derive(Args)]
struct SamplingArgs {
    /// Temperature; 0 always takes the best token
    #[arg(long, value_name = "T", allow_negative_numbers = true, default_value_t = Sampling::default().temperature, help_heading = "Sampling")]
    temp: f32,

    /// Only the best K tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k, help_heading = "Sampling")]
    top_k: usize,

    /// Only the best tokens that have this probability together; 1 for all
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = Sampling::default().top_p, help_heading = "Sampling")]
    top_p: f32,

    /// Only tokens with this share of the best one's probability; 0 for all
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = Sampling::default().min_p, help_heading = "Sampling")]
    min_p: f32,

    /// Divide the logits of the last 64 tokens by it; 1 for not at all
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = Sampling::default().repeat_penalty, help_heading = "Sampling")]
    repeat_penalty: f32,

    /// Random seed; by default one that is told at the end
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// Errors: numbers that mean nothing.
    fn check(&self) -> anyhow::Result<Sampling> {
        let SamplingArgs { temp, top_k, top_p, min_p, repeat_penalty, .. } = *self;
        let share = |name: &str, x: f32| match (0.0..=1.0).contains(&x) {
            true => Ok(x),
            false => Err(caller(format!("{name} {x}: must lie between 0 and 1"))),
        };
        if !(temp >= 0.0 && temp.is_finite()) {
            return Err(caller(format!("--temp {temp}: must be 0 or more")));
        }
        if !(repeat_penalty > 0.0 && repeat_penalty.is_finite()) {
            return Err(caller(format!("--repeat-penalty {repeat_penalty}: must be more than 0 (1 does nothing)")));
        }
        Ok(Sampling {
            temperature: temp,
            top_k,
            top_p: share("--top-p", top_p)?,
            min_p: share("--min-p", min_p)?,
            repeat_penalty,
            ..Sampling::default()
        })
    }
}

impl super::Run for Run {
    fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let sampling = self.sampling.check()?;
        let start = Instant::now();
        let mut warnings = Vec::new();
        let model = Model::open(&self.model, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        let exactly = self.logits.is_some() && self.backend.backend != Choice::Cuda;
        let backend = if exactly { self.backend.precise() } else { self.backend };
        backend::with(backend, &Sizes::of(&model), ui, Job { args: self, sampling, model, ui, start })
    }
}

/// The command on a backend.
struct Job<'a> {
    args: Run,
    sampling: Sampling,
    model: Model,
    ui: &'a Ui,
    start: Instant,
}

impl Task for Job<'_> {
    type Output = ();

    fn run<B: Backend>(self, backend: &B) -> anyhow::Result<()> {
        let Job { args, sampling, model, ui, start } = self;
        backend.watch_device();
        let mut warnings = Vec::new();
        let engine = Engine::load(backend, &model, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        ui.refuse_warnings()?;
        if let (Some(tokens), Some(out)) = (&args.tokens, &args.logits) {
            return logits::write(&engine, &args.model, tokens, out, args.batch_size as usize, ui);
        }
        model.require_tokenizer()?;
        let tokenizer = Tokenizer::from_metadata(model.metadata(), model.path())?;
        tokenizer.warnings().iter().for_each(|w| ui.warn(w));
        let setting = generate::Setting {
            engine: &engine,
            model: &model,
            tokenizer: &tokenizer,
            sampling,
            seed: args.sampling.seed.unwrap_or_else(Rng::any_seed),
            predict: args.predict,
            ctx: args.ctx.map(|n| n as usize),
            batch: args.batch_size as usize,
            stream: !args.json,
            loaded: start.elapsed(),
            ui,
        };
        let report = if args.chat {
            let said = if args.wants_turns() { None } else { Some(args.text()?) };
            conversation::hold(&setting, args.system.as_deref(), said)?
        } else {
            generate::text(&setting, &args.text()?)?
        };
        if args.json { report.print_json() } else { report.print(ui) }
    }
}

impl Run {
    /// A conversation on the terminal.
    fn wants_turns(&self) -> bool {
        self.prompt.is_none() && self.file.is_none() && std::io::stdin().is_terminal()
    }

    /// The prompt, from wherever it comes.
    fn text(&self) -> anyhow::Result<String> {
        let stdin = || {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("the prompt on standard input")?;
            // As with files.
            if text.ends_with('\n') {
                text.pop();
            }
            Ok(text)
        };
        match (&self.prompt, &self.file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(file)) if file.as_os_str() == "-" => stdin(),
            (None, Some(file)) => crate::eval::read_text(file),
            (None, None) if self.chat => stdin(),
            (None, None) => Err(caller("what to continue? Give -p TEXT, -f FILE (- for standard input), or --chat")),
        }
    }
}
