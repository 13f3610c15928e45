//! A tokenizer without its model.

use super::Tokenizer;
use crate::hub;
use qconv_formats::checkpoint::Checkpoint;
use qconv_formats::gguf::Gguf;
use qconv_formats::vocab;
use std::path::Path;

impl Tokenizer {
    /// Reads the tokenizer of a GGUF file or a Hugging Face folder. What is unusual but survivable is told in `warnings`.
    ///
    /// Errors: those of [`Gguf::open`], [`Checkpoint::open`], [`vocab::from_checkpoint`] and [`Tokenizer::from_metadata`].
    pub fn open(path: &Path, warnings: &mut Vec<String>) -> anyhow::Result<Tokenizer> {
        let path = &*hub::locate(path)?;
        let tokenizer = if path.is_dir() {
            let checkpoint = Checkpoint::open(path)?;
            // Only padding ids depend on the number of embeddings, and no text becomes one of those.
            let size = checkpoint.config().get("vocab_size").and_then(|v| v.as_u64()).unwrap_or(0);
            let size = usize::try_from(size).unwrap_or(0);
            let metadata = vocab::from_checkpoint(&checkpoint, size, warnings)?;
            Tokenizer::from_metadata(&metadata, path)?
        } else {
            Tokenizer::from_metadata(Gguf::open(path)?.metadata(), path)?
        };
        warnings.extend_from_slice(tokenizer.warnings());
        Ok(tokenizer)
    }
}
