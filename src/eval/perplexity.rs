//! Perplexity as llama-perplexity defines it, and a strided variant.

use super::divergence::{Divergence, PairStatistics, Pairs};
use super::recorded::{Recorded, Recorder};
use super::statistics::{Sums, log_softmax};
use crate::engine::{Engine, Session, SessionOptions};
use crate::error::caller;
use anyhow::bail;
use qconv_kernels::Backend;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

/// What to score.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Tokens of a window.
    pub ctx: usize,
    /// `None`: windows do not overlap and the second half of each is scored (llama-perplexity). Otherwise windows begin
    /// `stride` tokens apart and the last `stride` tokens of each are scored, each token thus with at least
    /// `ctx - stride` before it (a sliding window as in Hugging Face's guide to perplexity).
    pub stride: Option<usize>,
    /// Only the first windows.
    pub chunks: Option<usize>,
    /// Put in place of each window's first token, where the model's texts begin with one.
    pub bos: Option<u32>,
}

/// The result; it serializes to the command's JSON keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood of scored tokens.
    pub perplexity: f64,
    /// Its standard error.
    pub perplexity_error: f64,
    /// Scored tokens.
    pub tokens: usize,
    /// Windows.
    pub chunks: usize,
    /// Tokens of a window.
    pub ctx: usize,
    /// Distance of windows, where they overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Against an original.
    #[serde(flatten)]
    pub divergence: Option<Divergence>,
    /// Wall time of the evaluation.
    pub seconds: f64,
    /// Tokens evaluated (not only scored) per second; of both models together where there are two.
    pub tokens_per_second: f64,
}

/// One window: its tokens in the text, and which of its positions predict a scored token (the next one's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Tokens of the text.
    pub tokens: Range<usize>,
    /// Positions within the window whose logits are needed.
    pub predicting: Range<usize>,
}

/// The windows of a text of `count` tokens. Errors: impossible options; a text too short.
pub fn windows(count: usize, options: &Options) -> anyhow::Result<Vec<Window>> {
    let Options { ctx, stride, chunks, .. } = *options;
    if ctx < 4 {
        return Err(caller(format!("--ctx {ctx}: a window needs at least 4 tokens")));
    }
    if chunks == Some(0) {
        return Err(caller("--chunks 0: nothing would be scored"));
    }
    let (step, predicting) = match stride {
        None => (ctx, ctx / 2..ctx - 1),
        Some(s) if s == 0 || s >= ctx => {
            return Err(caller(format!("--stride {s}: must lie between 1 and --ctx - 1 = {}", ctx - 1)));
        }
        Some(s) => (s, ctx - 1 - s..ctx - 1),
    };
    if count < ctx {
        return Err(caller(format!(
            "the text has {count} tokens; one window needs {ctx} (use a longer text or a smaller --ctx)"
        )));
    }
    let possible = (count - ctx) / step + 1;
    let n = chunks.map_or(possible, |c| c.min(possible));
    Ok((0..n).map(|i| Window { tokens: i * step..i * step + ctx, predicting: predicting.clone() }).collect())
}

/// How windows are run: several side by side where they are short.
pub fn session_options(ctx: usize) -> SessionOptions {
    SessionOptions::new(ctx).all_logits().side_by_side()
}

