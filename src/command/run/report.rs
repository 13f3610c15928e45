//! The figures at the end of a run.

use crate::card::Card;
use crate::ui::{Ui, bytes};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// The model ended its text.
    End,
    /// `-n` tokens.
    Length,
    /// No position left.
    Context,
    /// Ctrl-C, or nobody reads the output any more.
    Interrupted,
}

impl Stop {
    fn phrase(self) -> &'static str {
        match self {
            Stop::End => "the model ended its text",
            Stop::Length => "-n reached",
            Stop::Context => "the context is full (see --ctx)",
            Stop::Interrupted => "interrupted",
        }
    }
}

/// Tokens and the time that they took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub tokens: usize,
    pub time: Duration,
}

impl Tally {
    /// Tokens per second; `None` before anything was measured.
    pub fn rate(&self) -> Option<f64> {
        (self.tokens > 0 && !self.time.is_zero()).then(|| self.tokens as f64 / self.time.as_secs_f64())
    }

    pub fn add(&mut self, other: Tally) {
        self.tokens += other.tokens;
        self.time += other.time;
    }
}

/// Everything that a run has to tell.
#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub backend: String,
    pub seed: u64,
    pub text: String,
    pub tokens: Vec<u32>,
    pub stopped: Stop,
    pub model_bytes: u64,
    pub context: usize,
    pub load_seconds: f64,
    pub time_to_first_token_seconds: Option<f64>,
    pub prompt_tokens: usize,
    pub prompt_tokens_per_second: Option<f64>,
    pub generated_tokens: usize,
    pub generation_tokens_per_second: Option<f64>,
    pub peak_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
}

impl Report {
    /// One JSON object on standard output.
    pub fn print_json(&self) -> anyhow::Result<()> {
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(self)?)?;
        Ok(())
    }

    /// Lines on standard error.
    pub fn print(&self, ui: &Ui) -> anyhow::Result<()> {
        let rate = |r: Option<f64>| r.map_or("-".into(), |r| format!("{r:.1} tokens/s"));
        let first = self.time_to_first_token_seconds.map_or("-".into(), |s| format!("{:.1} ms", s * 1e3));
        ui.note(format!("stopped     {} (seed {})", self.stopped.phrase(), self.seed));
        ui.note(format!("model       {}, loaded in {:.1} ms", bytes(self.model_bytes), self.load_seconds * 1e3));
        ui.note(format!("first token {first}"));
        ui.note(format!("prompt      {} tokens, {}", self.prompt_tokens, rate(self.prompt_tokens_per_second)));
        ui.note(format!("generation  {} tokens, {}", self.generated_tokens, rate(self.generation_tokens_per_second)));
        let peak = self.peak_memory_bytes.map_or("not told by this system".into(), bytes);
        ui.note(format!("peak memory {peak}"));
        if let Some(card) = &self.card {
            ui.note(format!("card        {card}"));
        }
        ui.note(format!("backend     {}", self.backend));
        Ok(())
    }
}
