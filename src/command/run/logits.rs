//! `--tokens FILE --logits OUT`: raw logits for parity checks.

use crate::engine::{Engine, SessionOptions};
use crate::error::{caller, malformed};
use crate::output::{self, OutputFile};
use crate::ui::Ui;
use qconv_formats::Error;
use qconv_kernels::Backend;
use std::path::Path;

/// Most bytes of a file of token ids: far more than any context.
const MOST_BYTES: u64 = 64 << 20;

/// Reads a JSON array of ids.
fn ids(file: &Path) -> anyhow::Result<Vec<u32>> {
    let size = std::fs::metadata(file).map_err(Error::io(file))?.len();
    if size > MOST_BYTES {
        return Err(malformed(file, "token ids", format!("{size} bytes are no list of token ids")));
    }
    let text = std::fs::read(file).map_err(Error::io(file))?;
    let ids: Vec<u32> = serde_json::from_slice(&text)
        .map_err(|e| malformed(file, "token ids", format!("a JSON array of ids is needed: {e}")))?;
    if ids.is_empty() {
        return Err(malformed(file, "token ids", "the array is empty"));
    }
    Ok(ids)
}

/// Computes and writes all rows; the file appears, in the place of an older one, when it is whole.
pub fn write<B: Backend>(
    engine: &Engine<'_, B>,
    model: &Path,
    tokens: &Path,
    out: &Path,
    batch: usize,
    ui: &Ui,
) -> anyhow::Result<()> {
    output::protect(out, &[model, tokens])?;
    let ids = ids(tokens)?;
    let vocabulary = engine.vocabulary();
    let outside = ids.iter().position(|&t| t as usize >= vocabulary);
    if let Some(at) = outside {
        let what = format!("{} is not in the model's vocabulary of {vocabulary} tokens", ids[at]);
        return Err(caller(format!("{}: index {at}: {what}", tokens.display())));
    }
    let mut session = engine.session(SessionOptions { batch, ..SessionOptions::new(ids.len()).all_logits() })?;
    let row = 4 * vocabulary;
    let file = OutputFile::create(out, (ids.len() * row) as u64, true)?;
    let mut bytes = Vec::with_capacity(session.logit_rows() * row);
    let mut at = 0;
    for batch in ids.chunks(session.batch()) {
        session.feed(batch)?;
        for from in (0..batch.len()).step_by(session.logit_rows()) {
            let to = batch.len().min(from + session.logit_rows());
            bytes.clear();
            bytes.extend(session.logits(from..to)?.iter().flat_map(|x| x.to_le_bytes()));
            file.write_at(((at + from) * row) as u64, &bytes)?;
        }
        at += batch.len();
    }
    file.finish()?;
    ui.note(format!("{}: {} x {vocabulary} logits on {}", out.display(), ids.len(), engine.backend().name()));
    Ok(())
}
