//! A sequence, or several of the same length: their caches, scratch memory, and the calls that feed tokens and give logits.

use super::forward::{self, Scratch};
use super::memory::{MemoryPlan, cache_bytes};
use super::observe::{Observer, Watch};
use super::rope::Ropes;
use super::weights::Engine;
use crate::error::caller;
use anyhow::Context;
use qconv_kernels::{Backend, CacheShape};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// How large a session is.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// Positions that the cache of a sequence holds.
    pub positions: usize,
    /// Tokens that are computed together at most (bounded by the positions of all sequences, and by what the backend takes).
    pub batch: usize,
    /// Sequences that can be fed together, each with a cache of its own (bounded by `batch`; 1 on a backend that takes one
    /// at a time).
    pub sequences: usize,
    /// Rows of logits that can be asked for at once (bounded by `batch` and by 32 MiB, but at least 1).
    pub logit_rows: usize,
}

impl SessionOptions {
    /// Tokens of a batch unless something else is asked for.
    pub const BATCH: usize = 512;

    /// For generation: `positions` in batches of [`SessionOptions::BATCH`], logits of one row.
    pub fn new(positions: usize) -> Self {
        SessionOptions { positions, batch: Self::BATCH, sequences: 1, logit_rows: 1 }
    }

    /// As many whole sequences at a time as a batch holds. (Larger batches were tried for evaluation: 1024 and 2048 tokens
    /// took as much processor time as 512, for two and four times the memory.)
    pub fn side_by_side(self) -> Self {
        SessionOptions { sequences: (self.batch / self.positions.max(1)).max(1), ..self }
    }

    /// For evaluation: logits of many rows at once.
    pub fn all_logits(self) -> Self {
        SessionOptions { logit_rows: usize::MAX, ..self }
    }
}

/// Bytes of logits that are computed at once at most.
const LOGIT_BYTES: usize = 32 << 20;

/// One sequence on an [`Engine`], or several in step. After it was made, neither feeding tokens nor reading logits allocates
/// on this side of the backend.
pub struct Session<'e, B: Backend> {
    engine: &'e Engine<'e, B>,
    caches: Vec<B::Cache>, // of each sequence
    scratch: Scratch<B>,
    ropes: Option<Ropes>,
    positions: usize,
    batch: usize,
    fed: usize,    // sequences that were fed since the beginning
    length: usize, // of each of them
    rows: usize,
    logit_rows: usize,
    logits: Vec<f32>,       // (logit_rows, vocabulary)
    one_each: B::Recording, // a token of each sequence that was fed
    one_row: B::Recording,
    one_best: B::Recording,
    stop: Option<&'e AtomicBool>,
}

impl<'b, B: Backend> Engine<'b, B> {
    /// Sequences of up to `options.positions` tokens. Errors: the backend has not that much memory, or the model has
    /// fewer learned positions.
    pub fn session(&self, options: SessionOptions) -> anyhow::Result<Session<'_, B>> {
        let Sizes { shape, sequences, batch, logit_rows } = self.sizes(options)?;
        let cache = |_| self.backend.cache(shape).context("--ctx is too large for this machine");
        let caches = (0..sequences).map(cache).collect::<anyhow::Result<_>>()?;
        let scratch = Scratch::new(self, batch, logit_rows)?;
        Ok(Session {
            engine: self,
            caches,
            scratch,
            ropes: Ropes::new(&self.plan, &self.rope_factors, shape.positions),
            positions: shape.positions,
            batch,
            fed: 1,
            length: 0,
            rows: 0,
            logit_rows,
            logits: vec![0.0; logit_rows * self.vocabulary],
            one_each: B::Recording::default(),
            one_row: B::Recording::default(),
            one_best: B::Recording::default(),
            stop: None,
        })
    }

    /// What [`Engine::session`] will need.
    pub fn memory(&self, options: SessionOptions) -> anyhow::Result<MemoryPlan> {
        let Sizes { shape, sequences, batch, logit_rows } = self.sizes(options)?;
        let floats = Scratch::<B>::floats(self, batch, logit_rows) + logit_rows * self.vocabulary;
        let cache = self.cache_bytes(&shape, sequences)?;
        Ok(MemoryPlan { weights: self.weight_bytes, cache, scratch: 4 * floats as u64 })
    }

    fn sizes(&self, options: SessionOptions) -> anyhow::Result<Sizes> {
        if options.positions == 0 || options.batch == 0 {
            return Err(caller("a context needs at least one position"));
        }
        if let Some(learned) = self.learned_positions
            && options.positions > learned
        {
            return Err(caller(format!(
                "the model has learned {learned} positions and cannot go on to {}; use --ctx {learned} or less",
                options.positions
            )));
        }
        let shape = CacheShape {
            layers: self.plan.layers,
            positions: options.positions,
            kv_heads: self.plan.kv_heads,
            key_width: self.plan.kv_heads * self.plan.key_dim,
            value_width: self.plan.kv_heads * self.plan.value_dim,
        };
        let batch = options.batch.min(self.backend.most_rows(Scratch::widest(self))).max(1);
        let most = if self.backend.takes_several() { batch } else { 1 };
        let sequences = options.sequences.clamp(1, most);
        self.cache_bytes(&shape, sequences)?;
        let batch = batch.min(options.positions.saturating_mul(sequences));
        let logit_rows = (LOGIT_BYTES / 4 / self.vocabulary).min(options.logit_rows).clamp(1, batch);
        Ok(Sizes { shape, sequences, batch, logit_rows })
    }

    fn cache_bytes(&self, shape: &CacheShape, sequences: usize) -> anyhow::Result<u64> {
        let whole = shape.positions.checked_next_multiple_of(self.backend.cache_block());
        whole
            .and_then(|positions| {
                cache_bytes(&CacheShape { positions, ..*shape }, |dim| self.backend.cache_head_bytes(dim))
            })
            .and_then(|bytes| bytes.checked_mul(sequences as u64))
            .filter(|&n| n <= isize::MAX as u64)
            .ok_or_else(|| caller(format!("a context of {} positions is beyond all memory", shape.positions)))
    }
}

