//! Calibration: a text runs through the model, and an observer sees what goes into every linear.
//!
//! Windows are llama-imatrix's: the text is tokenized once, cut into chunks of `ctx` tokens, what is left over at the end is
//! not used, and the first token of each chunk is replaced by BOS where the model's texts begin with one.

mod channels;
mod collect;
mod damage;
mod hessian;
mod passage;
mod statistics;
mod text;

pub use channels::{ChannelSums, Receive, Wanted, channel_sums};
pub use collect::Collector;
pub use damage::not_finite;
pub use hessian::Hessian;
pub use passage::{Follower, Passage};
pub use statistics::{TensorStatistics, statistics};
pub use text::{Activations, Calibration, Collected, Request, collect};

use crate::engine::{Engine, Observer, SessionOptions};
use crate::error::caller;
use crate::ui::Ui;
use qconv_formats::imatrix::Imatrix;
use qconv_kernels::Backend;
use std::ops::Range;
use std::path::Path;

/// An importance matrix from its file; what in it is none is told. Errors: the file's.
pub fn open(path: &Path, ui: &Ui) -> anyhow::Result<Imatrix> {
    let matrix = Imatrix::open(path)?;
    if let Some(first) = matrix.ignored.first() {
        let n = matrix.ignored.len();
        ui.warn(format!(
            "{}: {n} of its tensors are neither sums nor counts and are not used: {first} ...",
            path.display()
        ));
    }
    Ok(matrix)
}

/// Which part of a text is used.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Tokens of a chunk.
    pub ctx: usize,
    /// Chunks at the beginning that are passed over.
    pub skip: usize,
    /// At most so many chunks.
    pub chunks: Option<usize>,
    /// What the caller's flags for these begin with, for errors: `--`, `--calibration-`.
    pub flags: &'static str,
}

impl Options {
    /// The chunks of a text of `count` tokens. Errors, the caller's: a text too short, nothing to do.
    pub fn chunks(&self, count: usize) -> anyhow::Result<Vec<Range<usize>>> {
        let Options { ctx, skip, chunks, flags } = *self;
        if ctx == 0 || chunks == Some(0) {
            return Err(caller(format!("{flags}ctx and {flags}chunks must be 1 or more: nothing would be seen")));
        }
        let there = count / ctx;
        if there <= skip {
            let need = if skip > 0 { format!(" behind the first {skip}") } else { String::new() };
            return Err(caller(format!(
                "the text has {count} tokens, too few for a chunk of {ctx}{need}; use a longer text or a smaller {flags}ctx"
            )));
        }
        let end = chunks.map_or(there, |n| there.min(skip.saturating_add(n)));
        Ok((skip..end).map(|i| i * ctx..(i + 1) * ctx).collect())
    }
}

/// How chunks are run: several side by side where they are short.
pub fn session_options(ctx: usize) -> SessionOptions {
    SessionOptions::new(ctx).side_by_side()
}

/// Runs the chunks of a text. `progress` is told how many are done.
pub fn run<B: Backend>(
    engine: &Engine<'_, B>,
    calibration: &Calibration,
    observer: &mut dyn Observer,
    output: bool,
    mut progress: impl FnMut(usize),
) -> anyhow::Result<()> {
    let mut session = engine.session(session_options(calibration.ctx))?;
    let (mut tokens, mut done) = (Vec::with_capacity(session.batch()), 0);
    for chunks in calibration.chunks.chunks(session.sequences()) {
        session.truncate(0);
        let step = session.step(chunks.len());
        for start in (0..calibration.ctx).step_by(step) {
            let end = calibration.ctx.min(start + step);
            tokens.clear();
            chunks.iter().for_each(|chunk| tokens.extend_from_slice(&chunk[start..end]));
            session.feed_observed(&tokens, chunks.len(), observer, output)?;
        }
        done += chunks.len();
        progress(done);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole() {
        let plain = Options { ctx: 8, skip: 0, chunks: None, flags: "--some-" };
        assert_eq!(plain.chunks(23).unwrap(), [0..8, 8..16]);
        assert_eq!(Options { skip: 1, ..plain }.chunks(23).unwrap(), std::slice::from_ref(&(8..16)));
        assert_eq!(Options { chunks: Some(1), ..plain }.chunks(24).unwrap(), std::slice::from_ref(&(0..8)));
        assert_eq!(Options { skip: 1, chunks: Some(usize::MAX), ..plain }.chunks(24).unwrap().len(), 2);
        for (options, count, word) in [
            (plain, 7, "7 tokens"),
            (Options { skip: 2, ..plain }, 23, "behind the first 2"),
            (Options { ctx: 0, ..plain }, 23, "--some-ctx and"),
            (Options { chunks: Some(0), ..plain }, 23, "--some-chunks"),
        ] {
            let e = options.chunks(count).unwrap_err();
            assert!(e.to_string().contains(word), "{e}");
            assert_eq!(crate::error::exit_code(&e), 2);
        }
    }
}
