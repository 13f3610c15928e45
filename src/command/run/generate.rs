//! The token loop.

use super::report::{Report, Stop, Tally};
use crate::card::Card;
use crate::engine::{Engine, Sampler, Sampling, Session, SessionOptions, memory};
use crate::error::caller;
use crate::model::Model;
use crate::tokenizer::{StreamDecoder, Tokenizer};
use crate::ui::Ui;
use anyhow::bail;
use qconv_kernels::Backend;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What stays the same during a run.
pub struct Setting<'a, B: Backend> {
    pub engine: &'a Engine<'a, B>,
    pub model: &'a Model,
    pub tokenizer: &'a Tokenizer,
    pub sampling: Sampling,
    pub seed: u64,
    pub predict: usize,
    pub ctx: Option<usize>,
    pub batch: usize,
    pub stream: bool,
    pub loaded: Duration,
    pub ui: &'a Ui,
}

/// One generated text.
pub struct Generated {
    pub text: String,
    pub tokens: Vec<u32>,
    pub stop: Stop,
    pub first_token: Option<Duration>,
    pub prompt: Tally,
    pub generation: Tally,
}

/// Set by Ctrl-C; the token loop looks at it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C ends generation and not the process; a second one, before the first had effect, ends that too.
pub fn watch_interrupts() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    Ok(())
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Goes on after Ctrl-C; true if it had been pressed.
pub fn forgive_interrupt() -> bool {
    INTERRUPTED.swap(false, Ordering::Relaxed)
}

/// Continues a prompt.
pub fn text<B: Backend>(setting: &Setting<'_, B>, prompt: &str) -> anyhow::Result<Report> {
    let tokens = crate::eval::tokens(setting.tokenizer, prompt);
    if tokens.is_empty() {
        return Err(caller("the prompt is empty, and the model has no token to begin a text with; give -p TEXT"));
    }
    let trained = setting.engine.plan().context;
    let needed = tokens.len().saturating_add(setting.predict);
    let mut session = setting.session(setting.ctx.unwrap_or(needed.min(trained.max(tokens.len() + 1))))?;
    watch_interrupts()?;
    let mut sampler = Sampler::new(setting.sampling, setting.seed);
    let generated = setting.generate(&mut session, &mut sampler, &tokens)?;
    Ok(setting.report(generated, session.positions()))
}

impl<B: Backend> Setting<'_, B> {
    /// A session of so many positions; tells what memory it takes, and warns beyond the trained context.
    pub fn session(&self, positions: usize) -> anyhow::Result<Session<'_, B>> {
        let trained = self.engine.plan().context;
        if positions > trained {
            self.ui.warn(format!("the model was trained on {trained} positions; a context of {positions} goes beyond"));
            self.ui.refuse_warnings()?;
        }
        let options = SessionOptions { batch: self.batch, ..SessionOptions::new(positions) };
        self.ui.note(self.engine.memory(options)?.to_string());
        let mut session = self.engine.session(options)?;
        session.stop_when(&INTERRUPTED);
        Ok(session)
    }

    /// Feeds `prompt` and generates until something stops it. Text is streamed as it comes.
    pub fn generate(
        &self,
        session: &mut Session<'_, B>,
        sampler: &mut Sampler,
        prompt: &[u32],
    ) -> anyhow::Result<Generated> {
        let start = Instant::now();
        // By the device's clock: the last batch is not done when `feed` returns.
        let stopwatch = self.engine.backend().stopwatch()?;
        let mut fed = 0;
        for batch in prompt.chunks(session.batch()).take_while(|_| !interrupted()) {
            let before = session.length();
            session.feed(batch)?;
            fed += session.length() - before;
        }
        let prompt_time = Duration::from_secs_f64(stopwatch()?);
        prompt.iter().for_each(|&t| sampler.accept(t));
        let mut out = Generated {
            text: String::new(),
            tokens: Vec::with_capacity(self.predict.min(session.room() + 1)),
            stop: Stop::Length,
            first_token: None,
            prompt: Tally { tokens: fed, time: prompt_time },
            generation: Tally::default(),
        };
        let mut decoder = StreamDecoder::new();
        let mut first = None;
        while out.tokens.len() < self.predict {
            if interrupted() {
                out.stop = Stop::Interrupted;
                break;
            }
            if let Some(&last) = out.tokens.last() {
                if session.room() == 0 {
                    out.stop = Stop::Context;
                    break;
                }
                session.feed(&[last])?;
                if interrupted() {
                    out.stop = Stop::Interrupted;
                    break;
                }
            }
            let next = if sampler.is_greedy() { session.best_token()? } else { sampler.sample(session.last_logits()?) };
            let Some(token) = next else {
                bail!(
                    "the model's logits are not finite at position {}; `qconv verify` may tell why",
                    session.length()
                );
            };
            if first.is_none() {
                first = Some(Instant::now());
                out.first_token = Some(start.elapsed());
            }
            if self.tokenizer.is_end(token) {
                out.stop = Stop::End;
                break;
            }
            sampler.accept(token);
            out.tokens.push(token);
            let piece = self.tokenizer.piece(token).unwrap_or_default();
            if !self.say(&decoder.push(piece), &mut out.text)? {
                out.stop = Stop::Interrupted;
                break;
            }
        }
        self.say(&decoder.finish(), &mut out.text)?;
        self.end_line();
        if let Some(first) = first {
            // The first token came with the prompt.
            let tokens = out.tokens.len().saturating_sub(usize::from(out.stop != Stop::End));
            out.generation = Tally { tokens, time: first.elapsed() };
        }
        Ok(out)
    }

    /// Shows and keeps a piece of text; false if nobody reads it any more.
    fn say(&self, piece: &str, text: &mut String) -> anyhow::Result<bool> {
        text.push_str(piece);
        if !self.stream || piece.is_empty() {
            return Ok(true);
        }
        let mut out = std::io::stdout();
        match out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Ends a streamed text's last line.
    fn end_line(&self) {
        if self.stream {
            // Nobody may be reading; then nothing is lost.
            let _ = std::io::stdout().write_all(b"\n");
        }
    }

    /// The figures of one generated text.
    pub fn report(&self, generated: Generated, context: usize) -> Report {
        Report {
            model: self.model.path().display().to_string(),
            backend: self.engine.backend().name(),
            seed: self.seed,
            stopped: generated.stop,
            model_bytes: self.engine.weight_bytes(),
            context,
            load_seconds: self.loaded.as_secs_f64(),
            time_to_first_token_seconds: generated.first_token.map(|t| t.as_secs_f64()),
            prompt_tokens: generated.prompt.tokens,
            prompt_tokens_per_second: generated.prompt.rate(),
            generated_tokens: generated.tokens.len(),
            generation_tokens_per_second: generated.generation.rate(),
            peak_memory_bytes: memory::peak(),
            card: Card::of(self.engine.backend()),
            text: generated.text,
            tokens: generated.tokens,
        }
    }
}
