//! `qconv hash`

use super::Run;
use crate::error::malformed;
use crate::model::{Model, Origin};
use crate::outln;
use crate::provenance::{self, Digest};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::gguf::Gguf;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Arguments of `qconv hash`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv hash model-Q4_K_M.gguf > SHA256SUMS; sha256sum -c SHA256SUMS
  qconv hash model-Q4_K_M.gguf --tensors
  qconv hash model-Q4_K_M.gguf --sources | (cd TinyLlama && sha256sum -c)

Lines are sha256sum's: DIGEST, two spaces, NAME. Of a split model's first part, and of a Hugging Face folder, there is one for
each file. With --tensors NAME is a tensor's, and the digest that of its packed data, without padding. Both are computed anew;
--sources prints what is recorded (NAME#header: only the header of a file with weights was hashed).")]
pub struct Hash {
    /// A GGUF file, or a Hugging Face folder
    file: PathBuf,

    /// The data of each tensor
    #[arg(long, conflicts_with = "sources")]
    tensors: bool,

    /// The files that a GGUF file was made from, as it says itself
    #[arg(long)]
    sources: bool,
}

impl Run for Hash {
    fn run(self, ui: &Ui) -> Result<()> {
        if self.sources {
            let gguf = Gguf::open_alone(&self.file)?;
            let lines = provenance::lines_of(gguf.metadata());
            if lines.is_empty() {
                let what = "is missing: the file does not say what it was made from";
                return Err(malformed(&self.file, "key qconv.source.sha256", what));
            }
            lines.iter().for_each(|line| outln!("{line}"));
            return Ok(());
        }
        if self.tensors {
            return tensors(&self.file, ui);
        }
        let mut warnings = Vec::new();
        let model = Model::open(&self.file, &mut warnings)?;
        let files: Vec<PathBuf> = match model.origin() {
            Origin::Gguf(gguf) => gguf.files().iter().map(|f| f.map().path().to_owned()).collect(),
            Origin::Checkpoint(_) => provenance::files_of(&model, false).into_iter().map(|f| f.path).collect(),
        };
        for path in files {
            outln!("{}", provenance::line(&provenance::hash_file(&path, &|| false)?, &path.display().to_string()));
        }
        Ok(())
    }
}

fn tensors(path: &Path, ui: &Ui) -> Result<()> {
    let gguf = Gguf::open(path)?;
    let bar = ui.bytes_bar(gguf.tensors().iter().map(|t| t.range.len() as u64).sum());
    let digests: Vec<Digest> = gguf
        .tensors()
        .par_iter()
        .map(|t| {
            let digest = Sha256::digest(gguf.bytes(t)).into();
            gguf.forget(t, 0..t.range.len());
            bar.inc(t.range.len() as u64);
            digest
        })
        .collect();
    bar.finish_and_clear();
    for (t, digest) in gguf.tensors().iter().zip(&digests) {
        outln!("{}", provenance::line(digest, &t.name));
    }
    Ok(())
}
