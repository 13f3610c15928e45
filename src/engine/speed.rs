//! How fast a model runs, measured as llama-bench does: a prompt in batches, and generation one by one, from an empty cache or
//! behind many tokens; generation also of several sequences side by side.

use super::rng::Rng;
use super::session::SessionOptions;
use super::weights::Engine;
use crate::error::caller;
use qconv_kernels::Backend;

/// Tokens per second over several repetitions.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Rate {
    /// Tokens of one repetition.
    pub tokens: usize,
    /// Tokens per second of each repetition.
    pub samples: Vec<f64>,
}

impl Rate {
    /// Mean of the repetitions.
    pub fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len().max(1) as f64
    }

    /// Standard deviation of the repetitions; 0 for a single one.
    pub fn deviation(&self) -> f64 {
        let n = self.samples.len();
        if n < 2 {
            return 0.0;
        }
        let mean = self.mean();
        (self.samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt()
    }
}

/// What [`speed`] measured.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Speed {
    /// Prompt evaluation; `None` where no prompt tokens were asked for.
    pub prompt: Option<Rate>,
    /// Generation, likewise.
    pub generation: Option<Rate>,
}

/// What [`speed`] is to measure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tests {
    /// Tokens of the prompt; 0 for no such test.
    pub prompt: usize,
    /// Tokens to generate; 0 for no such test.
    pub generate: usize,
    /// Tokens that are in the cache before either begins.
    pub depth: usize,
    /// Sequences that generate side by side, each `generate` tokens; the prompt is one sequence's.
    pub sequences: usize,
    /// Repetitions.
    pub repetitions: usize,
}

impl Tests {
    /// The sessions of the prompt and of generation.
    pub fn sessions(&self) -> [SessionOptions; 2] {
        let [prompt, generate] = [self.prompt, self.generate].map(|n| SessionOptions::new((self.depth + n).max(1)));
        let sequences = self.sequences.max(1);
        let batch = generate.batch.max(sequences);
        [prompt, SessionOptions { sequences, batch, logit_rows: sequences, ..generate }]
    }
}

/// Measures with random tokens (the seed is fixed), after one short run that is not counted. Errors are the session's, and the
/// caller's where a backend does not take so many sequences.
pub fn speed<B: Backend>(engine: &Engine<'_, B>, tests: &Tests) -> anyhow::Result<Speed> {
    let [prompt, generation] = tests.sessions();
    Ok(Speed {
        prompt: measure(engine, prompt, tests.depth, tests.prompt, prompt.batch, tests.repetitions)?,
        generation: measure(engine, generation, tests.depth, tests.generate, 1, tests.repetitions)?,
    })
}

/// `tokens` more of every sequence, `step` at a time.
fn measure<B: Backend>(
    engine: &Engine<'_, B>,
    options: SessionOptions,
    depth: usize,
    tokens: usize,
    step: usize,
    repetitions: usize,
) -> anyhow::Result<Option<Rate>> {
    if tokens == 0 {
        return Ok(None);
    }
    let mut session = engine.session(options)?;
    let sequences = options.sequences;
    if session.sequences() < sequences {
        let backend = engine.backend().name();
        let most = session.sequences();
        return Err(caller(format!(
            "--parallel {sequences}: {backend} computes at most {most} at a time; use --parallel {most}"
        )));
    }
    let mut rng = Rng::new(1);
    let vocabulary = engine.vocabulary() as u64;
    let mut random = |n: usize| -> Vec<u32> { (0..n).map(|_| (rng.next_u64() % vocabulary) as u32).collect() };
    let (before, tokens) = (random(depth * sequences), random(tokens * sequences));
    for part in before.chunks((session.step(sequences) * sequences).max(1)) {
        session.feed_each(part, sequences)?;
    }
    let mut once = |tokens: &[u32]| -> anyhow::Result<f64> {
        session.truncate(depth);
        let stopwatch = engine.backend().stopwatch()?;
        for part in tokens.chunks(step * sequences) {
            session.feed_each(part, sequences)?;
            if sequences == 1 {
                // The greedy token: as one would generate, and nothing else comes back from a card.
                std::hint::black_box(session.best_token()?);
            } else {
                std::hint::black_box(session.logits(0..sequences)?);
            }
        }
        Ok(tokens.len() as f64 / stopwatch()?)
    };
    once(&tokens[..tokens.len().min(4 * step * sequences)])?;
    let samples = (0..repetitions.max(1)).map(|_| once(&tokens)).collect::<anyhow::Result<_>>()?;
    Ok(Some(Rate { tokens: tokens.len() / sequences, samples }))
}
