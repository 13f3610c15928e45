//! Vocabularies: what GGUF keeps of a tokenizer (`tokenizer.ggml.*`), and how it is read from Hugging Face files.

use crate::checkpoint::Checkpoint;
use crate::gguf::Metadata;
use crate::{Error, Result};

/// Reads the tokenizer of a Hugging Face folder and returns the `tokenizer.*` keys in the order in which they are to be written.
///
/// `vocab_size` is the number of embedding rows; missing ids become `[PADn]`. What is unusual but survivable is told in
/// `warnings`, one sentence each.
pub fn from_checkpoint(checkpoint: &Checkpoint, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Metadata> {
    let _ = (vocab_size, warnings);
    Err(Error::malformed(checkpoint.folder(), "tokenizer", "is not read yet"))
}
