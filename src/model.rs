//! A model in GGUF's terms, wherever it comes from: a GGUF file as it is, or a Hugging Face folder through its family's
//! rules ([`crate::arch`]), in its own precision.
//!
//! Converter, verifier and engine all read models through this one view, so that they cannot disagree about a name, a
//! shape or a permutation.

use crate::arch::{Architecture, Config, Fix, Keys, Plan, Required};
use crate::error::{caller, malformed};
use anyhow::Result;
use qconv_formats::block::{self, BlockFormat};
use qconv_formats::checkpoint::{Checkpoint, StoredTensor};
use qconv_formats::gguf::{Gguf, Metadata};
use qconv_formats::{Mapped, QTensor, Shape, SharedBytes, vocab};
use std::collections::BTreeSet;
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
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Index in the GGUF file's table.
    Gguf(usize),
    /// One matrix, or the experts of a stack, in order.
    Stored { parts: Vec<Part>, change: Change, dtype: &'static BlockFormat },
    /// Computed from the configuration.
    Computed(Vec<f32>),
}

/// A [`Fix`] with the numbers that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// Rows (or the elements of a vector) of this many heads from half-split to interleaved order.
    RopeHeads(usize),
    Transpose,
    AddOne,
    /// The first (0) or second (1) half of every matrix's rows.
    Half(usize),
}

/// A stored tensor and the file it is in.
#[derive(Debug)]
struct Part {
    map: Arc<Mapped>,
    tensor: StoredTensor,
}

impl ModelTensor {
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
        let meta = std::fs::metadata(path).map_err(qconv_formats::Error::io(path))?;
        if meta.is_dir() {
            return from_checkpoint(Checkpoint::open(path)?, warnings);
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
            source: Source::Gguf(i),
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

    /// A tensor by GGUF name.
    pub fn tensor(&self, name: &str) -> Option<&ModelTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().filter(|t| !matches!(t.source, Source::Computed(_))).map(|t| t.shape.len() as u64).sum()
    }

    /// The name people know it by: `general.name`, else the folder or file.
    pub fn name(&self) -> String {
        let stem = || self.path.canonicalize().ok().and_then(|p| Some(p.file_stem()?.to_string_lossy().into_owned()));
        self.metadata.str("general.name").map(str::to_owned).or_else(stem).unwrap_or_else(|| "model".into())
    }