/// What follows from [`SessionOptions`] for a model and a backend.
struct Sizes {
    shape: CacheShape,
    sequences: usize,
    batch: usize,
    logit_rows: usize,
}

impl<'e, B: Backend> Session<'e, B> {
    /// From now on [`Session::feed`] gives up, between two layers, when `stop` is set: the batch begun counts as not fed,
    /// and there are no logits.
    pub fn stop_when(&mut self, stop: &'e AtomicBool) {
        self.stop = Some(stop);
    }

    /// Continues the sequence. All but the last `batch` tokens of a long list can give no logits afterwards.
    /// Errors: an id outside the vocabulary, no room left; both before anything is computed.
    pub fn feed(&mut self, tokens: &[u32]) -> anyhow::Result<()> {
        self.check(tokens, 1)?;
        tokens.chunks(self.batch).try_for_each(|batch| self.run(batch, 1, &mut Watch::nobody()))
    }

    /// Continues the first `sequences` sequences, each by as many tokens: `tokens` are those of the first, then those of the
    /// second, ... Rows of logits come in the same order. Errors as [`Session::feed`].
    ///
    /// # Panics
    /// If the tokens are more than a batch or no equal parts, the sequences more than [`Session::sequences`], or other ones
    /// than were fed since the beginning; all are the program's own numbers.
    pub fn feed_each(&mut self, tokens: &[u32], sequences: usize) -> anyhow::Result<()> {
        self.check(tokens, sequences)?;
        self.run(tokens, sequences, &mut Watch::nobody())
    }

