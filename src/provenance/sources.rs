//! The files that a model is read from.

use super::{Digest, hex};
use crate::model::{Model, Origin};
use anyhow::Result;
use qconv_formats::Error;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Whatever a Hugging Face folder may have besides weights that has a part in the new file.
const SMALL: &[&str] = &[
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// A source file.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is recorded as: its name, with `#header` where only its header counts.
    pub shown: String,
    /// Bytes of its header, if it holds weights.
    header: Option<usize>,
    /// Only its header is read.
    header_only: bool,
}

/// The files of a model, in the order of their names. `header_only`: of weights, only the headers are to be hashed, since
/// nobody reads all of them.
pub fn files_of(model: &Model, header_only: bool) -> Vec<SourceFile> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let weights = |path: &Path, header: usize| {
        let shown = name(path) + if header_only { "#header" } else { "" };
        SourceFile { path: path.to_owned(), shown, header: Some(header), header_only }
    };
    let mut files = Vec::new();
    match model.origin() {
        Origin::Gguf(gguf) => files.extend(gguf.files().iter().map(|f| weights(f.map().path(), f.data_start()))),
        Origin::Checkpoint(checkpoint) => {
            let small = SMALL.iter().map(|n| checkpoint.folder().join(n)).filter(|p| p.is_file());
            files.extend(small.map(|path| SourceFile { shown: name(&path), path, header: None, header_only: false }));
            for file in checkpoint.files() {
                // Behind the first eight bytes, which are its length, stands the header.
                let header = file.tensors().iter().map(|t| t.range.start).min();
                files.push(weights(file.map().path(), header.unwrap_or(file.map().bytes().len())));
            }
        }
    }
    files.sort_by(|a, b| a.shown.cmp(&b.shown));
    files
}

impl SourceFile {
    /// Only its header is hashed.
    pub fn is_header_only(&self) -> bool {
        self.header_only && self.header.is_some()
    }

    /// The digest that is recorded. An error if `stop` says so in between.
    pub fn hash(&self, stop: &dyn Fn() -> bool) -> Result<Digest> {
        match self.header.filter(|_| self.header_only) {
            Some(header) => hash_start(&self.path, header as u64, stop),
            None => hash_file(&self.path, stop),
        }
    }

    /// What tells this file from others without reading weights: name, size, digest of all or of the header.
    pub(super) fn identity(&self) -> Result<String> {
        let size = self.path.metadata().map_err(Error::io(&self.path))?.len();
        let digest = hash_start(&self.path, self.header.map_or(u64::MAX, |n| n as u64), &|| false)?;
        let name = self.shown.trim_end_matches("#header");
        Ok(format!("{name}\0{size}\0{}\0", hex(&digest)))
    }

    /// Its identity, and where and when it was written: what says that an interrupted run can go on.
    pub fn state(&self) -> Result<String> {
        let meta = self.path.metadata().map_err(Error::io(&self.path))?;
        let changed = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        Ok(format!("{}{}\0{changed:?}\0", self.identity()?, self.path.display()))
    }
}

/// The digest of some bytes.
pub fn hash_bytes(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// The digest of a file's content.
pub fn hash_file(path: &Path, stop: &dyn Fn() -> bool) -> Result<Digest> {
    hash_start(path, u64::MAX, stop)
}

fn hash_start(path: &Path, most: u64, stop: &dyn Fn() -> bool) -> Result<Digest> {
    let mut file = File::open(path).map_err(Error::io(path))?.take(most);
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::Io { file: path.to_owned(), cause: e }.into()),
        }
        anyhow::ensure!(!stop(), "{}: not hashed to its end", path.display());
    }
}
