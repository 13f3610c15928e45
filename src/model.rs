//! A model in GGUF's terms, wherever it comes from: a GGUF file as it is, or a Hugging Face folder through its family's
//! rules ([`crate::arch`]), in its own precision.
//!
//! Converter, verifier and engine all read models through this one view, so that they cannot disagree about a name, a
//! shape or a permutation.

mod edit;
mod hadamard;
mod part;
mod resolve;
mod rotation;
mod site;

pub use edit::{Axis, Change as EditChange, Edit, RowChange};
pub use hadamard::Hadamard;
pub use rotation::Rotation;
pub use site::{Site, everywhere};

use crate::arch::{Architecture, Keys, Plan};
use crate::error::{caller, malformed};
use crate::{general, hub};
use anyhow::Result;
use part::{Change, Part};
use qconv_formats::block::{self, BlockFormat};
use qconv_formats::checkpoint::Checkpoint;
use qconv_formats::gguf::{Gguf, Metadata};
use qconv_formats::{QTensor, Shape};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model in GGUF's terms.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    origin: Origin,
    architecture: Option<&'static Architecture>,
    metadata: Metadata,
    tensors: Vec<ModelTensor>,
    tokenizer_problem: Option<String>,
}

/// Where a model comes from.
#[derive(Debug)]
pub enum Origin {
    /// A GGUF file, or a set of them.
    Gguf(Gguf),
    /// A Hugging Face folder.
    Checkpoint(Checkpoint),
}

/// A tensor in GGUF's terms.
#[derive(Debug)]
pub struct ModelTensor {
    /// GGUF name.
    pub name: String,
    /// Logical shape.
    pub shape: Shape,
    /// Precision in which the model holds it: a GGUF file's own type; for a checkpoint the stored type of matrices and
    /// F32 for what GGUF always keeps in F32 (vectors, norms, learned positions, routers).
    pub format: &'static BlockFormat,
    /// Bytes in the source that it is read from.
    pub source_bytes: usize,
    source: Arc<Source>,
    edits: edit::Edits,
}

#[derive(Debug)]
enum Source {
    /// Index in the GGUF file's table.
    Gguf(usize),
    /// One matrix, or the experts of a stack, in order.
    Stored { parts: Vec<Part>, change: Change },
    /// Computed from the configuration.
    Computed(Vec<f32>),
    /// Put in place of what the source has.
    Replaced(Vec<f32>),
}

impl ModelTensor {
    /// Whether a library quantized it in the checkpoint, so that its weights are computed.
    pub fn is_packed(&self) -> bool {
        matches!(&*self.source, Source::Stored { parts, .. } if parts.iter().any(|p| matches!(p, Part::Packed(_))))
    }

    /// Bytes in the precision in which the model holds it.
    pub fn stored_bytes(&self) -> u64 {
        self.format.row_bytes(self.shape.cols()).unwrap_or(0) as u64 * self.shape.rows() as u64
    }
}

impl Model {
    /// Opens a GGUF file or a Hugging Face folder. What is unusual but survivable is told in `warnings`, one sentence each.
    ///
    /// Errors: no such path, unknown class, a required tensor missing, a shape that the rules do not fit, a type that is
    /// not F32, F16 or BF16. A tokenizer that cannot be read is no error here; see [`Model::require_tokenizer`].
    pub fn open(path: &Path, warnings: &mut Vec<String>) -> Result<Model> {
        let path = &*hub::locate(path)?;
        let meta = std::fs::metadata(path).map_err(qconv_formats::Error::io(path))?;
        if meta.is_dir() {
            return resolve::from_checkpoint(Checkpoint::open(path)?, warnings);
        }
        if path.extension().is_some_and(|e| e == "safetensors") {
            return Err(caller(format!(
                "{}: a single safetensors file has no configuration and no tokenizer; give the folder that holds it",
                path.display()
            )));
        }
        let gguf = Gguf::open(path)?;
        let architecture = gguf.metadata().str("general.architecture").and_then(Architecture::by_name);
        let tensors = gguf.tensors().iter().enumerate().map(|(i, t)| ModelTensor {
            name: t.name.clone(),
            shape: t.shape.clone(),
            format: t.format,
            source_bytes: t.range.len(),
            source: Arc::new(Source::Gguf(i)),
            edits: edit::Edits::default(),
        });
        let tensors = tensors.collect();
        let metadata = gguf.metadata().clone();
        Ok(Model {
            path: path.to_owned(),
            origin: Origin::Gguf(gguf),
            architecture,
            metadata,
            tensors,
            tokenizer_problem: None,
        })
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its family, if qconv knows it. Always known for checkpoints.
    pub fn architecture(&self) -> Option<&'static Architecture> {
        self.architecture
    }

