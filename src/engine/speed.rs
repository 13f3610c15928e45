//! How fast a model runs, measured as llama-bench does: a prompt in batches from an empty cache, and generation one by
//! one from an empty cache.

use super::rng::Rng;
use super::session::{Session, SessionOptions};
use super::weights::Engine;
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

/// Measures with random tokens (the seed is fixed), after one short run that is not counted. Errors are the session's.
pub fn speed<B: Backend>(
    engine: &Engine<'_, B>,
    prompt_tokens: usize,
    gen_tokens: usize,
    repetitions: usize,
) -> anyhow::Result<Speed> {
    let mut session = engine.session(SessionOptions::new(prompt_tokens.max(gen_tokens).max(1)))?;
    let mut rng = Rng::new(1);
    let vocabulary = engine.vocabulary() as u64;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|_| (rng.next_u64() % vocabulary) as u32).collect();
    let generated: Vec<u32> = (0..gen_tokens).map(|_| (rng.next_u64() % vocabulary) as u32).collect();

    fn measure<B: Backend>(
        engine: &Engine<'_, B>,
        session: &mut Session<'_, B>,
        tokens: &[u32],
        step: usize,
        repetitions: usize,
    ) -> anyhow::Result<Option<Rate>> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let mut once = |tokens: &[u32]| -> anyhow::Result<f64> {
            session.truncate(0);
            let stopwatch = engine.backend().stopwatch()?;
            for part in tokens.chunks(step) {
                session.feed(part)?;
                // The greedy token: as one would generate, and nothing else comes back from a card.
                std::hint::black_box(session.best_token()?);
            }
            Ok(tokens.len() as f64 / stopwatch()?)
        };
        once(&tokens[..tokens.len().min(4 * step)])?;
        let samples = (0..repetitions.max(1)).map(|_| once(tokens)).collect::<anyhow::Result<_>>()?;
        Ok(Some(Rate { tokens: tokens.len(), samples }))
    }

    let batch = session.batch();
    Ok(Speed {
        prompt: measure(engine, &mut session, &prompt, batch, repetitions)?,
        generation: measure(engine, &mut session, &generated, 1, repetitions)?,
    })
}