/// What every prediction is compared with.
pub enum Base<'a, 'b, B: Backend> {
    /// Nothing.
    Nothing,
    /// An original that runs beside the model.
    Beside(&'a Engine<'b, B>),
    /// An original that ran before, over the same text with the same options.
    Recorded(&'a mut Recorded),
}

/// Scores a text, and compares every prediction with the original's in the same pass. `progress` is called after each
/// window with the number of windows done and the perplexity so far.
pub fn perplexity<B: Backend>(
    engine: &Engine<'_, B>,
    base: Base<'_, '_, B>,
    tokens: &[u32],
    options: &Options,
    progress: impl FnMut(usize, usize, f64),
) -> anyhow::Result<Perplexity> {
    let vocabulary = match &base {
        Base::Nothing => engine.vocabulary(),
        Base::Beside(base) => base.vocabulary(),
        Base::Recorded(recorded) => recorded.vocabulary(),
    };
    if vocabulary != engine.vocabulary() {
        return Err(caller(format!(
            "the models cannot be compared: one has {} tokens, the other {vocabulary}",
            engine.vocabulary(),
        )));
    }
    let other = match base {
        Base::Nothing => Other::Nothing,
        Base::Beside(base) => Other::Session(Box::new(base.session(session_options(options.ctx))?)),
        Base::Recorded(recorded) => Other::Recorded { recorded, row: 0, logits: Vec::new() },
    };
    run(engine, other, tokens, options, progress)
}

/// Scores a text and keeps the logits in a new file at `path`, for [`Base::Recorded`].
pub fn record<B: Backend>(
    engine: &Engine<'_, B>,
    path: &Path,
    tokens: &[u32],
    options: &Options,
    progress: impl FnMut(usize, usize, f64),
) -> anyhow::Result<(Perplexity, Recorded)> {
    let mut recorder = Recorder::create(path, engine.vocabulary())?;
    let result = run(engine, Other::Recorder(&mut recorder), tokens, options, progress)?;
    Ok((result, recorder.finish()?))
}

fn run<B: Backend>(
    engine: &Engine<'_, B>,
    mut other: Other<'_, '_, B>,
    tokens: &[u32],
    options: &Options,
    mut progress: impl FnMut(usize, usize, f64),
) -> anyhow::Result<Perplexity> {
    let windows = windows(tokens.len(), options)?;
    if let Other::Recorded { recorded, .. } = &other {
        let rows: usize = windows.iter().map(|w| w.predicting.len()).sum();
        anyhow::ensure!(recorded.rows() == rows, "the record of the original is of another text (a fault of qconv)");
    }
    let start = Instant::now();
    let mut model = engine.session(session_options(options.ctx))?;
    let mut scores = Scores::default();
    let mut done = 0;
    for group in windows.chunks(model.sequences()) {
        let texts = group.iter().map(|window| {
            let mut text = tokens[window.tokens.clone()].to_vec();
            text[0] = options.bos.unwrap_or(text[0]);
            text
        });
        // All windows of a text are alike.
        score(&mut model, &mut other, &texts.collect::<Vec<_>>(), &group[0].predicting, &mut scores)?;
        done += group.len();
        progress(done, windows.len(), scores.nll.exp().value);
    }
    let seconds = start.elapsed().as_secs_f64();
    let models = if matches!(other, Other::Session(_)) { 2 } else { 1 };
    let result = scores.nll.exp();
    Ok(Perplexity {
        perplexity: result.value,
        perplexity_error: result.error,
        tokens: scores.nll.count,
        chunks: windows.len(),
        ctx: options.ctx,
        stride: options.stride,
        divergence: other.compares().then(|| scores.pairs.finish()),
        seconds,
        tokens_per_second: (windows.len() * options.ctx * models) as f64 / seconds,
    })
}

/// What happens beside the model.
enum Other<'a, 'e, B: Backend> {
    Nothing,
    Session(Box<Session<'e, B>>),
    Recorded { recorded: &'a mut Recorded, row: usize, logits: Vec<f32> },
    Recorder(&'a mut Recorder),
}

impl<B: Backend> Other<'_, '_, B> {
    fn compares(&self) -> bool {
        matches!(self, Other::Session(_) | Other::Recorded { .. })
    }

    fn begin(&mut self) {
        if let Other::Session(session) = self {
            session.truncate(0);
        }
    }

    fn feed(&mut self, batch: &[u32], sequences: usize) -> anyhow::Result<()> {
        match self {
            Other::Session(session) => session.feed_each(batch, sequences),
            _ => Ok(()),
        }
    }

    /// The original's logits of some rows of the latest batch, whose logits are `model`.
    fn logits(&mut self, rows: &[usize], model: &[f32]) -> anyhow::Result<Option<&[f32]>> {
        match self {
            Other::Nothing => Ok(None),
            Other::Session(session) => session.logits_of(rows).map(Some),
            Other::Recorder(recorder) => recorder.add(model).map(|()| None),
            Other::Recorded { recorded, row, logits } => {
                logits.resize(model.len(), 0.0);
                recorded.read(*row, logits)?;
                *row += rows.len();
                Ok(Some(logits))
            }
        }
    }
}

#[derive(Default)]
struct Scores {
    nll: Sums,
    pairs: Pairs,
    row: Vec<f64>,
    pair: Vec<PairStatistics>,
}

/// What to do about it.
const VERIFY: &str = "`qconv verify` may tell why";

/// Some windows side by side, batch by batch; each batch's logits in slices. Scores come sequence by sequence, so that sums do
/// not depend on how many are computed together, as long as a window is no longer than a batch.
fn score<B: Backend>(
    model: &mut Session<'_, B>,
    original: &mut Other<'_, '_, B>,
    texts: &[Vec<u32>],
    predicting: &Range<usize>,
    scores: &mut Scores,
) -> anyhow::Result<()> {
    model.truncate(0);
    original.begin();
    let (ctx, step) = (texts[0].len(), model.step(texts.len()));
    let (mut batch, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for at in (0..ctx).step_by(step) {
        let end = ctx.min(at + step);
        batch.clear();
        texts.iter().for_each(|text| batch.extend_from_slice(&text[at..end]));
        model.feed_each(&batch, texts.len())?;
        original.feed(&batch, texts.len())?;
        rows.clear();
        targets.clear();
        for (i, text) in texts.iter().enumerate() {
            let predicting = predicting.start.max(at)..predicting.end.min(end);
            rows.extend(predicting.clone().map(|position| i * (end - at) + position - at));
            targets.extend(predicting.map(|position| text[position + 1]));
        }
        // Equal slices: a few rows that were left over would be multiplied by other kernels, which may round differently.
        let slice = rows.len().div_ceil(rows.len().div_ceil(model.logit_rows()).max(1)).max(1);
        for (rows, targets) in rows.chunks(slice).zip(targets.chunks(slice)) {
            let logits = model.logits_of(rows)?;
            let vocabulary = logits.len() / rows.len();
            // Rows in parallel, sums in order: results do not depend on the number of threads.
            let base = original.logits(rows, logits)?;
            let compared = base.is_some();
            match base {
                None => {
                    let nll = logits.par_chunks_exact(vocabulary).zip(targets);
                    nll.map(|(row, &t)| -log_softmax(row, t as usize)).collect_into_vec(&mut scores.row);
                }
                Some(base) => {
                    let base = base.par_chunks_exact(vocabulary);
                    let pairs = logits.par_chunks_exact(vocabulary).zip(base).zip(targets);
                    pairs.map(|((a, b), &t)| PairStatistics::new(a, b, t as usize)).collect_into_vec(&mut scores.pair);
                    scores.pair.iter().for_each(|p| scores.pairs.add(p));
                    scores.row.clear();
                    scores.row.extend(scores.pair.iter().map(|p| p.nll));
                }
            }
            let broken = |x: &f64| !x.is_finite();
            if let Some(i) = scores.row.iter().position(broken) {
                let position = at + rows[i] % (end - at);
                bail!("the model gives no probability (NaN or infinite) at position {position}; {VERIFY}");
            }
            if compared && scores.pair.iter().any(|p| broken(&p.base_nll)) {
                bail!("the original gives no probability (NaN or infinite); {VERIFY}");
            }
            scores.row.iter().for_each(|&x| scores.nll.add(x));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Options = Options { ctx: 8, stride: None, chunks: None, bos: None };

    #[test]
    fn second_halves_are_scored() {
        let all = windows(20, &PLAIN).unwrap();
        // Positions 4, 5, 6 predict tokens 5, 6, 7.
        assert_eq!(all[1], Window { tokens: 8..16, predicting: 4..7 });
        assert_eq!(all.len(), 2);
        assert_eq!(windows(20, &Options { chunks: Some(1), ..PLAIN }).unwrap().len(), 1);
    }

    #[test]
    fn strided_windows_score_each_token_once() {
        let all = windows(20, &Options { stride: Some(3), ..PLAIN }).unwrap();
        let scored: Vec<usize> =
            all.iter().flat_map(|w| w.predicting.clone().map(|p| w.tokens.start + p + 1)).collect();
        assert_eq!(scored, (5..20).collect::<Vec<_>>());
    }

    #[test]
    fn impossible_options_say_what_is_possible() {
        let short = windows(7, &PLAIN).unwrap_err().to_string();
        assert!(short.contains("7 tokens") && short.contains("needs 8"), "{short}");
        assert!(windows(20, &Options { stride: Some(8), ..PLAIN }).is_err());
        assert!(windows(20, &Options { stride: Some(0), ..PLAIN }).is_err());
        assert!(windows(20, &Options { ctx: 3, ..PLAIN }).is_err());
        assert!(windows(20, &Options { chunks: Some(0), ..PLAIN }).is_err());
    }
}