    /// Keys and values: the file's own, or the family's hyper-parameters and the tokenizer.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors.
    pub fn tensors(&self) -> &[ModelTensor] {
        &self.tensors
    }

    /// The matrices of the layers, which are most of what a token meets.
    pub fn layer_matrices(&self) -> impl Iterator<Item = &ModelTensor> {
        self.tensors.iter().filter(|t| t.name.starts_with("blk.") && t.shape.dims().len() >= 2)
    }

    /// A tensor by GGUF name.
    pub fn tensor(&self, name: &str) -> Option<&ModelTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().filter(|t| !matches!(*t.source, Source::Computed(_))).map(|t| t.shape.len() as u64).sum()
    }

    /// Bytes of all tensors as they are stored.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(ModelTensor::stored_bytes).sum()
    }

    /// The name people know it by: `general.name`, else the folder or file.
    pub fn name(&self) -> String {
        let unnamed = || match self.origin {
            Origin::Checkpoint(_) => general::folder_name(&self.path).ok(), // what is behind a dot belongs to it
            Origin::Gguf(_) => self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
        };
        self.metadata.str("general.name").map(str::to_owned).or_else(unnamed).unwrap_or_else(|| "model".into())
    }

    /// An error that says why there is no tokenizer, if there is none.
    pub fn require_tokenizer(&self) -> Result<()> {
        match &self.tokenizer_problem {
            Some(problem) => Err(anyhow::anyhow!(problem.clone())), // it names the file
            None if self.metadata.str("tokenizer.ggml.model").is_none() => {
                Err(malformed(&self.path, "key tokenizer.ggml.model", "is missing: the file has no tokenizer"))
            }
            None => Ok(()),
        }
    }

    /// How its forward pass runs. Errors: an unknown family, missing or impossible hyper-parameters.
    pub fn plan(&self) -> Result<Plan> {
        let arch = self.architecture.ok_or_else(|| {
            let known: Vec<&str> = crate::arch::ALL.iter().map(|a| a.name).collect();
            let name = self.metadata.str("general.architecture").unwrap_or("(none)");
            malformed(
                &self.path,
                "key general.architecture",
                format!("is {name:?}, which qconv cannot run; it runs {}", known.join(", ")),
            )
        })?;
        (arch.plan)(&Keys { arch: arch.name, metadata: &self.metadata, file: &self.path })
    }

    /// Puts other weights in place of a tensor's: `(rows, cols)`, held in F32 from now on.
    ///
    /// # Panics
    /// If there is no such tensor, or it has another number of weights.
    pub fn replace(&mut self, name: &str, weights: Vec<f32>) {
        let tensor = self.tensors.iter_mut().find(|t| t.name == name).expect("the caller took it from here");
        assert_eq!(weights.len(), tensor.shape.len(), "{name}");
        tensor.source = Arc::new(Source::Replaced(weights));
        tensor.edits = edit::Edits::default();
        tensor.format = &block::F32;
    }

    /// A tensor in packed form. Shares the mapped file's bytes unless a fix-up has to change them.
    pub fn packed(&self, tensor: &ModelTensor) -> Result<QTensor> {
        match (&*tensor.source, &self.origin) {
            _ if tensor.is_edited() => {}
            (Source::Gguf(i), Origin::Gguf(gguf)) => return Ok(gguf.packed(&gguf.tensors()[*i])?),
            (Source::Stored { parts, change: Change::None }, _) if parts.len() == 1 => {
                if let Some(bytes) = parts[0].shared(tensor.format) {
                    return Ok(QTensor::new(tensor.format, tensor.shape.clone(), bytes)?);
                }
            }
            _ => {}
        }
        let (rows, cols) = (tensor.shape.rows(), tensor.shape.cols());
        let (row_bytes, quantize) = match (tensor.format.row_bytes(cols), tensor.format.quantize) {
            (Some(n), Some(q)) => (n, q),
            _ => return Err(caller(format!("tensor {}: cannot be held as {}", tensor.name, tensor.format.name))),
        };
        let mut bytes = vec![0u8; row_bytes * rows];
        let step = (1usize << 16).div_ceil(cols);
        let mut floats = vec![0f32; step * cols];
        for first in (0..rows).step_by(step) {
            let n = step.min(rows - first);
            self.rows(tensor, first, &mut floats[..n * cols])?;
            for (row, out) in floats[..n * cols].chunks(cols).zip(bytes[first * row_bytes..].chunks_mut(row_bytes)) {
                quantize(row, None, out);
            }
        }
        tensor.edits.forget_rows(rows, rows);
        Ok(QTensor::new(tensor.format, tensor.shape.clone(), bytes)?)
    }

    /// Reads rows as floats, from row `first` (counted over all outer dimensions) on; `out` holds a whole number of rows.
    /// Panics if they are not inside the tensor.
    pub fn rows(&self, tensor: &ModelTensor, first: usize, out: &mut [f32]) -> Result<()> {
        let cols = tensor.shape.cols();
        let n = out.len() / cols;
        assert!(out.len().is_multiple_of(cols) && first + n <= tensor.shape.rows(), "rows outside {}", tensor.name);
        if tensor.is_edited() { self.edited_rows(tensor, first, out) } else { self.source_rows(tensor, first, out) }
    }

    /// Rows as the source has them.
    fn source_rows(&self, tensor: &ModelTensor, first: usize, out: &mut [f32]) -> Result<()> {
        let cols = tensor.shape.cols();
        let n = out.len() / cols;
        match (&*tensor.source, &self.origin) {
            (Source::Gguf(i), Origin::Gguf(gguf)) => {
                let info = &gguf.tensors()[*i];
                let dequantize = decoder(info.format, &self.path, &tensor.name)?;
                let row_bytes = info.range.len() / tensor.shape.rows();
                dequantize(&gguf.bytes(info)[first * row_bytes..(first + n) * row_bytes], out);
            }
            (Source::Stored { parts, change }, _) => part::rows(&tensor.shape, parts, *change, first, out),
            (Source::Computed(values) | Source::Replaced(values), _) => {
                out.copy_from_slice(&values[first * cols..(first + n) * cols])
            }
            (Source::Gguf(_), Origin::Checkpoint(_)) => unreachable!("GGUF tensors come from GGUF files"),
        }
        Ok(())
    }

    /// Drops the mapped pages of rows that will not be read again. Rows of a transposed matrix are spread over all of
    /// it; its pages go with the last row.
    pub fn forget_rows(&self, tensor: &ModelTensor, rows: std::ops::Range<usize>) {
        let total = tensor.shape.rows();
        tensor.edits.forget_rows(rows.len(), total);
        match (&*tensor.source, &self.origin) {
            (Source::Gguf(i), Origin::Gguf(gguf)) => {
                let info = &gguf.tensors()[*i];
                gguf.forget(info, part::share(&(0..info.range.len()), rows, total));
            }
            (Source::Stored { change: Change::Transpose, .. }, _) if rows.end < total => {}
            (Source::Stored { change: Change::Transpose, .. }, _) => self.forget(tensor),
            (Source::Stored { parts, .. }, _) => {
                let per_part = total / parts.len();
                for (i, part) in parts.iter().enumerate() {
                    let inside = rows.start.max(i * per_part)..rows.end.min((i + 1) * per_part);
                    if !inside.is_empty() {
                        part.forget_rows(inside.start - i * per_part..inside.end - i * per_part, per_part);
                    }
                }
            }
            _ => {}
        }
    }

    /// Drops the mapped pages of a tensor that will not be read again.
    pub fn forget(&self, tensor: &ModelTensor) {
        tensor.edits.forget_rows(tensor.shape.rows(), tensor.shape.rows());
        match (&*tensor.source, &self.origin) {
            (Source::Gguf(i), Origin::Gguf(gguf)) => gguf.forget(&gguf.tensors()[*i], 0..tensor.source_bytes),
            (Source::Stored { parts, .. }, _) => parts.iter().for_each(Part::forget),
            _ => {}
        }
    }
}

fn decoder(format: &'static BlockFormat, path: &Path, name: &str) -> Result<block::DequantizeRow> {
    format
        .dequantize
        .ok_or_else(|| malformed(path, format!("tensor {name}"), format!("is {}, no weights", format.name)))
}
