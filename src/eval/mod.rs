//! Judging models: perplexity, and the divergence from an original.

mod divergence;
mod perplexity;
mod recorded;
mod statistics;

pub use divergence::{Divergence, PairStatistics};
pub use perplexity::{Base, Options, Perplexity, perplexity, record, session_options, windows};
pub use recorded::{Recorded, can_record};
pub use statistics::{Estimate, log_softmax};

use crate::tokenizer::{EncodeOptions, Tokenizer};
use qconv_formats::Error;
use std::path::Path;

/// A text file, without the newline at its end if it has one (llama.cpp drops it, and figures are to be the same).
/// Errors: not there, or not UTF-8 (with the offset of the first bad byte).
pub fn read_text(file: &Path) -> anyhow::Result<String> {
    let mut bytes = std::fs::read(file).map_err(Error::io(file))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        crate::error::malformed(file, format!("byte {at}"), "is not UTF-8; convert the text first")
    })
}

/// A text's tokens as a prompt or as something to score: with BOS where the model's texts begin with one, without EOS at the
/// end, and with nothing in the text taken for a control token.
pub fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false });
    if tokenizer.adds_eos() && ids.last() == tokenizer.eos().as_ref() {
        ids.pop();
    }
    ids
}

/// What stands in the place of each window's first token ([`Options::bos`]).
pub fn bos(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.bos().filter(|_| tokenizer.adds_bos())
}
