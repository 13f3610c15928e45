//! A tokenizer without its model.

use super::Tokenizer;
use crate::hub;
use qconv_formats::gguf::Gguf;
use qconv_formats::vocab;
use std::path::Path;

impl Tokenizer {
    /// Reads the tokenizer of a GGUF file or a Hugging Face folder, which need not hold weights. What is unusual but survivable
    /// is told in `warnings`.
    ///
    /// Errors: those of [`Gguf::open`], [`vocab::from_folder`] and [`Tokenizer::from_metadata`].
    pub fn open(path: &Path, warnings: &mut Vec<String>) -> anyhow::Result<Tokenizer> {
        let path = &*hub::locate(path)?;
        let tokenizer = if path.is_dir() {
            Tokenizer::from_metadata(&vocab::from_folder(path, warnings)?, path)?
        } else {
            Tokenizer::from_metadata(Gguf::open(path)?.metadata(), path)?
        };
        warnings.extend_from_slice(tokenizer.warnings());
        Ok(tokenizer)
    }
}