    /// An error that says why there is no tokenizer, if there is none.
    pub fn require_tokenizer(&self) -> Result<()> {
        match &self.tokenizer_problem {
            Some(problem) => Err(malformed(&self.path, "tokenizer", problem.clone())),
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

    /// A tensor in packed form. Shares the mapped file's bytes unless a fix-up has to change them.
    pub fn packed(&self, tensor: &ModelTensor) -> Result<QTensor> {
        match (&tensor.source, &self.origin) {
            (Source::Gguf(i), Origin::Gguf(gguf)) => return Ok(gguf.packed(&gguf.tensors()[*i])?),
            (Source::Stored { parts, change: Change::None, dtype }, _)
                if parts.len() == 1 && *dtype == tensor.format =>
            {
                let bytes = SharedBytes::new(parts[0].map.clone(), parts[0].tensor.range.clone());
                return Ok(QTensor::new(tensor.format, tensor.shape.clone(), bytes)?);
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
        Ok(QTensor::new(tensor.format, tensor.shape.clone(), bytes)?)
    }

    /// Reads rows as floats, from row `first` (counted over all outer dimensions) on; `out` holds a whole number of rows.
    /// Panics if they are not inside the tensor.
    pub fn rows(&self, tensor: &ModelTensor, first: usize, out: &mut [f32]) -> Result<()> {
        let cols = tensor.shape.cols();
        let n = out.len() / cols;
        assert!(out.len().is_multiple_of(cols) && first + n <= tensor.shape.rows(), "rows outside {}", tensor.name);
        match (&tensor.source, &self.origin) {
            (Source::Gguf(i), Origin::Gguf(gguf)) => {
                let dequantize = decoder(tensor.format, &self.path, &tensor.name)?;
                let info = &gguf.tensors()[*i];
                let row_bytes = info.range.len() / tensor.shape.rows();
                dequantize(&gguf.bytes(info)[first * row_bytes..(first + n) * row_bytes], out);
            }
            (Source::Stored { parts, change, dtype }, _) => stored_rows(tensor, parts, *change, dtype, first, out)?,
            (Source::Computed(values), _) => out.copy_from_slice(&values[first * cols..(first + n) * cols]),
            (Source::Gguf(_), Origin::Checkpoint(_)) => unreachable!("GGUF tensors come from GGUF files"),
        }
        Ok(())
    }

    /// Drops the mapped pages of rows that will not be read again. Rows of a transposed matrix are spread over all of
    /// it; its pages go with the last row.
    pub fn forget_rows(&self, tensor: &ModelTensor, rows: std::ops::Range<usize>) {
        let total = tensor.shape.rows();
        let part_of = |range: &std::ops::Range<usize>, rows: std::ops::Range<usize>, total: usize| {
            let row = range.len() / total;
            range.start + rows.start * row..range.start + rows.end * row
        };
        match (&tensor.source, &self.origin) {
            (Source::Gguf(i), Origin::Gguf(gguf)) => {
                let info = &gguf.tensors()[*i];
                gguf.forget(info, part_of(&(0..info.range.len()), rows, total));
            }
            (Source::Stored { change: Change::Transpose, .. }, _) if rows.end < total => {}
            (Source::Stored { change: Change::Transpose, .. }, _) => self.forget(tensor),
            (Source::Stored { parts, .. }, _) => {
                let per_part = total / parts.len();
                for (i, part) in parts.iter().enumerate() {
                    let inside = rows.start.max(i * per_part)..rows.end.min((i + 1) * per_part);
                    if !inside.is_empty() {
                        let inside = inside.start - i * per_part..inside.end - i * per_part;
                        part.map.forget(part_of(&part.tensor.range, inside, per_part));
                    }
                }
            }
            _ => {}
        }
    }

    /// Drops the mapped pages of a tensor that will not be read again.
    pub fn forget(&self, tensor: &ModelTensor) {
        match (&tensor.source, &self.origin) {
            (Source::Gguf(i), Origin::Gguf(gguf)) => gguf.forget(&gguf.tensors()[*i], 0..tensor.source_bytes),
            (Source::Stored { parts, .. }, _) => parts.iter().for_each(|p| p.map.forget(p.tensor.range.clone())),
            _ => {}
        }
    }
}

fn decoder(format: &'static BlockFormat, path: &Path, name: &str) -> Result<block::DequantizeRow> {
    format
        .dequantize
        .ok_or_else(|| malformed(path, format!("tensor {name}"), format!("is {}, no weights", format.name)))
}

/// Rows of a tensor out of a checkpoint, with its fix-up.
fn stored_rows(
    tensor: &ModelTensor,
    parts: &[Part],
    change: Change,
    dtype: &'static BlockFormat,
    first: usize,
    out: &mut [f32],
) -> Result<()> {
    let cols = tensor.shape.cols();
    let size = dtype.block_bytes;
    let decode = decoder(dtype, parts[0].map.path(), &parts[0].tensor.name)?;
    let read = |part: &Part, element: usize, out: &mut [f32]| {
        let start = part.tensor.range.start + element * size;
        decode(&part.map.bytes()[start..start + out.len() * size], out);
    };
    match change {
        Change::Transpose => {
            // The source is (cols, rows): each of its rows holds one column of ours, contiguous in our row index.
            let rows = tensor.shape.rows();
            let mut column = vec![0f32; out.len() / cols];
            for c in 0..cols {
                read(&parts[0], c * rows + first, &mut column);
                column.iter().enumerate().for_each(|(r, &x)| out[r * cols + c] = x);
            }
        }
        Change::RopeHeads(heads) if tensor.shape.dims().len() == 1 => {
            let mut stored = vec![0f32; cols];
            read(&parts[0], 0, &mut stored);
            out.iter_mut().enumerate().for_each(|(i, x)| *x = stored[interleaved(i, cols / heads)]);
        }
        _ => {
            let rows_per_part = tensor.shape.rows() / parts.len();
            for (r, row) in (first..).zip(out.chunks_mut(cols)) {
                let at = r % rows_per_part;
                let source = match change {
                    Change::RopeHeads(heads) => interleaved(at, tensor.shape.rows() / heads),
                    Change::Half(half) => {
                        let rows = tensor.shape.dims()[tensor.shape.dims().len() - 2];
                        (at / rows) * 2 * rows + half * rows + at % rows
                    }
                    _ => at,
                };
                read(&parts[r / rows_per_part], source * cols, row);
                if change == Change::AddOne {
                    row.iter_mut().for_each(|x| *x += 1.0);
                }
            }
        }
    }
    Ok(())
}

/// Where row `r` of the interleaved RoPE order lies in the half-split order: pairs `(2i, 2i + 1)` of a head come from
/// `(i, i + half)`.
fn interleaved(r: usize, head_dim: usize) -> usize {
    let (head, at) = (r / head_dim, r % head_dim);
    head * head_dim + (at % 2) * (head_dim / 2) + at / 2
}

/// Resolves a family's rules against a checkpoint.
fn from_checkpoint(checkpoint: Checkpoint, warnings: &mut Vec<String>) -> Result<Model> {
    let config = Config::new(&checkpoint);
    let class = config.class()?;
    let arch = Architecture::by_hf_class(class).ok_or_else(|| {
        let known: Vec<&str> = crate::arch::ALL.iter().flat_map(|a| a.hf_classes).copied().collect();
        config.error("architectures", format!("is {class:?}, which qconv does not know; it knows {}", known.join(", ")))
    })?;
    if config.get("quantization_config").is_some() {
        return Err(config.error(
            "quantization_config",
            "says that the weights are already quantized; qconv reads F32, F16 and BF16 checkpoints: take the original model",
        ));
    }
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", arch.name);
    (arch.metadata)(&config, &mut metadata)?;

    let mut resolver =
        Resolver { arch, config: &config, checkpoint: &checkpoint, used: BTreeSet::new(), tensors: Vec::new() };
    resolver.resolve(&metadata, warnings)?;
    let mut tensors = resolver.tensors;
    for (name, values) in (arch.computed)(&config)? {
        let shape = Shape::new(&[values.len()])
            .map_err(|what| malformed(checkpoint.folder(), format!("tensor {name}"), what))?;
        tensors.push(ModelTensor {
            name,
            shape,
            format: &block::F32,
            source_bytes: 0,
            source: Source::Computed(values),
        });
    }
    let embeddings = tensors.iter().find(|t| t.name == "token_embd.weight").map_or(0, |t| t.shape.rows());
    let tokenizer_problem = match vocab::from_checkpoint(&checkpoint, embeddings, warnings) {
        Ok(tokenizer) => {
            tokenizer.iter().for_each(|(k, v)| metadata.set(k, v.clone()));
            None
        }
        Err(e) => Some(e.to_string()),
    };
    let path = checkpoint.folder().to_owned();
    Ok(Model {
        path,
        origin: Origin::Checkpoint(checkpoint),
        architecture: Some(arch),
        metadata,
        tensors,
        tokenizer_problem,
    })
}

/// Finds the stored tensors that a family's rules name.
struct Resolver<'a> {
    arch: &'static Architecture,
    config: &'a Config,
    checkpoint: &'a Checkpoint,
    used: BTreeSet<String>,
    tensors: Vec<ModelTensor>,
}

impl Resolver<'_> {
    fn resolve(&mut self, metadata: &Metadata, warnings: &mut Vec<String>) -> Result<()> {
        let number = |key: &str| metadata.u64(&format!("{}.{key}", self.arch.name)).map(|n| n as usize);
        let layers = self.config.layers()?;
        let heads = number("attention.head_count").unwrap_or(1);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let experts = number("expert_count");
        for rule in self.arch.tensors {
            let blocks = if rule.gguf.contains("{i}") { layers } else { 1 };
            for i in 0..blocks {
                let hf = rule.hf.replace("{i}", &i.to_string());
                let parts = self.find(&hf, experts)?;
                let required = match rule.required {
                    Required::Yes => true,
                    Required::UnlessExperts => experts.is_none(),
                    Required::No => false,
                };
                if parts.is_empty() && required {
                    return Err(malformed(
                        self.checkpoint.folder(),
                        format!("tensor {hf}"),
                        "is missing from the checkpoint",
                    ));
                }
                if parts.is_empty() || (rule.gguf == "output.weight" && self.is_tied(&parts[0], warnings)?) {
                    continue;
                }
                let change = match rule.fix {
                    Fix::None => Change::None,
                    Fix::RopeQuery => Change::RopeHeads(heads),
                    Fix::RopeKey => Change::RopeHeads(kv_heads),
                    Fix::Transpose => Change::Transpose,
                    Fix::AddOne => Change::AddOne,
                    Fix::FirstHalf => Change::Half(0),
                    Fix::SecondHalf => Change::Half(1),
                };
                self.push(rule.gguf.replace("{i}", &i.to_string()), parts, change)?;
            }
        }
        if self.config.get("tie_word_embeddings").and_then(|v| v.as_bool()) == Some(false)
            && self.arch.tensors.iter().any(|r| r.gguf == "output.weight")
            && !self.tensors.iter().any(|t| t.name == "output.weight")
        {
            return Err(malformed(
                self.checkpoint.folder(),
                "tensor lm_head.weight",
                "is missing, and config.json says that it is not tied to the embeddings (tie_word_embeddings is false)",
            ));
        }
        self.report_unused(warnings);
        Ok(())
    }

    /// The stored tensor of a name under any of the family's prefixes, or all experts of a pattern with `{e}`.
    fn find(&mut self, hf: &str, experts: Option<usize>) -> Result<Vec<Part>> {
        if !hf.contains("{e}") {
            return Ok(self.find_one(hf).into_iter().collect());
        }
        let count = experts.unwrap_or(0);
        let parts: Vec<Part> = (0..count).map_while(|e| self.find_one(&hf.replace("{e}", &e.to_string()))).collect();
        if !parts.is_empty() && parts.len() != count {
            let missing = hf.replace("{e}", &parts.len().to_string());
            return Err(malformed(
                self.checkpoint.folder(),
                format!("tensor {missing}"),
                "is missing from the checkpoint",
            ));
        }
        Ok(parts)
    }

    fn find_one(&mut self, hf: &str) -> Option<Part> {
        let rest = hf.strip_prefix(self.arch.prefixes[0]);
        let names = self.arch.prefixes.iter().map(|p| rest.map_or_else(|| hf.to_owned(), |rest| format!("{p}{rest}")));
        for name in names {
            if let Some((file, tensor)) = self.checkpoint.tensor(&name) {
                self.used.insert(name);
                return Some(Part { map: file.map().clone(), tensor: tensor.clone() });
            }
        }
        None
    }

    /// Whether a stored output matrix is only the embeddings again: transformers ties them and ignores the file's.
    fn is_tied(&self, output: &Part, warnings: &mut Vec<String>) -> Result<bool> {
        let tie = self.config.get("tie_word_embeddings").and_then(|v| v.as_bool());
        if tie == Some(false) {
            return Ok(false);
        }
        let Some(ModelTensor { source: Source::Stored { parts, .. }, .. }) =
            self.tensors.iter().find(|t| t.name == "token_embd.weight")
        else {
            return Ok(false);
        };
        let bytes = |p: &Part| p.tensor.range.clone();
        let same = output.map.bytes()[bytes(output)] == parts[0].map.bytes()[bytes(&parts[0])];
        output.map.forget(bytes(output));
        parts[0].map.forget(bytes(&parts[0]));
        if tie == Some(true) && !same {
            warnings.push(
                "lm_head.weight differs from the embeddings although config.json ties them; it is left out, as transformers does".into(),
            );
        }
        Ok(same || tie == Some(true))
    }

    fn push(&mut self, name: String, parts: Vec<Part>, change: Change) -> Result<()> {
        let fail =
            |problem: String| malformed(parts[0].map.path(), format!("tensor {}", parts[0].tensor.name), problem);
        if self.tensors.iter().any(|t| t.name == name) {
            return Err(fail(format!("and another tensor both become {name}")));
        }
        let dtype = float_format(parts[0].tensor.dtype)
            .ok_or_else(|| fail(format!("has the type {:?}; F32, F16 and BF16 are read", parts[0].tensor.dtype)))?;
        let stored = parts[0].tensor.shape.clone().ok_or_else(|| fail("is empty or a scalar".into()))?;
        if let Some(odd) =
            parts.iter().find(|p| p.tensor.shape.as_ref() != Some(&stored) || p.tensor.dtype != parts[0].tensor.dtype)
        {
            let what = format!("is {:?} of {:?}, unlike the first expert", odd.tensor.shape, odd.tensor.dtype);
            return Err(malformed(odd.map.path(), format!("tensor {}", odd.tensor.name), what));
        }
        let mut dims = stored.dims().to_vec();
        let n = dims.len();
        match change {
            Change::Transpose if n == 2 => dims.swap(0, 1),
            Change::Transpose => return Err(fail(format!("has the shape {stored} where a matrix is expected"))),
            Change::Half(_) if n >= 2 && dims[n - 2].is_multiple_of(2) => dims[n - 2] /= 2,
            Change::Half(_) => return Err(fail(format!("has the shape {stored}, which has no two halves"))),
            Change::RopeHeads(heads) if !dims[0].is_multiple_of(2 * heads) || n > 2 => {
                return Err(fail(format!("has the shape {stored}, which is not {heads} heads of an even width")));
            }
            _ => {}
        }
        if parts.len() > 1 {
            dims.insert(0, parts.len());
        }
        let shape = Shape::new(&dims).map_err(&fail)?;
        let always_f32 = dims.len() == 1
            || name.ends_with("_norm.weight")
            || name.ends_with(".ffn_gate_inp.weight")
            || name == "position_embd.weight"
            || !name.ends_with(".weight");
        let source_bytes = parts.iter().map(|p| p.tensor.range.len()).sum();
        let format = if always_f32 { &block::F32 } else { dtype };
        self.tensors.push(ModelTensor {
            name,
            shape,
            format,
            source_bytes,
            source: Source::Stored { parts, change, dtype },
        });
        Ok(())
    }

    fn report_unused(&self, warnings: &mut Vec<String>) {
        let unused: Vec<&str> = self
            .checkpoint
            .names()
            .filter(|n| !self.used.contains(*n) && !self.arch.ignore.iter().any(|end| n.ends_with(end)))
            .collect();
        if !unused.is_empty() {
            const SHOWN: usize = 4;
            let more = if unused.len() > SHOWN { ", ..." } else { "" };
            let list = unused[..unused.len().min(SHOWN)].join(", ");
            let plural = if unused.len() == 1 { "tensor is" } else { "tensors are" };
            warnings.push(format!(
                "{} {plural} unknown to the family {} and left out: {list}{more}",
                unused.len(),
                self.arch.name
            ));
        }
    }
}

/// The block format of a checkpoint's float type.
fn float_format(dtype: safetensors::Dtype) -> Option<&'static BlockFormat> {
    match dtype {
        safetensors::Dtype::F32 => Some(&block::F32),
        safetensors::Dtype::F16 => Some(&block::F16),
        safetensors::Dtype::BF16 => Some(&block::BF16),
        _ => None,
    }
}
