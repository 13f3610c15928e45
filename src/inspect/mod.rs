//! What is in a GGUF file, a safetensors file or a Hugging Face folder, without judging it.

mod stats;
mod value;

pub use stats::Stats;
pub use value::{LONG_ARRAY, Shown, escaped};

use crate::{general, hub};
use anyhow::Result;
use qconv_formats::Error;
use qconv_formats::block::BlockFormat;
use qconv_formats::checkpoint::{Checkpoint, SafetensorsFile};
use qconv_formats::gguf::{Gguf, split};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An opened model file or folder.
#[derive(Debug)]
pub struct Subject {
    /// As it was given.
    pub path: PathBuf,
    /// `gguf`, `safetensors` or `huggingface`.
    pub format: &'static str,
    /// A GGUF file's version.
    pub version: Option<u32>,
    /// A GGUF file's alignment.
    pub alignment: Option<usize>,
    /// `general.architecture`, or the class in `config.json`.
    pub architecture: Option<String>,
    /// `general.name`, or the folder's name.
    pub name: Option<String>,
    /// Bytes of the file, or of all safetensors files of the folder.
    pub bytes: u64,
    /// Keys and values, in file order: a GGUF file's metadata, a folder's `config.json`, a safetensors file's notes.
    pub metadata: Vec<(String, Shown)>,
    /// Tensors in file order.
    pub tensors: Vec<Tensor>,
    data: Data,
}

/// A tensor as it is stored.
#[derive(Debug)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Shape, outermost dimension first; empty for scalars.
    pub dims: Vec<usize>,
    /// Name of the type.
    pub kind: String,
    /// The type, where its weights can be read.
    pub block: Option<&'static BlockFormat>,
    /// Bytes of the file.
    pub range: Range<usize>,
    /// The file, where there are several.
    pub file: usize,
}

#[derive(Debug)]
enum Data {
    Gguf(Gguf),
    Files(Vec<SafetensorsFile>),
}

/// The tensors of one type together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub weights: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Subject {
    /// Opens whatever lies at `path`. Errors: neither of the three, or broken.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &*hub::locate(path)?;
        let found = path.metadata().map_err(Error::io(path))?;
        if found.is_dir() {
            return from_folder(path);
        }
        // The reader says why a .gguf file is none.
        if Gguf::is_gguf(path) || path.extension().is_some_and(|e| e == "gguf") {
            let alone = Gguf::open_alone(path)?;
            // A later part of a split model is shown as it is; the first one stands for all.
            let later = split::place(alone.metadata()).is_some_and(|(no, _)| no > 0);
            return Ok(from_gguf(path, if later { alone } else { Gguf::open(path)? }));
        }
        let file = SafetensorsFile::open(path)?;
        Ok(from_safetensors(path, file))
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(Tensor::weights).sum()
    }

    /// Bits of tensor data per weight; 0 without tensors.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.tensors.iter().map(|t| t.range.len() as u64).sum();
        bytes as f64 * 8.0 / self.parameters().max(1) as f64
    }

    /// Totals per type, largest first.
    pub fn types(&self) -> Vec<(&str, Share)> {
        let mut shares: BTreeMap<&str, Share> = BTreeMap::new();
        for t in &self.tensors {
            let share = shares.entry(&t.kind).or_default();
            share.tensors += 1;
            share.weights += t.weights();
            share.bytes += t.range.len() as u64;
        }
        let mut shares: Vec<_> = shares.into_iter().collect();
        shares.sort_by_key(|(_, s)| std::cmp::Reverse(s.bytes));
        shares
    }

    /// Name of the file that a tensor is in.
    pub fn file_name(&self, tensor: &Tensor) -> String {
        let path = match &self.data {
            Data::Gguf(gguf) => gguf.files()[tensor.file].map().path(),
            Data::Files(files) => files[tensor.file].map().path(),
        };
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads a tensor's weights, in parallel; `None` where the type holds no weights that can be read.
    pub fn stats(&self, tensor: &Tensor) -> Option<Stats> {
        let map = match &self.data {
            Data::Gguf(gguf) => gguf.files()[tensor.file].map(),
            Data::Files(files) => files[tensor.file].map(),
        };
        let stats = Stats::of(tensor.block?, &map.bytes()[tensor.range.clone()]);
        map.forget(tensor.range.clone());
        stats
    }
}

impl Tensor {
    /// Number of weights; 1 for scalars, 0 for empty tensors.
    pub fn weights(&self) -> u64 {
        // The readers checked the product.
        self.dims.iter().map(|&d| d as u64).product()
    }
}

impl Share {
    /// Bits per weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }
}

fn from_gguf(path: &Path, gguf: Gguf) -> Subject {
    let tensors = gguf.tensors().iter().map(|t| Tensor {
        name: t.name.clone(),
        dims: t.shape.dims().to_vec(),
        kind: t.format.name.to_owned(),
        block: Some(t.format),
        range: t.range.clone(),
        file: t.file,
    });
    Subject {
        path: path.to_owned(),
        format: "gguf",
        version: Some(gguf.version()),
        alignment: Some(gguf.files()[0].alignment()),
        architecture: gguf.metadata().str("general.architecture").map(str::to_owned),
        name: gguf.metadata().str("general.name").map(str::to_owned),
        bytes: gguf.size(),
        metadata: gguf.metadata().iter().map(|(k, v)| (k.to_owned(), Shown::from_gguf(v))).collect(),
        tensors: tensors.collect(),
        data: Data::Gguf(gguf),
    }
}

fn from_safetensors(path: &Path, file: SafetensorsFile) -> Subject {
    let notes = file.notes().iter().map(|(k, v)| (k.clone(), Shown::from_json(&Json::String(v.clone())))).collect();
    of_files(path, "safetensors", notes, vec![file])
}

fn from_folder(path: &Path) -> Result<Subject> {
    let (config, files) = Checkpoint::open(path)?.into_parts();
    let metadata = config.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), Shown::from_json(v))).collect();
    let mut subject = of_files(path, "huggingface", metadata, files);
    subject.architecture = config["architectures"][0].as_str().map(str::to_owned);
    subject.name = general::folder_name(path).ok();
    Ok(subject)
}

fn of_files(path: &Path, format: &'static str, metadata: Vec<(String, Shown)>, files: Vec<SafetensorsFile>) -> Subject {
    let mut tensors = Vec::new();
    for (i, file) in files.iter().enumerate() {
        for t in file.tensors() {
            let kind = format!("{:?}", t.dtype);
            tensors.push(Tensor {
                name: t.name.clone(),
                dims: t.dims.clone(),
                block: BlockFormat::by_name(&kind),
                kind,
                range: t.range.clone(),
                file: i,
            });
        }
    }
    Subject {
        path: path.to_owned(),
        format,
        version: None,
        alignment: None,
        architecture: None,
        name: None,
        bytes: files.iter().map(|f| f.map().bytes().len() as u64).sum(),
        metadata,
        tensors,
        data: Data::Files(files),
    }
}

#[cfg(test)]
mod tests;