    /// As [`Session::feed_each`], or with one sequence as [`Session::feed`], and shows the inputs of all linears to
    /// `observer`, layer after layer, batch after batch. With `output` also those of the output matrix, of every token.
    pub fn feed_observed(
        &mut self,
        tokens: &[u32],
        sequences: usize,
        observer: &mut dyn Observer,
        output: bool,
    ) -> anyhow::Result<()> {
        self.check(tokens, sequences)?;
        let mut watch = Watch::by(observer);
        let step = if sequences == 1 { self.batch } else { tokens.len().max(1) };
        for batch in tokens.chunks(step) {
            self.run(batch, sequences, &mut watch)?;
            if output {
                forward::show_output(self.engine, &mut self.scratch, batch.len(), &mut watch)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, batch: &[u32], sequences: usize, watch: &mut Watch<'_>) -> anyhow::Result<()> {
        assert!(batch.len() <= self.batch, "at most a batch of {} tokens", self.batch);
        assert!(self.length == 0 || self.fed == sequences, "the same sequences as at the beginning");
        let Session { engine, scratch, caches, ropes, length, stop, one_each, fed, .. } = self;
        if *fed != sequences {
            *one_each = B::Recording::default();
        }
        let caches = &mut caches[..sequences];
        let stop = || stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        self.rows = 0;
        let done = if batch.len() == sequences && engine.repeats(sequences) && !watch.somebody() {
            // Over within milliseconds: whoever wants to stop can wait for it.
            let mut step = || {
                let never = || false;
                forward::batch(engine, scratch, caches, ropes.as_ref(), batch, *length, watch, &never).map(drop)
            };
            engine.backend.repeat(one_each, Some((batch, *length)), &mut step)?;
            !stop()
        } else {
            forward::batch(engine, scratch, caches, ropes.as_ref(), batch, *length, watch, &stop)?
        };
        if done {
            self.fed = sequences;
            self.length += batch.len() / sequences;
            self.rows = batch.len();
        }
        Ok(())
    }

    fn check(&self, tokens: &[u32], sequences: usize) -> anyhow::Result<()> {
        assert!((1..=self.caches.len()).contains(&sequences), "at most {} sequences", self.caches.len());
        assert!(tokens.len().is_multiple_of(sequences), "every sequence is continued by as many tokens");
        let each = tokens.len() / sequences;
        let vocabulary = self.engine.vocabulary;
        if let Some(at) = tokens.iter().position(|&t| t as usize >= vocabulary) {
            return Err(caller(format!(
                "token {} at index {at} is not in the vocabulary of {vocabulary} tokens",
                tokens[at]
            )));
        }
        if each > self.room() {
            return Err(caller(format!(
                "{each} more tokens do not fit behind {} in a context of {} positions; use a larger --ctx or a shorter text",
                self.length, self.positions
            )));
        }
        Ok(())
    }

    /// Logits of rows of the latest batch: `(rows.len(), vocabulary)`. At most [`Session::logit_rows`] at once.
    ///
    /// # Panics
    /// If the rows are not in the latest batch or too many; both are the program's own numbers.
    pub fn logits(&mut self, rows: Range<usize>) -> anyhow::Result<&[f32]> {
        assert!(rows.end <= self.rows && rows.len() <= self.logit_rows, "rows of the latest batch, few enough");
        let out = &mut self.logits[..rows.len() * self.engine.vocabulary];
        let Session { engine, scratch, one_row, .. } = self;
        match rows {
            // Behind a single token, or the first of several: the same work every time.
            Range { start: 0, end: 1 } => {
                let mut step = || forward::logits(engine, scratch, 0..1);
                engine.backend.repeat(one_row, None, &mut step)?;
            }
            rows => forward::logits(engine, scratch, rows)?,
        }
        self.engine.backend.read(&self.scratch.logits, out)?;
        Ok(out)
    }

    /// Logits of some rows of the latest batch, as [`Session::logits`].
    ///
    /// # Panics
    /// As there.
    pub fn logits_of(&mut self, rows: &[usize]) -> anyhow::Result<&[f32]> {
        let inside = rows.iter().all(|&row| row < self.rows);
        assert!(inside && rows.len() <= self.logit_rows, "rows of the latest batch, few enough");
        let out = &mut self.logits[..rows.len() * self.engine.vocabulary];
        forward::logits(self.engine, &mut self.scratch, rows.iter().copied())?;
        self.engine.backend.read(&self.scratch.logits, out)?;
        Ok(out)
    }

    /// Logits behind the last token (of the last sequence).
    ///
    /// # Panics
    /// If nothing was fed since the session was made or truncated.
    pub fn last_logits(&mut self) -> anyhow::Result<&[f32]> {
        assert!(self.rows > 0, "tokens were fed");
        self.logits(self.rows - 1..self.rows)
    }

    /// The token with the largest logit behind the last token, the first of equals: what a greedy [`super::Sampler`] takes, found
    /// where the logits are. `None` if the logits hold NaN or nothing finite.
    ///
    /// # Panics
    /// If nothing was fed since the session was made or truncated.
    pub fn best_token(&mut self) -> anyhow::Result<Option<u32>> {
        assert!(self.rows > 0, "tokens were fed");
        let Session { engine, scratch, one_best, .. } = self;
        match self.rows {
            1 => {
                let mut step = || forward::best(engine, scratch, 0);
                engine.backend.repeat(one_best, None, &mut step)?;
            }
            rows => forward::best(engine, scratch, rows - 1)?,
        }
        let mut place = [f32::NAN];
        self.engine.backend.read(&self.scratch.best, &mut place)?;
        Ok((!place[0].is_nan()).then_some(place[0] as u32))
    }

    /// Forgets all tokens behind the first `length`; logits need a new [`Session::feed`].
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.rows = 0;
    }

    /// Tokens so far, of each sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Sequences that can be fed together.
    pub fn sequences(&self) -> usize {
        self.caches.len()
    }

    /// Positions that the cache of a sequence holds.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.positions - self.length
    }

    /// Tokens that are computed together.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens by which each of some sequences can be continued together.
    pub fn step(&self, sequences: usize) -> usize {
        self.batch / sequences.max(1)
    }

    /// Rows of logits that can be asked for at once.
    pub fn logit_rows(&self) -> usize {
        self.logit_rows
    }
}
